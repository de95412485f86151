package serve

import (
	"net/http"
	"slices"
	"strings"

	restful "github.com/emicklei/go-restful/v3"

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
	versions map[string]version
	next     http.Handler // for versions that are not built in
}

// version is one group version: what finds most of its routes fast, and what finds, or
// refuses, all others.
type version struct {
	shapes    map[shape]map[string]restful.Route
	container *restful.Container
}

func newRoutes(api *kinds.API, next http.Handler) *routes {
	r := &routes{versions: map[string]version{}, next: next}
	for _, v := range api.Versions {
		r.versions[v.Path()] = version{shapesOf(v), v.Container}
	}
	return r
}

func shapesOf(v kinds.GroupVersion) map[shape]map[string]restful.Route {
	shapes := map[shape]map[string]restful.Route{}
	for _, route := range v.Service.Routes() {
		path := strings.Trim(strings.TrimPrefix(route.Path, "/"+v.Path()), "/")
		s := shapeOf(split(path))
		if shapes[s] == nil {
			shapes[s] = map[string]restful.Route{}
		}
		shapes[s][route.Method] = route
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
		r.next.ServeHTTP(w, req)
		return
	}
	v, ok := r.versions[strings.Join(segments[:n], "/")]
	if !ok {
		r.next.ServeHTTP(w, req)
		return
	}
	route, ok := v.shapes[shapeOf(segments[n:])][req.Method]
	if !ok || !usual(route, req) {
		v.container.Dispatch(w, req)
		return
	}
	route.Function(restful.NewRequest(req), restful.NewResponse(w))
}

// usual tells that a route takes the request's media types, going by the first that is
// accepted. Otherwise it takes a closer look to tell.
func usual(route restful.Route, req *http.Request) bool {
	if accept := req.Header.Get("Accept"); accept != "" && accept != "*/*" && !slices.Contains(route.Produces, mediaType(accept)) {
		return false
	}
	switch req.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
	default:
		if req.Header.Get("Content-Type") == "" {
			return true
		}
	}
	return slices.Contains(route.Consumes, mediaType(req.Header.Get("Content-Type"))) || slices.Contains(route.Consumes, "*/*")
}

// mediaType is the first one in a header, without parameters.
func mediaType(header string) string {
	if i := strings.IndexAny(header, ",;"); i >= 0 {
		header = header[:i]
	}
	return strings.TrimSpace(header)
}

// notFound answers for what nobody serves, as upstream: below a group that is built in
// with a Status, elsewhere in plain text.
type notFound struct {
	groups map[string]bool
	status *restful.Container // has no route, so that it refuses everything
}

func newNotFound(api *kinds.API) *notFound {
	n := &notFound{groups: map[string]bool{}, status: kinds.Container()}
	for _, v := range api.Versions {
		n.groups[v.Group] = true
	}
	return n
}

func (n *notFound) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	segments := split(strings.Trim(req.URL.Path, "/"))
	switch {
	case len(segments) > 0 && segments[0] == "api", len(segments) > 1 && segments[0] == "apis" && n.groups[segments[1]]:
		n.status.Dispatch(w, req)
	default:
		http.NotFound(w, req)
	}
}

// versionLength is how many segments name the group version: api/v1, apis/apps/v1.
func versionLength(segments []string) int {
	if len(segments) > 0 && segments[0] == "api" {
		return 2
	}
	return 3
}
