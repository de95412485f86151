package serve

import (
	"net/http"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/rutter-project/rutter/apiserver/internal/customresources"
)

// Custom is what serves the objects of CustomResourceDefinitions, which come and go.
type Custom interface {
	// Handler serves custom resources and leaves the rest to next.
	Handler(next http.Handler) http.Handler
	// Plain finds a resource that can be read as the bytes it is stored in.
	Plain(info *request.RequestInfo) (customresources.Plain, bool)
	// Generation is comparable and changes whenever the answers below may.
	Generation() any
	Discovery() []customresources.GroupVersion
	OpenAPIV2(base *spec.Swagger) (doc *spec.Swagger, mark string, err error)
	OpenAPIV3() []customresources.Document
}
