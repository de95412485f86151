package kinds

import (
	"bytes"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/versioning"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/admission/install"
	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install"
	_ "k8s.io/kubernetes/pkg/apis/apiserverinternal/install"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/authentication/install"
	_ "k8s.io/kubernetes/pkg/apis/authorization/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	_ "k8s.io/kubernetes/pkg/apis/imagepolicy/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/resource/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"
	_ "k8s.io/kubernetes/pkg/apis/storagemigration/install"
)

// Scheme holds all kinds in their hub and served versions.
func Scheme() *runtime.Scheme { return extended }

// Codecs negotiates JSON, YAML and protobuf for requests and responses, with
// collections written item by item.
func Codecs() serializer.CodecFactory { return codecs }

var codecs = serializer.NewCodecFactory(legacyscheme.Scheme,
	serializer.WithStreamingCollectionEncodingToJSON(),
	serializer.WithStreamingCollectionEncodingToProtobuf())

// cohabitants are resources served by two groups but stored once, by the second.
var cohabitants = map[schema.GroupResource]schema.GroupResource{
	{Group: "events.k8s.io", Resource: "events"}: {Resource: "events"},
}

// StoredAs tells under which group and resource an object is kept in etcd.
func StoredAs(gr schema.GroupResource) schema.GroupResource {
	if as, ok := cohabitants[gr]; ok {
		return as
	}
	return gr
}

// StorageCodec encodes to the storage version of the example's kind as compact JSON,
// kind and apiVersion first, and decodes to the hub version. It sets defaults both ways:
// what is stored is sent to readers without decoding it.
func StorageCodec(gr schema.GroupResource, example runtime.Object) (runtime.Codec, schema.GroupVersion, error) {
	gvks, _, err := legacyscheme.Scheme.ObjectKinds(example)
	if err != nil {
		return nil, schema.GroupVersion{}, fmt.Errorf("storage version of %s: %w", gr, err)
	}
	group := StoredAs(gr).Group
	hub := schema.GroupVersion{Group: gvks[0].Group, Version: runtime.APIVersionInternal}
	storage, err := storageVersion(group, gvks[0].Kind)
	if err != nil {
		return nil, schema.GroupVersion{}, fmt.Errorf("storage version of %s: %w", gr, err)
	}
	plain := json.NewSerializerWithOptions(storedMeta{}, legacyscheme.Scheme, legacyscheme.Scheme, json.SerializerOptions{})
	s := legacyscheme.Scheme
	return versioning.NewCodec(plain, plain, defaultingConvertor{runtime.UnsafeObjectConvertor(s)}, s, s, s, storage, hub, s.Name()), storage, nil
}

// storedMeta finds kind and apiVersion at the head of a stored object, where they are,
// without reading the rest.
type storedMeta struct{}

const (
	kindFirst    = `{"kind":"`
	thenVersion  = `","apiVersion":"`
	noPlainNames = "\\\"{}[]" // in a name, they mean that the layout is another
)

// Interpret implements json.MetaFactory.
func (storedMeta) Interpret(data []byte) (*schema.GroupVersionKind, error) {
	rest, ok := bytes.CutPrefix(data, []byte(kindFirst))
	if !ok {
		return json.DefaultMetaFactory.Interpret(data)
	}
	kind, rest, ok := bytes.Cut(rest, []byte(thenVersion))
	if !ok || bytes.ContainsAny(kind, noPlainNames) {
		return json.DefaultMetaFactory.Interpret(data)
	}
	version, _, ok := bytes.Cut(rest, []byte(`"`))
	if !ok || bytes.ContainsAny(version, noPlainNames) {
		return json.DefaultMetaFactory.Interpret(data)
	}
	gv, err := schema.ParseGroupVersion(string(version))
	if err != nil {
		return nil, err
	}
	gvk := gv.WithKind(string(kind))
	return &gvk, nil
}

// defaultingConvertor sets defaults in what it converts. Upstream does so whenever an
// object is read; some strategies take away on creation what that brings back.
type defaultingConvertor struct{ runtime.ObjectConvertor }

func (c defaultingConvertor) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	out, err := c.ObjectConvertor.ConvertToVersion(in, target)
	if err == nil {
		legacyscheme.Scheme.Default(out) // the hub's types have no defaults
	}
	return out, err
}

// storageVersion is the most preferred served version that knows the kind.
func storageVersion(group, kind string) (schema.GroupVersion, error) {
	for _, gv := range legacyscheme.Scheme.PrioritizedVersionsForGroup(group) {
		if served[gv] && legacyscheme.Scheme.Recognizes(gv.WithKind(kind)) {
			return gv, nil
		}
	}
	return schema.GroupVersion{}, fmt.Errorf("no served version of group %q knows kind %s", group, kind)
}
