package kinds

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	restful "github.com/emicklei/go-restful/v3"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/endpoints"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	utilopenapi "k8s.io/apiserver/pkg/util/openapi"
	openapibuilder "k8s.io/kube-openapi/pkg/builder"
	openapibuilder3 "k8s.io/kube-openapi/pkg/builder3"
	openapicommon "k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/spec3"
	openapiutil "k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	generated "k8s.io/kubernetes/pkg/generated/openapi"
)

// openAPITitle is what upstream's document is called; clients do not care, diffs do.
const openAPITitle = "Kubernetes"

// openAPIVersion is the API's, not the server's.
var openAPIVersion = Version().EmulationMajor + "." + Version().EmulationMinor

func definitions() openapicommon.GetOpenAPIDefinitions {
	return utilopenapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(generated.GetOpenAPIDefinitions)
}

func v3Config() *openapicommon.OpenAPIV3Config {
	namer := apiopenapi.NewDefinitionNamer(legacyscheme.Scheme)
	get := definitions()
	cfg := &openapicommon.OpenAPIV3Config{
		Info:                  &spec.Info{InfoProps: spec.InfoProps{Title: openAPITitle, Version: openAPIVersion}},
		DefaultResponse:       &spec3.Response{ResponseProps: spec3.ResponseProps{Description: "Default Response."}},
		CommonResponses:       map[int]*spec3.Response{http.StatusUnauthorized: {ResponseProps: spec3.ResponseProps{Description: "Unauthorized"}}},
		GetOperationIDAndTags: apiopenapi.GetOperationIDAndTags, //nolint:staticcheck // upstream's server names operations with it
		GetDefinitionName:     namer.GetDefinitionName,
		GetDefinitions:        get,
		SecuritySchemes: spec3.SecuritySchemes{"BearerToken": &spec3.SecurityScheme{SecuritySchemeProps: spec3.SecuritySchemeProps{
			Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication"}}},
	}
	cfg.Definitions = get(func(name string) spec.Ref {
		named, _ := cfg.GetDefinitionName(name)
		return spec.MustCreateRef("#/components/schemas/" + openapicommon.EscapeJsonPointer(named))
	})
	return cfg
}

func v2Config() *openapicommon.Config {
	namer := apiopenapi.NewDefinitionNamer(legacyscheme.Scheme)
	return &openapicommon.Config{
		ProtocolList:          []string{"https"},
		Info:                  &spec.Info{InfoProps: spec.InfoProps{Title: openAPITitle, Version: openAPIVersion}},
		DefaultResponse:       &spec.Response{ResponseProps: spec.ResponseProps{Description: "Default Response."}},
		CommonResponses:       map[int]spec.Response{http.StatusUnauthorized: {ResponseProps: spec.ResponseProps{Description: "Unauthorized"}}},
		GetOperationIDAndTags: apiopenapi.GetOperationIDAndTags, //nolint:staticcheck // upstream's server names operations with it
		GetDefinitionName:     namer.GetDefinitionName,
		GetDefinitions:        definitions(),
		SecurityDefinitions: &spec.SecurityDefinitions{"BearerToken": &spec.SecurityScheme{SecuritySchemeProps: spec.SecuritySchemeProps{
			Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication"}}},
		DefaultSecurity: []map[string][]string{{"BearerToken": {}}},
	}
}

// typeConverter knows the schema of every served kind, for server-side apply.
func typeConverter(cfg *openapicommon.OpenAPIV3Config, all map[schema.GroupVersion]resources) (managedfields.TypeConverter, error) {
	var names []string
	for _, gv := range groupOrder {
		for resource, storage := range all[gv] {
			kind, err := endpoints.GetResourceKind(gv, storage, legacyscheme.Scheme)
			if err != nil {
				return nil, fmt.Errorf("kind of %s: %w", resource, err)
			}
			example, err := legacyscheme.Scheme.New(kind)
			if err != nil {
				return nil, err
			}
			names = append(names, openapiutil.GetCanonicalTypeName(example))
		}
	}
	schemas, err := openapibuilder3.BuildOpenAPIDefinitionsForResources(cfg, names...)
	if err != nil {
		return nil, err
	}
	return managedfields.NewTypeConverter(schemas, false)
}

// OpenAPIV2 describes all versions, and what else is served, in one Swagger document.
func (a *API) OpenAPIV2(services ...*restful.WebService) (*spec.Swagger, error) {
	services = slices.Clone(services)
	for _, v := range a.Versions {
		services = append(services, v.Service)
	}
	return openapibuilder.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(services), v2Config())
}

// OpenAPIV3 describes one version. The builder writes into the definitions that all
// versions share; so one builds at a time, and leaves with copies of what others may
// write into.
func (v GroupVersion) OpenAPIV3() (*spec3.OpenAPI, error) {
	v.building.Lock()
	defer v.building.Unlock()
	doc, err := openapibuilder3.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices([]*restful.WebService{v.Service}), v.openAPI())
	if err != nil {
		return nil, err
	}
	v.keepOwnKinds(doc)
	return doc, nil
}

// OpenAPIV3 describes a service that is of no group version.
func (a *API) OpenAPIV3(service *restful.WebService) (*spec3.OpenAPI, error) {
	v := a.Versions[0]
	v.building.Lock()
	defer v.building.Unlock()
	return openapibuilder3.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices([]*restful.WebService{service}), v.openAPI())
}

// keepOwnKinds makes the document's extensions its own, and removes from shared schemas
// (DeleteOptions and the like) the group versions that other documents describe, but for
// the core's, as upstream does.
func (v GroupVersion) keepOwnKinds(doc *spec3.OpenAPI) {
	if doc.Components == nil {
		return
	}
	for _, s := range doc.Components.Schemas {
		s.Extensions = maps.Clone(s.Extensions)
		kinds, ok := s.Extensions["x-kubernetes-group-version-kind"].([]interface{})
		if !ok {
			continue
		}
		var own []interface{}
		for _, k := range kinds {
			m, ok := k.(map[string]interface{})
			if ok && (m["group"] == v.Group && m["version"] == v.Version || m["group"] == "" && m["version"] == "v1") {
				own = append(own, k)
			}
		}
		if len(own) > 0 {
			s.Extensions["x-kubernetes-group-version-kind"] = own
		}
	}
}

// Path is the version's place below the server root, without the leading slash:
// "api/v1", "apis/apps/v1".
func (v GroupVersion) Path() string {
	return strings.TrimPrefix(v.Root+"/"+v.String(), "/")
}
