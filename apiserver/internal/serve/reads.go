package serve

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	auditapi "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/metrics"
	"k8s.io/apiserver/pkg/endpoints/request"
	storeerrors "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/warning"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
	"github.com/rutter-project/rutter/apiserver/internal/store"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas"
)

// Stored is a resource whose stored bytes are what a client asks for in JSON: it is
// kept in the version it is served in, and not sealed.
type Stored struct {
	Store      *store.Store
	Kind       string
	ListKind   string
	Namespaced bool
	// Typed tells that objects in a list say of which kind they are.
	Typed bool
	// Retired, if not nil, is closed when watches are to end.
	Retired <-chan struct{}
	// Warnings go with every answer.
	Warnings []string
}

// reads answers plain JSON GET, LIST and WATCH with the bytes etcd holds, into which
// only the resourceVersion is spliced (invariant 5). Whatever it does not know how to
// answer — tables, other encodings, selectors, pages — it leaves to the kinds'
// handlers, which decode.
type reads struct {
	next    http.Handler
	custom  Custom
	builtIn map[schema.GroupVersion]bool
	stored  map[schema.GroupVersionResource]Stored
	handler map[schema.GroupVersionResource]http.HandlerFunc
}

// listParameters are the query parameters that reads understands.
var listParameters = []string{"resourceVersion", "resourceVersionMatch", "timeoutSeconds", "timeout", "watch", "allowWatchBookmarks", "sendInitialEvents"}

func newReads(c Config, next http.Handler) *reads {
	r := &reads{next: next, custom: c.Custom, builtIn: map[schema.GroupVersion]bool{}, stored: c.Stored, handler: map[schema.GroupVersionResource]http.HandlerFunc{}}
	for _, v := range c.API.Versions {
		r.builtIn[v.GroupVersion] = true
	}
	for gvr, s := range c.Stored {
		p := newPlain(gvr, s)
		for _, verb := range []string{"get", "list", "watch"} {
			r.handler[verbed(gvr, verb)] = p.handler(verb)
		}
	}
	return r
}

func newPlain(gvr schema.GroupVersionResource, s Stored) *plain {
	return &plain{gvr: gvr, stored: s, head: []byte(fmt.Sprintf(`{"kind":%q,"apiVersion":%q,`, s.Kind, gvr.GroupVersion()))}
}

// handler serves one verb, counted.
func (p *plain) handler(verb string) http.HandlerFunc {
	scope := "cluster"
	if p.stored.Namespaced {
		scope = "namespace"
	}
	serve := map[string]http.HandlerFunc{"get": p.get, "list": p.list, "watch": p.watch}[verb]
	return metrics.InstrumentHandlerFunc(strings.ToUpper(verb), p.gvr.Group, p.gvr.Version, p.gvr.Resource, "", scope, "apiserver", false, "", serve)
}

// verbed makes one map key of a resource and a verb.
func verbed(gvr schema.GroupVersionResource, verb string) schema.GroupVersionResource {
	gvr.Resource += "/" + verb
	return gvr
}

func (r *reads) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if handle := r.find(req); handle != nil {
		handle(w, req)
		return
	}
	r.next.ServeHTTP(w, req)
}

// find returns the handler of a request that can be answered with stored bytes.
func (r *reads) find(req *http.Request) http.HandlerFunc {
	if req.Method != http.MethodGet || !wantsPlainJSON(req) {
		return nil
	}
	info, ok := request.RequestInfoFrom(req.Context())
	if !ok || !info.IsResourceRequest || info.Subresource != "" || info.FieldSelector != "" || info.LabelSelector != "" {
		return nil
	}
	if strings.Contains(info.Path, "/watch/") {
		return nil // the deprecated form
	}
	if record := audit.AuditContextFrom(req.Context()); record.Enabled() && record.GetEventLevel() == auditapi.LevelRequestResponse {
		return nil // the kinds' handlers record what they answer
	}
	query := req.URL.Query()
	switch info.Verb {
	case "get":
		if !only(query, "resourceVersion", "timeout") {
			return nil
		}
	case "list", "watch":
		if !only(query, listParameters...) || !simple(query, info.Verb) || info.Name != "" {
			return nil
		}
	default:
		return nil
	}
	gvr := schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource}
	if s, ok := r.stored[gvr]; ok {
		if !s.Namespaced && info.Namespace != "" && info.Resource != "namespaces" || s.Namespaced && info.Namespace == "" && info.Verb == "get" {
			return nil
		}
		return warned(s.Warnings, r.handler[verbed(gvr, info.Verb)])
	}
	return r.findCustom(req, info, gvr)
}

// findCustom finds the handler of a custom resource, which is made for the request:
// definitions may change at any time.
func (r *reads) findCustom(req *http.Request, info *request.RequestInfo, gvr schema.GroupVersionResource) http.HandlerFunc {
	if r.builtIn[gvr.GroupVersion()] || view.PastOf(req.Context()) != nil {
		return nil // in the past, whether objects are in the version served is not known
	}
	stored, ok := r.custom.Plain(info)
	if !ok {
		return nil
	}
	return warned(stored.Warnings, newPlain(gvr, stored).handler(info.Verb))
}

// warned adds warnings to each answer.
func warned(warnings []string, handle http.HandlerFunc) http.HandlerFunc {
	if len(warnings) == 0 {
		return handle
	}
	return func(w http.ResponseWriter, req *http.Request) {
		for _, text := range warnings {
			warning.AddWarning(req.Context(), "", text)
		}
		handle(w, req)
	}
}

// simple tells that the combination of parameters is one of those without fine print:
// upstream's validation deals with the rest.
func simple(query url.Values, verb string) bool {
	match, rv := query.Get("resourceVersionMatch"), query.Get("resourceVersion")
	if rv != "" {
		if n, err := strconv.ParseInt(rv, 10, 64); err != nil || n < 0 {
			return false
		}
	}
	if seconds, set := query["timeoutSeconds"]; set {
		if _, err := strconv.ParseInt(seconds[0], 10, 64); err != nil {
			return false
		}
	}
	for _, b := range []string{"watch", "allowWatchBookmarks", "sendInitialEvents"} {
		if v, set := query[b]; set && v[0] != "true" && v[0] != "1" && v[0] != "" {
			return false
		}
	}
	if verb == "list" {
		return !query.Has("sendInitialEvents") && (match == "" || (match == "NotOlderThan" && rv != ""))
	}
	if query.Has("sendInitialEvents") {
		return match == "NotOlderThan" && query.Has("allowWatchBookmarks")
	}
	return match == ""
}

func only(query url.Values, known ...string) bool {
	for name := range query {
		if !slices.Contains(known, name) {
			return false
		}
	}
	return true
}

// prettyAgents get indented JSON by default, which takes decoding.
var prettyAgents = []string{"curl", "Wget", "Mozilla"}

// wantsPlainJSON tells that nothing but compact JSON was asked for.
func wantsPlainJSON(req *http.Request) bool {
	switch accept := req.Header.Values("Accept"); {
	case len(accept) == 0:
	case len(accept) > 1:
		return false
	default:
		switch accept[0] {
		case "", "*/*", "application/json", "application/json, */*":
		default:
			return false
		}
	}
	for _, agent := range prettyAgents {
		if strings.HasPrefix(req.UserAgent(), agent) {
			return false
		}
	}
	return !strings.EqualFold(req.Header.Get("Upgrade"), "websocket")
}

// plain serves one resource.
type plain struct {
	gvr    schema.GroupVersionResource
	stored Stored
	head   []byte // `{"kind":"Pod","apiVersion":"v1",`, how every stored object begins
}

// keyPrefix is where the objects of the request's scope begin.
func (p *plain) keyPrefix(info *request.RequestInfo) string {
	prefix := p.stored.Store.Prefix()
	if p.stored.Namespaced && info.Namespace != "" {
		prefix += info.Namespace + "/"
	}
	return prefix
}

func (p *plain) fail(w http.ResponseWriter, req *http.Request, err error, name string) {
	gr := p.gvr.GroupResource()
	if name != "" {
		err = storeerrors.InterpretGetError(err, gr, name)
	} else {
		err = storeerrors.InterpretListError(err, gr)
	}
	responsewriters.ErrorNegotiated(err, kinds.Codecs(), p.gvr.GroupVersion(), w, req)
}

func (p *plain) get(w http.ResponseWriter, req *http.Request) {
	info, _ := request.RequestInfoFrom(req.Context())
	item, err := p.stored.Store.Raw(req.Context(), p.keyPrefix(info)+info.Name, req.URL.Query().Get("resourceVersion"))
	if err != nil {
		p.fail(w, req, err, info.Name)
		return
	}
	body := schemas.AppendWithResourceVersion(make([]byte, 0, len(item.Object)+revisionRoom), item.Object, item.Rev)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
	_, _ = w.Write(append(body, '\n')) // a client that is gone needs no answer
}

const (
	// revisionRoom is what splicing a resourceVersion adds at most.
	revisionRoom = 48
	// writeSize is how much of a LIST goes to the connection at a time.
	writeSize = 256 << 10
)

func (p *plain) list(w http.ResponseWriter, req *http.Request) {
	info, _ := request.RequestInfoFrom(req.Context())
	table, err := p.stored.Store.Fresh(req.Context(), req.URL.Query().Get("resourceVersion"))
	if err != nil {
		p.fail(w, req, err, "")
		return
	}
	snap := table.Snapshot()
	w.Header().Set("Content-Type", "application/json")
	buf := make([]byte, 0, writeSize+writeSize/4)
	more := ""
	if p.stored.Typed {
		more = `"continue":"",` // as upstream's lists without a Go type say
	}
	buf = fmt.Appendf(buf, `{"kind":%q,"apiVersion":%q,"metadata":{%s"resourceVersion":"%d"},"items":[`, p.listKind(), p.gvr.GroupVersion(), more, snap.Rev)
	first := true
	snap.Ascend(p.keyPrefix(info), "", func(i *view.Item) bool {
		if !first {
			buf = append(buf, ',')
		}
		first = false
		buf = p.appendItem(buf, i)
		if len(buf) < writeSize {
			return true
		}
		_, err = w.Write(buf)
		buf = buf[:0]
		return err == nil && req.Context().Err() == nil
	})
	if err == nil {
		_, _ = w.Write(append(buf, "]}\n"...)) // a client that is gone needs no answer
	}
}

func (p *plain) listKind() string {
	if p.stored.ListKind != "" {
		return p.stored.ListKind
	}
	return p.stored.Kind + "List"
}

// appendItem appends an object the way it stands in a list: without kind and
// apiVersion, which the list has, unless the kind has no Go type.
func (p *plain) appendItem(dst []byte, i *view.Item) []byte {
	object := i.Object
	if !p.stored.Typed && len(object) > len(p.head) && string(object[:len(p.head)]) == string(p.head) {
		dst = append(dst, '{')
		return spliceTail(dst, object[len(p.head):], i.Rev)
	}
	return schemas.AppendWithResourceVersion(dst, object, i.Rev)
}

const metadataOpen = `"metadata":{`

// spliceTail appends what follows kind and apiVersion, which begins with metadata in
// the stored layout, with the resourceVersion as its first member.
func spliceTail(dst, tail []byte, rev int64) []byte {
	if len(tail) <= len(metadataOpen) || string(tail[:len(metadataOpen)]) != metadataOpen {
		return append(dst, tail...)
	}
	dst = append(dst, metadataOpen+`"resourceVersion":"`...)
	dst = strconv.AppendInt(dst, rev, 10)
	dst = append(dst, '"')
	if rest := tail[len(metadataOpen):]; rest[0] != '}' {
		dst = append(dst, ',')
	}
	return append(dst, tail[len(metadataOpen):]...)
}

// watchTimeout is how long a watch lives: as asked, or a random time from the least on,
// so that clients do not come back all at once.
func watchTimeout(query url.Values, random func() float64) time.Duration {
	if seconds, err := strconv.ParseInt(query.Get("timeoutSeconds"), 10, 64); err == nil && seconds > 0 {
		return time.Duration(seconds) * time.Second
	}
	return time.Duration(float64(leastWatch) * (1 + random()))
}

// leastWatch is kube-apiserver's --min-request-timeout.
const leastWatch = 30 * time.Minute
