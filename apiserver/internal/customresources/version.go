package customresources

import (
	"strings"

	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/managedfields"
	kubeversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/scale/scheme/autoscalingv1"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// version serves one version of a resource and its subresources.
type version struct {
	storage              customresource.CustomResourceStorage
	opened               storage.Interface
	main, status, scaled *handlers.RequestScope // status and scaled only if the version has them
	warnings             []string
	deprecated           bool
}

func (r *resource) newVersion(spec apiextensions.CustomResourceDefinitionVersion) (*version, error) {
	v := &version{deprecated: spec.Deprecated}
	if spec.Deprecated {
		v.warnings = []string{deprecation(spec, r.crd.Spec)}
	}
	parameters := runtime.NewScheme()
	parameters.AddUnversionedTypes(r.gvk(spec.Name).GroupVersion(), &metav1.ListOptions{}, &metav1.GetOptions{}, &metav1.DeleteOptions{})
	types := newTyper(parameters)
	var err error
	if v.storage, err = r.newStorage(spec, types, &v.opened); err != nil {
		return nil, err
	}
	return v, r.newScopes(v, spec, types, parameters)
}

func (r *resource) newStorage(spec apiextensions.CustomResourceDefinitionVersion, types typer, opened *storage.Interface) (customresource.CustomResourceStorage, error) {
	var none customresource.CustomResourceStorage
	props, err := internalSchema(spec.Schema)
	if err != nil {
		return none, err
	}
	validator, _, err := validation.NewSchemaValidator(props)
	if err != nil {
		return none, err
	}
	var status *internal.CustomResourceSubresourceStatus
	var statusValidator validation.SchemaValidator
	var scaling *internal.CustomResourceSubresourceScale
	if sub := spec.Subresources; sub != nil {
		if sub.Status != nil {
			status = &internal.CustomResourceSubresourceStatus{}
			if statusValidator, err = statusSchema(props); err != nil {
				return none, err
			}
		}
		if s := sub.Scale; s != nil {
			scaling = &internal.CustomResourceSubresourceScale{
				SpecReplicasPath: s.SpecReplicasPath, StatusReplicasPath: s.StatusReplicasPath, LabelSelectorPath: s.LabelSelectorPath}
		}
	}
	table, err := tableconvertor.New(columns(spec))
	if err != nil {
		// Validation has refused such columns since v1; without them objects are listed by name.
		table, err = tableconvertor.New(nil)
	}
	if err != nil {
		return none, err
	}
	kind, names := r.gvk(spec.Name), r.crd.Status.AcceptedNames
	strategy := customresource.NewStrategy(types, r.crd.Spec.Scope == apiextensions.NamespaceScoped, kind,
		validator, statusValidator, r.shape.schemas[spec.Name], status, scaling, spec.SelectableFields)
	return customresource.NewStorage(r.gvr(spec.Name).GroupResource(), schema.GroupResource{Group: kind.Group, Resource: names.Singular},
		kind, kind.GroupVersion().WithKind(names.ListKind), strategy, r.options(kind.GroupVersion(), opened), names.Categories, tables{table}, r.replicas)
}

// statusSchema validates the status alone, for writes to the status subresource.
func statusSchema(props *internal.JSONSchemaProps) (validation.SchemaValidator, error) {
	if props == nil {
		return nil, nil
	}
	status, ok := props.Properties["status"]
	if !ok {
		return nil, nil
	}
	validator, _, err := validation.NewSchemaValidator(&status)
	return validator, err
}

// deleteWorkers is how many objects a deletecollection deletes at a time.
const deleteWorkers = 4

// options makes upstream's registry use the storage that the configuration opens.
func (r *resource) options(wanted schema.GroupVersion, opened *storage.Interface) generic.RESTOptionsGetter {
	return restOptions(func(gr schema.GroupResource) generic.RESTOptions {
		codec := storageCodec(r.shape, r.safe, schema.GroupVersion{Group: wanted.Group, Version: r.stored}, wanted)
		prefix := r.cfg.Prefix(gr)
		return generic.RESTOptions{
			StorageConfig:           &storagebackend.ConfigForResource{Config: storagebackend.Config{Codec: codec}, GroupResource: gr},
			EnableGarbageCollection: true, DeleteCollectionWorkers: deleteWorkers, ResourcePrefix: prefix,
			Decorator: func(_ *storagebackend.ConfigForResource, _ string, _ func(runtime.Object) (string, error),
				newFunc, newList func() runtime.Object, _ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
				st, err := r.cfg.Open(Storage{Resource: gr, Prefix: prefix, Codec: codec, NewFunc: newFunc, NewList: newList, Retired: r.retired})
				*opened = st
				return st, func() {}, err
			},
		}
	})
}

type restOptions func(schema.GroupResource) generic.RESTOptions

// GetRESTOptions implements generic.RESTOptionsGetter.
func (f restOptions) GetRESTOptions(gr schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	return f(gr), nil
}

func (r *resource) newScopes(v *version, spec apiextensions.CustomResourceDefinitionVersion, types typer, parameters *runtime.Scheme) error {
	media, standard := newNegotiated(r.shape, r.safe, types)
	kind := r.gvk(spec.Name)
	base := handlers.RequestScope{
		Namer:      handlers.ContextBasedNaming{Namer: meta.NewAccessor(), ClusterScoped: r.crd.Spec.Scope == apiextensions.ClusterScoped},
		Serializer: media, StandardSerializers: standard, ParameterCodec: runtime.NewParameterCodec(parameters),
		Creater: creater{}, Convertor: r.safe, UnsafeConvertor: r.fast, Defaulter: defaulter{r.shape, parameters}, Typer: types,
		EquivalentResourceMapper: r.equivalent, Resource: r.gvr(spec.Name), Kind: kind,
		HubGroupVersion: kind.GroupVersion(), MetaGroupVersion: metav1.SchemeGroupVersion, // a version is its own hub: it is what its storage holds in memory
		TableConvertor: v.storage.CustomResource, Authorizer: r.cfg.Authorizer, MaxRequestBodyBytes: r.cfg.MaxRequestBytes,
	}
	var err error
	if v.main, err = r.managed(base, "", v.storage.CustomResource.GetResetFields()); err != nil {
		return err
	}
	if v.storage.Status != nil {
		if v.status, err = r.managed(base, "status", r.statusReset()); err != nil {
			return err
		}
	}
	if v.storage.Scale == nil {
		return nil
	}
	base.Kind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")
	base.Serializer = serializer.NewCodecFactory(scale.NewScaleConverter().Scheme(),
		serializer.WithStreamingCollectionEncodingToJSON(), serializer.WithStreamingCollectionEncodingToProtobuf())
	if base.TableConvertor, err = scaleColumns(spec.Subresources.Scale); err != nil {
		return err
	}
	v.scaled, err = r.managed(base, "scale", nil)
	return err
}

// managed completes a scope with the manager of field ownership.
func (r *resource) managed(scope handlers.RequestScope, subresource string, reset map[fieldpath.APIVersion]*fieldpath.Set) (*handlers.RequestScope, error) {
	scope.Subresource = subresource
	types, err := r.types()
	if err != nil {
		return nil, err
	}
	scope.FieldManager, err = managedfields.NewDefaultCRDFieldManager(types, scope.Convertor, scope.Defaulter, scope.Creater,
		scope.Kind, scope.HubGroupVersion, subresource, fieldpath.NewExcludeFilterSetMap(reset))
	return &scope, err
}

// columns are what the version prints: its age unless it says otherwise.
func columns(spec apiextensions.CustomResourceDefinitionVersion) []apiextensions.CustomResourceColumnDefinition {
	if len(spec.AdditionalPrinterColumns) > 0 {
		return spec.AdditionalPrinterColumns
	}
	return []apiextensions.CustomResourceColumnDefinition{ageColumn()}
}

func ageColumn() apiextensions.CustomResourceColumnDefinition {
	return apiextensions.CustomResourceColumnDefinition{Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp",
		Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]}
}

func scaleColumns(s *apiextensions.CustomResourceSubresourceScale) (rest.TableConvertor, error) {
	var list []apiextensions.CustomResourceColumnDefinition
	for _, c := range []struct{ path, name, about, from string }{
		{s.SpecReplicasPath, "Desired", "Number of desired replicas", ".spec.replicas"},
		{s.StatusReplicasPath, "Available", "Number of actual replicas", ".status.replicas"},
	} {
		if c.path != "" {
			list = append(list, apiextensions.CustomResourceColumnDefinition{Name: c.name, Type: "integer", Description: c.about, JSONPath: c.from})
		}
	}
	table, err := tableconvertor.New(append(list, ageColumn()))
	return tables{table}, err
}

// fieldPath turns ".spec.replicas" into a path of fields.
func fieldPath(dotted string) fieldpath.Path {
	var path fieldpath.Path
	for name := range strings.SplitSeq(strings.TrimPrefix(dotted, "."), ".") {
		path = append(path, fieldpath.PathElement{FieldName: &name})
	}
	return path
}

// deprecation is what users of a deprecated version are warned of: in the words of the
// definition, or by the newest version that is not deprecated.
func deprecation(v apiextensions.CustomResourceDefinitionVersion, spec apiextensions.CustomResourceDefinitionSpec) string {
	if v.DeprecationWarning != nil {
		return *v.DeprecationWarning
	}
	text := spec.Group + "/" + v.Name + " " + spec.Names.Kind + " is deprecated"
	best := ""
	for _, other := range spec.Versions {
		newer := kubeversion.CompareKubeAwareVersionStrings(v.Name, other.Name) < 0
		if other.Served && !other.Deprecated && newer && (best == "" || kubeversion.CompareKubeAwareVersionStrings(best, other.Name) < 0) {
			best = other.Name
		}
	}
	if best == "" {
		return text
	}
	return text + "; use " + spec.Group + "/" + best + " " + spec.Names.Kind
}
