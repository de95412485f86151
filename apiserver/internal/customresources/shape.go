package customresources

import (
	"fmt"

	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// shape is what objects of a kind look like, by version.
type shape struct {
	kind    schema.GroupKind
	schemas map[string]*structural.Structural
	// open kinds (preserveUnknownFields, from before v1) keep fields no schema names.
	open bool
}

func newShape(crd *apiextensions.CustomResourceDefinition) (*shape, error) {
	s := &shape{
		kind:    schema.GroupKind{Group: crd.Spec.Group, Kind: crd.Status.AcceptedNames.Kind},
		schemas: map[string]*structural.Structural{},
		open:    crd.Spec.PreserveUnknownFields,
	}
	for _, v := range crd.Spec.Versions {
		props, err := internalSchema(v.Schema)
		if err != nil {
			return nil, err
		}
		if props == nil {
			continue
		}
		ss, err := structural.NewStructural(props)
		if s.open {
			s.schemas[v.Name] = ss // nil if the schema is not structural
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("schema of version %s is not structural: %w", v.Name, err)
		}
		ss = ss.DeepCopy() // it shares defaults with the definition
		if err := defaulting.PruneDefaults(ss); err != nil {
			return nil, fmt.Errorf("defaults of version %s: %w", v.Name, err)
		}
		s.schemas[v.Name] = ss
	}
	return s, nil
}

// internalSchema converts a version's schema to the form that upstream's validators take.
func internalSchema(v *apiextensions.CustomResourceValidation) (*internal.JSONSchemaProps, error) {
	if v == nil {
		return nil, nil
	}
	out := &internal.CustomResourceValidation{}
	if err := apiextensions.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(v, out, nil); err != nil {
		return nil, fmt.Errorf("convert the schema: %w", err)
	}
	return out.OpenAPIV3Schema, nil
}

// lenience is how much is forgiven while an object is fitted.
type lenience struct {
	// stored objects may be older than today's rules: metadata that can't be read is
	// dropped, and a missing generation is filled in.
	stored bool
	// report asks for the paths of fields that were dropped.
	report bool
}

// fit does to an object what decoding into a Go type does to others: fields that the
// schema does not know are dropped, as are nulls where none may be, and metadata, also
// of embedded objects, gets its types. It returns the paths it dropped if asked to.
func (s *shape) fit(u *unstructured.Unstructured, l lenience) ([]string, error) {
	kind, _, err := unstructured.NestedString(u.Object, "kind")
	if err != nil {
		return nil, err
	}
	apiVersion, _, err := unstructured.NestedString(u.Object, "apiVersion")
	if err != nil {
		return nil, err
	}
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, err
	}
	meta, found, dropped, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{
		DropMalformedFields: l.stored, ReturnUnknownFieldPaths: l.report})
	if err != nil {
		return nil, err
	}
	// Options of deletions and the like pass here too.
	if gv.Group == s.kind.Group && kind == s.kind.Kind {
		more, err := s.fitBody(u.Object, gv.Version, l)
		if err != nil {
			return nil, err
		}
		dropped = append(dropped, more...)
		if l.stored && meta != nil && meta.Generation == 0 {
			meta.Generation = 1
		}
	}
	// Pruning takes kind and apiVersion for fields if the schema does not name them.
	if kind != "" {
		u.SetKind(kind)
	}
	if apiVersion != "" {
		u.SetAPIVersion(apiVersion)
	}
	if found {
		err = objectmeta.SetObjectMeta(u.Object, meta)
	}
	return dropped, err
}

func (s *shape) fitBody(object map[string]any, version string, l lenience) ([]string, error) {
	var dropped []string
	ss := s.schemas[version]
	if !s.open {
		dropped = pruning.PruneWithOptions(object, ss, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: l.report})
		defaulting.PruneNonNullableNullsWithoutDefaults(object, ss)
	}
	failure, more := objectmeta.CoerceWithOptions(nil, object, ss, false, objectmeta.CoerceOptions{
		DropInvalidFields: l.stored, ReturnUnknownFieldPaths: l.report})
	if failure != nil {
		return nil, failure
	}
	return append(dropped, more...), nil
}

// fills reports whether the version's schema has defaults, so that objects read from
// the store may lack what clients are to see.
func (s *shape) fills(version string) bool { return hasDefaults(s.schemas[version]) }

func hasDefaults(ss *structural.Structural) bool {
	if ss == nil {
		return false
	}
	if ss.Default.Object != nil || hasDefaults(ss.Items) {
		return true
	}
	for name := range ss.Properties {
		property := ss.Properties[name]
		if hasDefaults(&property) {
			return true
		}
	}
	return ss.AdditionalProperties != nil && hasDefaults(ss.AdditionalProperties.Structural)
}

// defaulter fills in what the schema says, and leaves other objects to a scheme.
type defaulter struct {
	shape *shape
	other runtime.ObjectDefaulter
}

// Default implements runtime.ObjectDefaulter.
func (d defaulter) Default(obj runtime.Object) {
	u, ok := obj.(runtime.Unstructured)
	if !ok || u.GetObjectKind().GroupVersionKind().GroupKind() != d.shape.kind {
		d.other.Default(obj)
		return
	}
	defaulting.Default(u.UnstructuredContent(), d.shape.schemas[u.GetObjectKind().GroupVersionKind().Version])
}
