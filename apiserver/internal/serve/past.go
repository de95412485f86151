package serve

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/rutter-project/rutter/apiserver/internal/history"
	"github.com/rutter-project/rutter/apiserver/internal/kinds"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/bus"
)

// Headers of every answer from the past: which revision it is of, and the instant.
const (
	HeaderPastRevision = "Rutter-Instant-Revision"
	HeaderPastTime     = "Rutter-Instant-Time"
)

// pastPrefix stands in front of the instant and the path that is read as of then.
const pastPrefix = "/at/"

// visit is a request to the past.
type visit struct {
	text, speed string // the instant or span, and the speed, as asked for
	live        string // the path at which the present is, empty if there is none
}

type visitKey struct{}

func visitOf(ctx context.Context) *visit {
	v, _ := ctx.Value(visitKey{}).(*visit)
	return v
}

// withVisit takes the instant off the path, so that all that follows serves the rest of
// it like any other path, and notes it in the context.
func (c Config) withVisit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.EscapedPath(), pastPrefix)
		if !ok {
			if c.Ended != "" && pastPath(r.URL.Path) {
				r = r.WithContext(context.WithValue(r.Context(), visitKey{}, &visit{text: c.Ended}))
			}
			next.ServeHTTP(w, r)
			return
		}
		escaped, raw, _ := strings.Cut(rest, "/")
		text, textErr := url.PathUnescape(escaped)
		path, pathErr := url.PathUnescape(raw)
		if textErr != nil || pathErr != nil {
			next.ServeHTTP(w, r) // nobody knows such a path
			return
		}
		stripped := *r.URL
		stripped.Path, stripped.RawPath = "/"+path, ""
		if r.URL.RawPath != "" {
			stripped.RawPath = "/" + raw
		}
		v := &visit{text: text, live: stripped.Path}
		if c.Ended != "" {
			v.live = ""
		}
		if query := stripped.Query(); query.Has("speed") {
			v.speed = query.Get("speed")
			query.Del("speed")
			stripped.RawQuery = query.Encode()
		}
		r = r.WithContext(context.WithValue(r.Context(), visitKey{}, v))
		r.URL = &stripped
		next.ServeHTTP(w, r)
	})
}

// AnnotationInstant of an audit record says which past was read: the record's URI is that
// of the present.
const AnnotationInstant = "history.rutter.dev/instant"

// withInstantRecorded notes the instant in the request's audit record.
func withInstantRecorded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v := visitOf(r.Context()); v != nil {
			audit.AddAuditAnnotation(r.Context(), AnnotationInstant, v.text)
		}
		next.ServeHTTP(w, r)
	})
}

// withReadOnly refuses what can't be done to the past. It comes before authorization:
// nobody may do it.
func withReadOnly(next http.Handler, calls calls) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := visitOf(r.Context())
		info, ok := request.RequestInfoFrom(r.Context())
		if v == nil || (ok && (readable(info, r.Method) || calls.tried(info, r.URL.Query()))) {
			next.ServeHTTP(w, r)
			return
		}
		refuse(w, r, notInThePast(v, info))
	})
}

// pastSubresources are parts of an object that the log has.
var pastSubresources = []string{"", "status", "scale", "ephemeralcontainers", "resize", "approval", "finalize"}

// selfReviews ask about the one who asks; they write nothing.
var selfReviews = []schema.GroupResource{
	{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
	{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"},
	{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"},
}

// pastPaths may be read beside resources.
var pastPaths = []string{"", "api", "apis", "openapi", "version"}

// pastPath reports that a path may be read of the past, as far as its beginning tells.
func pastPath(path string) bool {
	root, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return slices.Contains(pastPaths, root)
}

// readable tells what can be asked of the past.
func readable(info *request.RequestInfo, method string) bool {
	if !info.IsResourceRequest {
		return (method == http.MethodGet || method == http.MethodHead) && pastPath(info.Path)
	}
	switch info.Verb {
	case "get", "list", "watch":
		return slices.Contains(pastSubresources, info.Subresource) && info.Resource != "componentstatuses"
	case "create":
		return slices.Contains(selfReviews, schema.GroupResource{Group: info.APIGroup, Resource: info.Resource})
	default:
		return false
	}
}

// notInThePast says what was refused, when, and where the present is.
func notInThePast(v *visit, info *request.RequestInfo) error {
	what := "this request"
	switch {
	case info == nil:
	case !info.IsResourceRequest:
		what = fmt.Sprintf("%s %s", info.Verb, info.Path)
	default:
		what = info.Verb + " " + info.Resource
		if info.Subresource != "" {
			what += "/" + info.Subresource
		}
		if info.Name != "" {
			what += fmt.Sprintf(" %q", info.Name)
		}
		if info.Namespace != "" {
			what += fmt.Sprintf(" in namespace %q", info.Namespace)
		}
	}
	causes := []metav1.StatusCause{{Type: "Instant", Message: v.text}}
	where := "this is a recording"
	if v.live != "" {
		where = "the present is at " + v.live
		causes = append(causes, metav1.StatusCause{Type: "LivePath", Message: v.live})
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
		Message: fmt.Sprintf("%s is refused: this is the past at instant %q, which can only be read; %s", what, v.text, where),
		Details: &metav1.StatusDetails{Causes: causes},
	}}
}

// withPast opens the past that a request asks for. It comes after authorization, which
// is today's: a state costs work.
func (c Config) withPast(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := visitOf(r.Context())
		if v == nil {
			next.ServeHTTP(w, r)
			return
		}
		reader, err := c.open(r.Context(), v)
		if info, ok := request.RequestInfoFrom(r.Context()); err != nil && ok && !info.IsResourceRequest {
			// Clients do not show why discovery failed. They get the present's, and the
			// reason with the first resource they ask for.
			next.ServeHTTP(w, r)
			return
		}
		if err != nil {
			refuse(w, r, pastError(err))
			return
		}
		writeInstant(w, reader)
		next.ServeHTTP(w, r.WithContext(view.WithPast(r.Context(), reader)))
	})
}

// writeInstant says which past an answer is of.
func writeInstant(w http.ResponseWriter, r *view.Reader) {
	w.Header().Set(HeaderPastRevision, strconv.FormatInt(r.Rev, 10))
	w.Header().Set(HeaderPastTime, r.At.UTC().Format(time.RFC3339Nano))
}

func (c Config) open(ctx context.Context, v *visit) (*view.Reader, error) {
	if c.History == nil {
		return nil, errNoHistory
	}
	span, err := history.ParseSpan(v.text, c.History.Now())
	if err != nil {
		return nil, err
	}
	if v.speed != "" {
		if span.To == nil {
			return nil, apierrors.NewBadRequest(`parameter "speed" is for a span, /at/<from>..<to>/`)
		}
		if span.Speed, err = history.ParseSpeed(v.speed); err != nil {
			return nil, err
		}
	}
	return c.History.Open(ctx, span)
}

var errNoHistory = errors.New("this server keeps no history: it has no event bus")

// pastError is the Status of a refused instant.
func pastError(err error) error {
	var refused *history.Error
	if !errors.As(err, &refused) {
		if errors.Is(err, errNoHistory) || errors.Is(err, bus.ErrDamaged) {
			return apierrors.NewServiceUnavailable(err.Error())
		}
		return err
	}
	status := metav1.Status{Status: metav1.StatusFailure, Message: refused.Error(), Details: &metav1.StatusDetails{Causes: causesOf(refused)}}
	switch refused.Kind {
	case history.Expired, history.InGap:
		status.Code, status.Reason = http.StatusGone, metav1.StatusReasonExpired
	case history.Unavailable:
		status.Code, status.Reason = http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable
	default:
		status.Code, status.Reason = http.StatusBadRequest, metav1.StatusReasonBadRequest
	}
	return &apierrors.StatusError{ErrStatus: status}
}

// causesOf names for programs what the message says.
func causesOf(e *history.Error) []metav1.StatusCause {
	causes := []metav1.StatusCause{{Type: "Instant", Message: e.Instant}}
	add := func(kind metav1.CauseType, i history.Instant) {
		causes = append(causes, metav1.StatusCause{Type: kind, Message: i.String()})
	}
	if e.Newest.Rev != 0 {
		add("OldestInstant", e.Oldest)
		add("NewestInstant", e.Newest)
	}
	if e.Gap != nil {
		add("GapFrom", e.Gap.From)
		add("GapTo", e.Gap.To)
	}
	return causes
}

// refuse answers with a Status in the form that the client asked for.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	responsewriters.ErrorNegotiated(err, kinds.Codecs(), schema.GroupVersion{Version: "v1"}, w, r)
}

// badParameter refuses a query parameter.
func badParameter(query url.Values, name, want string) error {
	return apierrors.NewBadRequest(fmt.Sprintf("parameter %q: %q is not valid; want %s", name, query.Get(name), want))
}
