package serve

import (
	"net/http"
	"strings"

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

// newOpenAPI serves /openapi/v2 and /openapi/v3. Documents are built when they are
// first asked for: most servers are never asked for most of them.
func newOpenAPI(api *kinds.API) (http.Handler, error) {
	mux := &paths{exact: map[string]http.Handler{}, prefix: map[string]http.Handler{}}
	v2 := handler.NewOpenAPIServiceLazy(cached.Once(cached.Func(func() (*spec.Swagger, string, error) {
		doc, err := api.OpenAPIV2()
		if err != nil {
			return nil, "", err
		}
		doc.Definitions = handler.PruneDefaults(doc.Definitions)
		return doc, kinds.Upstream, nil
	})))
	v2.RegisterOpenAPIVersionedService("/openapi/v2", mux)
	v3 := handler3.NewOpenAPIService()
	if err := v3.RegisterOpenAPIV3VersionedService("/openapi/v3", mux); err != nil {
		return nil, err
	}
	for _, version := range api.Versions {
		v3.UpdateGroupVersionLazy(version.Path(), cached.Once(cached.Func(func() (*spec3.OpenAPI, string, error) {
			doc, err := version.OpenAPIV3()
			return doc, kinds.Upstream + version.Path(), err
		})))
	}
	return mux, nil
}
