package serve

import (
	"net/http"
	"slices"
	"strings"

	restful "github.com/emicklei/go-restful/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
)

// shape is what decides which handler serves a path of one group version.
type shape struct {
	resource, subresource string
	watch                 bool // the deprecated /watch/ prefix
	namespaced, named     bool
	rest                  bool // something follows the subresource, for proxies
}

// shapeOf reads the segments behind the group version, of a request's path as well as
// of a route's template.
func shapeOf(segments []string) shape {
	var s shape
	if len(segments) > 0 && segments[0] == "watch" {
		s.watch, segments = true, segments[1:]
	}
	if len(segments) > 2 && segments[0] == "namespaces" && !slices.Contains(namespaceSubresources, segments[2]) {
		s.namespaced, segments = true, segments[2:]
	}
	if len(segments) > 0 {
		s.resource = segments[0]
	}
	s.named = len(segments) > 1
	if len(segments) > 2 {
		s.subresource = segments[2]
	}
	s.rest = len(segments) > 3
	return s
}

// namespaceSubresources belong to the Namespace itself, not to something in it.
var namespaceSubresources = []string{"status", "finalize"}

// routes is the dispatch table: methods by shape, shapes by group version path.
type routes struct {
	versions   map[string]map[shape]map[string]restful.RouteFunction
	serializer runtime.NegotiatedSerializer
	next       http.Handler // for versions that are not built in
}

func newRoutes(api *kinds.API, next http.Handler) *routes {
	r := &routes{versions: map[string]map[shape]map[string]restful.RouteFunction{}, serializer: kinds.Codecs(), next: next}
	for _, v := range api.Versions {
		r.versions[v.Path()] = shapesOf(v)
	}
	return r
}

func shapesOf(v kinds.GroupVersion) map[shape]map[string]restful.RouteFunction {
	shapes := map[shape]map[string]restful.RouteFunction{}
	for _, route := range v.Service.Routes() {
		path := strings.Trim(strings.TrimPrefix(route.Path, "/"+v.Path()), "/")
		s := shapeOf(split(path))
		if shapes[s] == nil {
			shapes[s] = map[string]restful.RouteFunction{}
		}
		shapes[s][route.Method] = route.Function
	}
	return shapes
}

func split(path string) []string {
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

// ServeHTTP finds the handler for a path below /api or /apis.
func (r *routes) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	segments := split(strings.Trim(req.URL.Path, "/"))
	n := versionLength(segments)
	if len(segments) < n {
		http.NotFound(w, req)
		return
	}
	shapes, ok := r.versions[strings.Join(segments[:n], "/")]
	if !ok {
		r.next.ServeHTTP(w, req)
		return
	}
	methods, ok := shapes[shapeOf(segments[n:])]
	if !ok {
		http.NotFound(w, req)
		return
	}
	method := req.Method
	if _, ok := methods[method]; !ok && method == http.MethodHead {
		method = http.MethodGet
	}
	handle, ok := methods[method]
	if !ok {
		r.refuseMethod(w, req, segments[:n], shapeOf(segments[n:]).resource)
		return
	}
	handle(restful.NewRequest(req), restful.NewResponse(w))
}

func (r *routes) refuseMethod(w http.ResponseWriter, req *http.Request, version []string, resource string) {
	gv := schema.GroupVersion{Version: version[len(version)-1]}
	if len(version) == 3 {
		gv.Group = version[1]
	}
	err := apierrors.NewMethodNotSupported(schema.GroupResource{Group: gv.Group, Resource: resource}, strings.ToLower(req.Method))
	responsewriters.ErrorNegotiated(err, r.serializer, gv, w, req)
}

// versionLength is how many segments name the group version: api/v1, apis/apps/v1.
func versionLength(segments []string) int {
	if len(segments) > 0 && segments[0] == "api" {
		return 2
	}
	return 3
}
