package serve

import (
	"net/http"
	"strings"
	"sync"

	"k8s.io/kube-openapi/pkg/cached"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
)

// paths is the little mux that kube-openapi's services register with.
type paths struct {
	exact  map[string]http.Handler
	prefix map[string]http.Handler
}

func (p *paths) Handle(path string, h http.Handler)       { p.exact[path] = h }
func (p *paths) HandlePrefix(path string, h http.Handler) { p.prefix[path] = h }

func (p *paths) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h, ok := p.exact[r.URL.Path]; ok {
		h.ServeHTTP(w, r)
		return
	}
	for prefix, h := range p.prefix {
		if strings.HasPrefix(r.URL.Path, prefix) {
			h.ServeHTTP(w, r)
			return
		}
	}
	http.NotFound(w, r)
}

// openAPI serves /openapi/v2 and /openapi/v3. Documents are built when they are first
// asked for: most servers are never asked for most of them.
type openAPI struct {
	custom  Custom
	builtIn func() (*spec.Swagger, error)
	mux     *paths
	v3      *handler3.OpenAPIService

	mu        sync.Mutex
	published map[string]string // paths of custom resources' v3 documents and their marks; guarded by mu
	swagger   swaggerOf         // guarded by mu
}

// swaggerOf is the v2 document of a generation of definitions.
type swaggerOf struct {
	generation any
	document   *spec.Swagger
	mark       string
	err        error
}

func newOpenAPI(c Config, custom Custom) (http.Handler, error) {
	api, others := c.API, append(describedDiscovery(c.API), append(kinds.IssuerDescription(), kinds.VersionService())...)
	o := &openAPI{custom: custom, mux: &paths{exact: map[string]http.Handler{}, prefix: map[string]http.Handler{}},
		v3: handler3.NewOpenAPIService(), published: map[string]string{}}
	o.builtIn = sync.OnceValues(func() (*spec.Swagger, error) {
		doc, err := api.OpenAPIV2(others...)
		if err == nil {
			doc.Definitions = handler.PruneDefaults(doc.Definitions)
		}
		return doc, err
	})
	v2 := handler.NewOpenAPIServiceLazy(cached.Func(o.merged))
	v2.RegisterOpenAPIVersionedService("/openapi/v2", o.mux)
	if err := o.v3.RegisterOpenAPIV3VersionedService("/openapi/v3", o.mux); err != nil {
		return nil, err
	}
	for _, service := range others {
		path := strings.Trim(service.RootPath(), "/")
		o.v3.UpdateGroupVersionLazy(path, cached.Once(cached.Func(func() (*spec3.OpenAPI, string, error) {
			doc, err := api.OpenAPIV3(service)
			return doc, kinds.Upstream + path, err
		})))
		o.published[path] = kinds.Upstream
	}
	for _, version := range api.Versions {
		o.v3.UpdateGroupVersionLazy(version.Path(), cached.Once(cached.Func(func() (*spec3.OpenAPI, string, error) {
			doc, err := version.OpenAPIV3()
			return doc, kinds.Upstream + version.Path(), err
		})))
		o.published[version.Path()] = kinds.Upstream
	}
	return o, nil
}

func (o *openAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if path, ok := strings.CutPrefix(r.URL.Path, "/openapi/v3"); ok && !o.publish(strings.Trim(path, "/")) {
		w.WriteHeader(http.StatusNotFound) // and nothing else, as upstream
		return
	}
	o.mux.ServeHTTP(w, r)
}

// merged is the v2 document of everything served, merged anew when definitions changed.
func (o *openAPI) merged() (*spec.Swagger, string, error) {
	base, err := o.builtIn()
	if err != nil {
		return nil, "", err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if generation := o.custom.Generation(); o.swagger.document == nil || o.swagger.generation != generation {
		o.swagger.generation = generation
		o.swagger.document, o.swagger.mark, o.swagger.err = o.custom.OpenAPIV2(base)
	}
	return o.swagger.document, kinds.Upstream + o.swagger.mark, o.swagger.err
}

// publish makes the v3 documents those of the present definitions, and tells whether
// there is one at a path; the list of all is at none.
func (o *openAPI) publish(asked string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	present := map[string]kinds.Document{}
	for _, d := range o.custom.OpenAPIV3() {
		present[d.Path] = d
	}
	for path, d := range present {
		if mark, ok := o.published[path]; ok && (mark == kinds.Upstream || mark == d.Mark) {
			continue // built in, or not changed
		}
		o.published[path] = d.Mark
		o.v3.UpdateGroupVersionLazy(path, tolerant(d))
	}
	for path, mark := range o.published {
		if _, ok := present[path]; !ok && mark != kinds.Upstream {
			delete(o.published, path)
			o.v3.DeleteGroupVersion(path)
		}
	}
	_, ok := o.published[asked]
	return ok || asked == ""
}

// tolerant builds a document once. While it can't be built it is empty, so that it does
// not take the list of all documents away, and is tried again for the next request.
func tolerant(d kinds.Document) cached.Value[*spec3.OpenAPI] {
	var mu sync.Mutex
	var built *spec3.OpenAPI
	return cached.Func(func() (*spec3.OpenAPI, string, error) {
		mu.Lock()
		defer mu.Unlock()
		if built == nil {
			doc, err := d.Build()
			if err != nil {
				empty := &spec3.OpenAPI{Version: "3.0.0", Info: &spec.Info{InfoProps: spec.InfoProps{Title: openAPITitle, Version: kinds.Upstream}}}
				return empty, d.Mark + " failed", nil //nolint:nilerr // as said above
			}
			built = doc
		}
		return built, d.Mark, nil
	})
}

// openAPITitle is the title of a document that could not be built.
const openAPITitle = "Kubernetes"
