package serve

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/rutter-project/rutter/schemas"
)

// origin is what a request's HTTP headers say of the one who sent it.
type origin struct {
	agent, manager    string
	trace, traceState string
	cause             []int64
	dry               bool
}

type originKey struct{}

// maxCauses bounds what a client can put into every stored header.
const maxCauses = 64

// maxTraceState is what W3C Trace Context asks everybody to pass on at least.
const maxTraceState = 512

// withOrigin notes the request's origin in its context.
func withOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			next.ServeHTTP(w, r)
			return
		}
		query := r.URL.Query()
		o := origin{
			agent:   r.UserAgent(),
			manager: query.Get("fieldManager"),
			trace:   r.Header.Get("traceparent"),
			cause:   parseCauses(r.Header.Get(schemas.CauseHTTPHeader)),
			dry:     query.Get("dryRun") != "",
		}
		if state := r.Header.Get("tracestate"); o.trace != "" && len(state) <= maxTraceState {
			o.traceState = state
		}
		if o.manager == "" {
			o.manager, _, _ = strings.Cut(o.agent, "/")
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), originKey{}, o)))
	})
}

// parseCauses reads the cause header. A component that sends nonsense loses its
// causes, not its write.
func parseCauses(header string) []int64 {
	if header == "" {
		return nil
	}
	var causes []int64
	for _, field := range strings.Split(header, ",") {
		rev, err := strconv.ParseInt(strings.TrimSpace(field), 10, 64)
		if err == nil && rev > 0 && len(causes) < maxCauses {
			causes = append(causes, rev)
		}
	}
	return causes
}

// Header makes the stored header of a write from the context of its request.
func Header(ctx context.Context) schemas.Header {
	h := schemas.Header{V: schemas.HeaderVersion, Time: time.Now().UTC()}
	if user, ok := request.UserFrom(ctx); ok {
		h.User, h.Groups = user.GetName(), user.GetGroups()
	}
	if info, ok := request.RequestInfoFrom(ctx); ok {
		h.Verb = info.Verb
	}
	if id, ok := audit.AuditIDFrom(ctx); ok {
		h.Request = string(id)
	}
	if o, ok := ctx.Value(originKey{}).(origin); ok {
		h.Agent, h.Manager, h.Trace, h.TraceState, h.Cause, h.Dry = o.agent, o.manager, o.trace, o.traceState, o.cause, o.dry
	}
	return h
}
