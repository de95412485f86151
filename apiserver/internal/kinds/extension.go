package kinds

import (
	"context"
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsinstall "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresourcedefinition"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	apiregistrationinstall "k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
	apiservicestore "k8s.io/kube-aggregator/pkg/registry/apiservice/etcd"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
)

// extended is upstream's scheme with the kinds of upstream's two extension servers.
var extended = func() *runtime.Scheme {
	apiextensionsinstall.Install(legacyscheme.Scheme)
	apiregistrationinstall.Install(legacyscheme.Scheme)
	return legacyscheme.Scheme
}()

func (c Config) apiextensions() (resources, error) {
	definitions, err := customresourcedefinition.NewREST(extended, c.Storage)
	if err != nil {
		return nil, err
	}
	return resources{
		"customresourcedefinitions":        definitions,
		"customresourcedefinitions/status": customresourcedefinition.NewStatusREST(extended, definitions),
	}, nil
}

func (c Config) apiregistration() (resources, error) {
	services := apiservicestore.NewREST(extended, c.Storage)
	return resources{
		"apiservices":        services,
		"apiservices/status": apiservicestore.NewStatusREST(extended, services),
	}, nil
}

// definitionREST refuses a definition of a resource that is built in: both would keep
// their objects under the same keys, and deleting the definition would delete them.
type definitionREST struct {
	*customresourcedefinition.REST
	builtIn map[schema.GroupResource]bool
}

// Create implements rest.Creater.
func (d definitionREST) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	crd, ok := obj.(*apiextensions.CustomResourceDefinition)
	if !ok {
		return nil, fmt.Errorf("create a definition: %T is none", obj)
	}
	gr := schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Spec.Names.Plural}
	if d.builtIn[gr] {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: apiextensions.GroupName, Kind: "CustomResourceDefinition"}, crd.Name,
			field.ErrorList{field.Invalid(field.NewPath("spec", "names", "plural"), crd.Spec.Names.Plural, "this resource is built in; choose another name or group")})
	}
	return d.REST.Create(ctx, obj, validate, options)
}

// guardBuiltIn makes definitions know the built-in resources.
func guardBuiltIn(all map[schema.GroupVersion]resources) {
	builtIn := map[schema.GroupResource]bool{}
	for gv, rs := range all {
		for name := range rs {
			builtIn[schema.GroupResource{Group: gv.Group, Resource: name}] = true
		}
	}
	group := all[apiextensionsv1.SchemeGroupVersion]
	if plain, ok := group["customresourcedefinitions"].(*customresourcedefinition.REST); ok {
		group["customresourcedefinitions"] = definitionREST{REST: plain, builtIn: builtIn}
	}
}
