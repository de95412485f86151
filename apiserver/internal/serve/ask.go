package serve

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// ask is what a GET, LIST or WATCH wants of a resource, if it can be answered from stored
// bytes.
type ask struct {
	form form
	// key is that of one object, or a prefix of many.
	key      string
	one      bool
	selector view.Selector
	options  storage.ListOptions // of a LIST
	query    url.Values
	past     int // bytes of the answer that the ResponseWriter has not seen
}

var (
	getParameters   = []string{"resourceVersion", "timeout", "includeObject"}
	listParameters  = []string{"resourceVersion", "resourceVersionMatch", "timeoutSeconds", "timeout", "watch", "labelSelector", "fieldSelector", "limit", "continue", "includeObject"}
	watchParameters = []string{"resourceVersion", "resourceVersionMatch", "timeoutSeconds", "timeout", "watch", "labelSelector", "fieldSelector", "limit", "includeObject", "allowWatchBookmarks", "sendInitialEvents"}
)

// understand reads a request. False if there is anything about it that the kinds'
// handlers must deal with, such as a mistake.
func (p *plain) understand(req *http.Request, info *request.RequestInfo) (*ask, bool) {
	a := &ask{query: req.URL.Query(), key: p.keyPrefix(info)}
	f, ok := p.formOf(req, info.Verb, a.query)
	if !ok || info.Namespace != "" && len(content.IsPathSegmentName(info.Namespace)) > 0 {
		return nil, false
	}
	a.form = f
	switch info.Verb {
	case "get":
		a.key, a.one = a.key+info.Name, true
		return a, only(a.query, getParameters...) && len(content.IsPathSegmentName(info.Name)) == 0
	case "list":
		return a, only(a.query, listParameters...) && plainList(a.query) && p.choose(a, info) && a.page()
	case "watch":
		return a, only(a.query, watchParameters...) && plainWatch(a.query) && p.choose(a, info)
	default:
		return nil, false
	}
}

// choose reads the selectors.
func (p *plain) choose(a *ask, info *request.RequestInfo) bool {
	if info.Name != "" {
		if a.query.Get("fieldSelector") == "" {
			return false // one object, by the deprecated way to watch it
		}
		if !p.stored.Namespaced || info.Namespace != "" {
			a.key, a.one = a.key+info.Name, true
		}
	}
	var err error
	if text := a.query.Get("labelSelector"); text != "" {
		if a.selector.Labels, err = labels.Parse(text); err != nil {
			return false
		}
	}
	if text := a.query.Get("fieldSelector"); text != "" {
		if a.selector.Fields, err = fields.ParseSelector(text); err != nil {
			return false
		}
		if a.selector.Fields, err = a.selector.Fields.Transform(p.stored.FieldLabel); err != nil || !p.stored.Shape.Knows(a.selector.Fields) {
			return false
		}
	}
	a.selector.Shape = p.stored.Shape
	return true
}

// page reads which part of a list is wanted.
func (a *ask) page() bool {
	predicate := storage.SelectionPredicate{Label: a.selector.Labels, Field: a.selector.Fields, Continue: a.query.Get("continue")}
	if predicate.Label == nil {
		predicate.Label = labels.Everything()
	}
	if predicate.Field == nil {
		predicate.Field = fields.Everything()
	}
	if text, set := a.query["limit"]; set {
		n, err := strconv.ParseInt(text[0], 10, 64)
		if err != nil || n < 0 {
			return false
		}
		predicate.Limit = n
	}
	a.options = storage.ListOptions{ResourceVersion: a.query.Get("resourceVersion"), ResourceVersionMatch: metav1.ResourceVersionMatch(a.query.Get("resourceVersionMatch")),
		Predicate: predicate, Recursive: !a.one}
	return true
}

// plainList tells that the combination of parameters is one without fine print:
// upstream's validation deals with the rest.
func plainList(query url.Values) bool {
	match, rv := metav1.ResourceVersionMatch(query.Get("resourceVersionMatch")), query.Get("resourceVersion")
	if !plainVersion(rv) || !plainNumber(query, "timeoutSeconds") || !plainBools(query, "watch") {
		return false
	}
	if query.Get("continue") != "" {
		return rv == "" && match == ""
	}
	switch match {
	case "":
		return true
	case metav1.ResourceVersionMatchNotOlderThan:
		return rv != ""
	case metav1.ResourceVersionMatchExact:
		return rv != "" && rv != "0"
	default:
		return false
	}
}

// plainWatch is the same for a WATCH.
func plainWatch(query url.Values) bool {
	match := query.Get("resourceVersionMatch")
	if !plainVersion(query.Get("resourceVersion")) || !plainNumber(query, "timeoutSeconds") || !plainNumber(query, "limit") ||
		!plainBools(query, "watch", "allowWatchBookmarks", "sendInitialEvents") {
		return false
	}
	if query.Has("sendInitialEvents") {
		return match == "NotOlderThan" && query.Has("allowWatchBookmarks")
	}
	return match == ""
}

// plainNumber tells that a parameter is a number, if it is there.
func plainNumber(query url.Values, name string) bool {
	text, set := query[name]
	if !set {
		return true
	}
	_, err := strconv.ParseInt(text[0], 10, 64)
	return err == nil
}

func plainVersion(rv string) bool {
	if rv == "" {
		return true
	}
	n, err := strconv.ParseInt(rv, 10, 64)
	return err == nil && n >= 0
}

func plainBools(query url.Values, names ...string) bool {
	for _, name := range names {
		if v, set := query[name]; set && v[0] != "true" && v[0] != "1" && v[0] != "" {
			return false
		}
	}
	return true
}

// formOf negotiates as the kinds' handlers do.
func (p *plain) formOf(req *http.Request, verb string, query url.Values) (form, bool) {
	if wantsPlainJSON(req) {
		return inJSON{jsonWhole{p}}, !query.Has("includeObject")
	}
	switch mediaType(req.Header.Get("Accept")) {
	case jsonType, protobufType, "*/*":
	default:
		return nil, false // routes know which of the rest upstream takes
	}
	media, ok := negotiation.NegotiateMediaTypeOptions(req.Header.Get("Accept"), kinds.Codecs().SupportedMediaTypes(), p)
	if !ok || isPretty(req) || media.Pretty || isWebSocket(req) {
		return nil, false
	}
	return p.negotiated(req.Context(), media, verb, query)
}

func (p *plain) negotiated(ctx context.Context, media negotiation.MediaTypeOptions, verb string, query url.Values) (form, bool) {
	as, encoding := media.Convert, media.Accepted.MediaType
	switch {
	case as != nil && as.GroupVersion() != metav1.SchemeGroupVersion:
		return nil, false
	case as != nil && as.Kind == "Table" && encoding == jsonType:
		return p.table(ctx, verb, query)
	case query.Has("includeObject"):
		return nil, false
	case as == nil && encoding == jsonType:
		return inJSON{jsonWhole{p}}, true
	case as == nil && encoding == protobufType && p.stored.New != nil:
		return protobuf{protoWhole{p}}, true
	case as != nil && as.Kind == partialKind(verb) && encoding == jsonType:
		return inJSON{jsonMetadata{}}, true
	case as != nil && as.Kind == partialKind(verb) && encoding == protobufType:
		return protobuf{protoMetadata{p}}, true
	default:
		return nil, false
	}
}

const (
	jsonType     = "application/json"
	protobufType = "application/vnd.kubernetes.protobuf"
	partialOne   = "PartialObjectMetadata"
	partialMany  = "PartialObjectMetadataList"
)

func partialKind(verb string) string {
	if verb == "list" {
		return partialMany
	}
	return partialOne
}

var _ negotiation.EndpointRestrictions = (*plain)(nil)

// AllowsMediaTypeTransform implements negotiation.EndpointRestrictions, with the answers
// of the scopes of the kinds' handlers.
func (p *plain) AllowsMediaTypeTransform(_, subtype string, as *schema.GroupVersionKind) bool {
	if as == nil {
		return !p.stored.Typed || subtype != "vnd.kubernetes.protobuf"
	}
	if as.Group != metav1.GroupName || as.Version != "v1" && as.Version != "v1beta1" {
		return false
	}
	switch as.Kind {
	case "Table":
		return subtype == "json" || subtype == "yaml"
	case partialOne, partialMany:
		return true
	default:
		return false
	}
}

// AllowsServerVersion implements negotiation.EndpointRestrictions.
func (p *plain) AllowsServerVersion(version string) bool { return version == "v1" }

// AllowsStreamSchema implements negotiation.EndpointRestrictions.
func (p *plain) AllowsStreamSchema(s string) bool { return s == "watch" }
