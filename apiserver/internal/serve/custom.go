package serve

import (
	"net/http"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
)

// Custom is what serves kinds that are not built in, which come and go.
type Custom interface {
	// Handler serves custom resources and leaves the rest to next.
	Handler(next http.Handler) http.Handler
	// Plain finds a resource that can be read as the bytes it is stored in.
	Plain(info *request.RequestInfo) (Stored, bool)
	// Generation is comparable and changes whenever the answers below may.
	Generation() any
	Discovery() []Announced
	// OpenAPIV2 adds to a document, which it does not change, and tells a mark that
	// changes with the additions.
	OpenAPIV2(base *spec.Swagger) (doc *spec.Swagger, mark string, err error)
	// OpenAPIV3 lists documents; of two with one path the later counts.
	OpenAPIV3() []kinds.Document
}

// Announced is a group version in discovery.
type Announced struct {
	schema.GroupVersion
	Resources                      []apidiscovery.APIResourceDiscovery
	GroupPriority, VersionPriority int
	// Stale tells that the resources may have changed since they were known.
	Stale bool
	// Plain answers for the version itself, unless the front does.
	Plain []metav1.APIResource
}
