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
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
	"k8s.io/apiserver/pkg/registry/rest"
	storeerrors "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/warning"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
	"github.com/rutter-project/rutter/apiserver/internal/store"
	"github.com/rutter-project/rutter/apiserver/internal/view"
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
	// Shape is what can be selected by; FieldLabel knows the fields that may be named.
	Shape      *view.Shape
	FieldLabel func(label, value string) (string, string, error)
	// Forms keeps what is made of stored objects.
	Forms *view.Forms
	// New makes an object that can be written as protobuf, in the version served; nil if
	// the kind has no such form.
	New func() Message
	// Table prints objects as their kind's store decodes them; nil if there are no tables.
	Table rest.TableConvertor
	// Columns is comparable and tells what the table prints apart from what it once printed.
	Columns any
	// Retired, if not nil, is closed when watches are to end.
	Retired <-chan struct{}
	// Warnings go with every answer.
	Warnings []string
}

// reads answers GET, LIST and WATCH out of the bytes etcd holds (invariant 5): as JSON
// they are sent as they are, with the resourceVersion in them; metadata is cut from them;
// protobuf and the cells of tables are made of them once for all readers. Selectors and
// pages work on them as well. Whatever reads does not know how to answer it leaves to the
// kinds' handlers, which decode.
type reads struct {
	next    http.Handler
	custom  Custom
	builtIn map[schema.GroupVersion]bool
	plain   map[schema.GroupVersionResource]*plain
}

func newReads(c Config, next http.Handler) *reads {
	r := &reads{next: next, custom: c.Custom, builtIn: map[schema.GroupVersion]bool{}, plain: map[schema.GroupVersionResource]*plain{}}
	for _, v := range c.API.Versions {
		r.builtIn[v.GroupVersion] = true
	}
	for gvr, s := range c.Stored {
		r.plain[gvr] = newPlain(gvr, s)
	}
	return r
}

func newPlain(gvr schema.GroupVersionResource, s Stored) *plain {
	return &plain{gvr: gvr, stored: s, head: []byte(fmt.Sprintf(`{"kind":%q,"apiVersion":%q,`, s.Kind, gvr.GroupVersion()))}
}

// handler serves one request, counted as upstream's handlers are, which can't be used: they
// know only what the ResponseWriter has seen.
func (p *plain) handler(a *ask, verb string) http.HandlerFunc {
	scope := "cluster"
	if p.stored.Namespaced {
		scope = "namespace"
	}
	serve := map[string]func(*ask, http.ResponseWriter, *http.Request){"get": p.get, "list": p.list, "watch": p.watch}[verb]
	return func(w http.ResponseWriter, req *http.Request) {
		received, ok := request.ReceivedTimestampFrom(req.Context())
		if !ok {
			received = time.Now()
		}
		counted := &metrics.ResponseWriterDelegator{ResponseWriter: w}
		serve(a, responsewriter.WrapForHTTP1Or2(counted), req)
		metrics.MonitorRequest(req, strings.ToUpper(verb), p.gvr.Group, p.gvr.Version, p.gvr.Resource, "", scope, metrics.APIServerComponent, false, "",
			counted.Status(), counted.ContentLength()+a.past, time.Since(received))
	}
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
	if req.Method != http.MethodGet {
		return nil
	}
	info, ok := request.RequestInfoFrom(req.Context())
	if !ok || !info.IsResourceRequest || info.Subresource != "" || strings.Contains(info.Path, "/watch/") { // the deprecated form
		return nil
	}
	if record := audit.AuditContextFrom(req.Context()); record.Enabled() && record.GetEventLevel() == auditapi.LevelRequestResponse {
		return nil // the kinds' handlers record what they answer
	}
	gvr := schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource}
	p := r.plain[gvr]
	if p == nil {
		if p = r.findCustom(req, info, gvr); p == nil {
			return nil
		}
	}
	if !p.stored.Namespaced && info.Namespace != "" && info.Resource != "namespaces" || p.stored.Namespaced && info.Namespace == "" && info.Verb == "get" {
		return nil
	}
	a, ok := p.understand(req, info)
	if !ok {
		return nil
	}
	for _, text := range p.stored.Warnings {
		warning.AddWarning(req.Context(), "", text)
	}
	return p.handler(a, info.Verb)
}

// findCustom finds a custom resource, anew for each request: definitions may change at any
// time.
func (r *reads) findCustom(req *http.Request, info *request.RequestInfo, gvr schema.GroupVersionResource) *plain {
	if r.builtIn[gvr.GroupVersion()] || view.PastOf(req.Context()) != nil {
		return nil // in the past, whether objects are in the version served is not known
	}
	stored, ok := r.custom.Plain(info)
	if !ok {
		return nil
	}
	return newPlain(gvr, stored)
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
	return !isPretty(req) && !isWebSocket(req)
}

// isPretty tells that the client is one that people read.
func isPretty(req *http.Request) bool {
	for _, agent := range prettyAgents {
		if strings.HasPrefix(req.UserAgent(), agent) {
			return true
		}
	}
	return strings.Contains(req.URL.RawQuery, "pretty")
}

func isWebSocket(req *http.Request) bool {
	return strings.EqualFold(req.Header.Get("Upgrade"), "websocket")
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

func (p *plain) get(a *ask, w http.ResponseWriter, req *http.Request) {
	info, _ := request.RequestInfoFrom(req.Context())
	item, err := p.stored.Store.Raw(req.Context(), a.key, a.query.Get("resourceVersion"))
	var body []byte
	if err == nil {
		body, err = a.form.object(item)
	}
	if err != nil {
		p.fail(w, req, err, info.Name)
		return
	}
	w.Header().Set("Content-Type", a.form.mediaType(false))
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a client that is gone needs no answer
}

const (
	// revisionRoom is what splicing a resourceVersion adds at most.
	revisionRoom = 48
	// writeSize is how much of a LIST goes to the connection at a time.
	writeSize = 256 << 10
)

func (p *plain) list(a *ask, w http.ResponseWriter, req *http.Request) {
	page, err := p.stored.Store.Select(req.Context(), a.key, a.options, a.selector)
	if err != nil {
		p.fail(w, req, err, "")
		return
	}
	out := answer{w: w, req: req, mediaType: a.form.mediaType(false), plain: a.form.kind(true) == jsonWhole{}.kind(true)}
	err = a.form.list(page, out.write)
	if err != nil && !out.begun {
		p.fail(w, req, err, "")
		return
	}
	out.end(req.Context(), err)
	a.past = out.past
}

func (p *plain) listKind() string {
	if p.stored.ListKind != "" {
		return p.stored.ListKind
	}
	return p.stored.Kind + "List"
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
