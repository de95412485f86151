package customresources

import (
	"errors"
	"fmt"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/scale/scheme/autoscalingv1"
	"k8s.io/kube-openapi/pkg/spec3"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// resource is everything needed to serve the objects of one definition as it was at
// one time. A changed definition gets a new one.
type resource struct {
	cfg        *Config
	crd        *apiextensions.CustomResourceDefinition
	created    int64
	stored     string // the version objects are stored in
	shape      *shape
	safe, fast runtime.ObjectConvertor // fast may change what it converts
	equivalent runtime.EquivalentResourceRegistry
	replicas   managedfields.ResourcePathMappings
	// types is built for the first write.
	types func() (managedfields.TypeConverter, error)
	// retired is closed when the definition has changed or is gone: watches end.
	retired chan struct{}

	mu       sync.Mutex
	versions map[string]*version // guarded by mu
	direct   *bool               // whether stored bytes can be served; guarded by mu
}

var errUnnamed = errors.New("its names have not been accepted")

func newResource(cfg *Config, d Definition) (*resource, error) {
	crd := d.CustomResourceDefinition
	names := crd.Status.AcceptedNames
	if names.Plural == "" || names.Singular == "" || names.Kind == "" || names.ListKind == "" {
		return nil, errUnnamed
	}
	stored, err := apihelpers.GetCRDStorageVersion(crd)
	if err != nil {
		return nil, err
	}
	r := &resource{cfg: cfg, crd: crd, created: d.Created, stored: stored, equivalent: runtime.NewEquivalentResourceRegistry(),
		replicas: managedfields.ResourcePathMappings{}, retired: make(chan struct{}), versions: map[string]*version{}}
	if r.shape, err = newShape(crd); err != nil {
		return nil, err
	}
	if r.safe, r.fast, err = cfg.Converters.NewConverter(crd); err != nil {
		return nil, err
	}
	r.types = sync.OnceValues(func() (managedfields.TypeConverter, error) { return typesOf(crd) })
	for _, v := range crd.Spec.Versions {
		r.registerVersion(v)
	}
	return r, nil
}

// registerVersion notes what the versions of a kind must know of each other.
func (r *resource) registerVersion(v apiextensions.CustomResourceDefinitionVersion) {
	gvr, kind := r.gvr(v.Name), r.gvk(v.Name)
	r.equivalent.RegisterKindFor(gvr, "", kind)
	sub := v.Subresources
	if sub != nil && sub.Status != nil {
		r.equivalent.RegisterKindFor(gvr, "status", kind)
	}
	r.replicas[kind.GroupVersion().String()] = nil
	if sub != nil && sub.Scale != nil {
		r.equivalent.RegisterKindFor(gvr, "scale", autoscalingv1.SchemeGroupVersion.WithKind("Scale"))
		r.replicas[kind.GroupVersion().String()] = fieldPath(sub.Scale.SpecReplicasPath)
	}
}

func (r *resource) gvr(version string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: r.crd.Spec.Group, Version: version, Resource: r.crd.Status.AcceptedNames.Plural}
}

func (r *resource) gvk(version string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: r.crd.Spec.Group, Version: version, Kind: r.crd.Status.AcceptedNames.Kind}
}

// serves tells that the resource was made of a definition with the same meaning.
func (r *resource) serves(crd *apiextensions.CustomResourceDefinition) bool {
	return r.crd == crd ||
		equality.Semantic.DeepEqual(&r.crd.Spec, &crd.Spec) &&
			equality.Semantic.DeepEqual(&r.crd.Status.AcceptedNames, &crd.Status.AcceptedNames)
}

// version returns what serves one version, building it at first.
func (r *resource) version(name string) (*version, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.versions[name]; ok {
		return v, nil
	}
	for _, spec := range r.crd.Spec.Versions {
		if spec.Name != name {
			continue
		}
		v, err := r.newVersion(spec)
		if err != nil {
			return nil, fmt.Errorf("version %s of %s: %w", name, r.crd.Name, err)
		}
		r.versions[name] = v
		return v, nil
	}
	return nil, fmt.Errorf("%s has no version %s", r.crd.Name, name)
}

// statusReset is, for each version, what a write to the status subresource does not
// change.
func (r *resource) statusReset() map[fieldpath.APIVersion]*fieldpath.Set {
	reset := map[fieldpath.APIVersion]*fieldpath.Set{}
	for _, v := range r.crd.Spec.Versions {
		if v.Subresources == nil || v.Subresources.Status == nil {
			continue
		}
		strategy := customresource.NewStrategy(newTyper(scheme), true, r.gvk(v.Name), nil, nil, nil, nil, nil, nil)
		for version, set := range customresource.NewStatusStrategy(strategy).GetResetFields() {
			reset[version] = set
		}
	}
	return reset
}

// typesOf is what server-side apply knows of the fields.
func typesOf(crd *apiextensions.CustomResourceDefinition) (managedfields.TypeConverter, error) {
	var documents []*spec3.OpenAPI
	for _, v := range crd.Spec.Versions {
		document, err := builder.BuildOpenAPIV3(crd, v.Name, builder.Options{})
		if err != nil {
			return nil, fmt.Errorf("types of %s: %w", crd.Name, err)
		}
		documents = append(documents, document)
	}
	merged, err := builder.MergeSpecsV3(documents...)
	if err != nil {
		return nil, fmt.Errorf("types of %s: %w", crd.Name, err)
	}
	if merged.Components == nil {
		return managedfields.NewDeducedTypeConverter(), nil
	}
	return managedfields.NewTypeConverter(merged.Components.Schemas, crd.Spec.PreserveUnknownFields)
}
