package customresources

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"k8s.io/apiextensions-apiserver/pkg/crdserverscheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	jsonserializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/runtime/serializer/versioning"
)

// scheme holds what is no custom resource but is sent or received beside them:
// statuses, options, watch events.
var scheme = func() *runtime.Scheme {
	s, v1 := runtime.NewScheme(), schema.GroupVersion{Version: "v1"}
	metav1.AddToGroupVersion(s, v1)
	// In whatever version a watch is, its frames are the same.
	s.AddUnversionedTypes(v1, &metav1.Status{}, &metav1.WatchEvent{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	return s
}()

var codecs = serializer.NewCodecFactory(scheme)

// creater makes every object unstructured.
type creater struct{}

// New implements runtime.ObjectCreater.
func (creater) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(kind)
	return u, nil
}

// typer reads the kind from unstructured objects and asks a scheme for others.
type typer struct {
	own   runtime.ObjectTyper
	other runtime.ObjectTyper
}

func newTyper(other runtime.ObjectTyper) typer {
	return typer{own: crdserverscheme.NewUnstructuredObjectTyper(), other: other}
}

// ObjectKinds implements runtime.ObjectTyper.
func (t typer) ObjectKinds(obj runtime.Object) ([]schema.GroupVersionKind, bool, error) {
	if _, ok := obj.(runtime.Unstructured); ok {
		return t.own.ObjectKinds(obj)
	}
	return t.other.ObjectKinds(obj)
}

// Recognizes implements runtime.ObjectTyper.
func (t typer) Recognizes(kind schema.GroupVersionKind) bool { return t.other.Recognizes(kind) }

// storageCodec encodes to one version of the kind and decodes to another.
func storageCodec(s *shape, converter runtime.ObjectConvertor, stored, wanted schema.GroupVersion) runtime.Codec {
	return versioning.NewCodec(
		layout{}, fitted{Decoder: unstructured.UnstructuredJSONScheme, shape: s, lenience: lenience{stored: true}},
		fittedConverter{converter, s}, creater{}, crdserverscheme.NewUnstructuredObjectTyper(), defaulter{s, scheme},
		stored, wanted, "customResourceStorage")
}

// layout writes an object with kind, apiVersion and metadata first, as all stored
// objects are, so that a resourceVersion is spliced in without searching.
type layout struct{}

// Identifier implements runtime.Encoder.
func (layout) Identifier() runtime.Identifier { return "customResourceLayout" }

// Encode implements runtime.Encoder.
func (layout) Encode(obj runtime.Object, w io.Writer) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("store a custom resource: %T is not unstructured", obj)
	}
	var out bytes.Buffer
	separator := byte('{')
	member := func(name string, value any) error {
		encoded, err := json.Marshal(value)
		if err != nil {
			return err
		}
		out.WriteByte(separator)
		separator = ','
		fmt.Fprintf(&out, "%q:", name)
		out.Write(encoded)
		return nil
	}
	rest := make(map[string]any, len(u.Object))
	for name, value := range u.Object {
		rest[name] = value
	}
	for _, name := range []string{"kind", "apiVersion", "metadata"} {
		if value, ok := rest[name]; ok {
			delete(rest, name)
			if err := member(name, value); err != nil {
				return err
			}
		}
	}
	encoded, err := json.Marshal(rest)
	if err != nil {
		return err
	}
	if len(rest) > 0 || separator == '{' {
		out.WriteByte(separator)
		out.Write(encoded[1 : len(encoded)-1])
	}
	out.WriteByte('}')
	_, err = w.Write(out.Bytes())
	return err
}

// fitted decodes objects and fits them into the shape.
type fitted struct {
	runtime.Decoder
	shape    *shape
	lenience lenience
}

// Decode implements runtime.Decoder.
func (f fitted) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, kind, err := f.Decoder.Decode(data, defaults, into)
	var problems []error
	if err != nil {
		strict, ok := runtime.AsStrictDecodingError(err)
		if !ok || obj == nil {
			return nil, kind, err
		}
		problems = strict.Errors()
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		dropped, err := f.shape.fit(u, f.lenience)
		if err != nil {
			return nil, kind, err
		}
		for _, path := range dropped {
			problems = append(problems, fmt.Errorf("unknown field %q", path))
		}
	}
	if f.lenience.report && len(problems) > 0 {
		return obj, kind, runtime.NewStrictDecodingError(problems)
	}
	return obj, kind, nil
}

// fittedConverter fits what a conversion returns: a webhook may answer anything.
type fittedConverter struct {
	runtime.ObjectConvertor
	shape *shape
}

// Convert implements runtime.ObjectConvertor.
func (c fittedConverter) Convert(in, out, context any) error {
	if err := c.ObjectConvertor.Convert(in, out, context); err != nil {
		return err
	}
	return c.fit(out)
}

// ConvertToVersion implements runtime.ObjectConvertor.
func (c fittedConverter) ConvertToVersion(in runtime.Object, to runtime.GroupVersioner) (runtime.Object, error) {
	out, err := c.ObjectConvertor.ConvertToVersion(in, to)
	if err != nil {
		return nil, err
	}
	return out, c.fit(out)
}

func (c fittedConverter) fit(out any) error {
	u, ok := out.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	_, err := c.shape.fit(u, lenience{})
	return err
}

// negotiated is how requests and responses are encoded.
type negotiated struct {
	shape     *shape
	converter runtime.ObjectConvertor
	media     []runtime.SerializerInfo
}

var _ runtime.NegotiatedSerializer = negotiated{}

// newNegotiated also knows protobuf, for the objects beside custom resources; standard
// leaves it out.
func newNegotiated(s *shape, converter runtime.ObjectConvertor, types runtime.ObjectTyper) (n negotiated, standard []runtime.SerializerInfo) {
	standard = []runtime.SerializerInfo{textMedia("json", types), textMedia("yaml", types)}
	serializer := protobuf.NewSerializerWithOptions(creater{}, types, protobuf.SerializerOptions{StreamingCollectionsEncoding: true})
	binary := runtime.SerializerInfo{
		MediaType: runtime.ContentTypeProtobuf, MediaTypeType: "application", MediaTypeSubType: "vnd.kubernetes.protobuf",
		Serializer: serializer, StrictSerializer: serializer, // who sends a custom resource in it is told that it has none
		StreamSerializer: &runtime.StreamSerializerInfo{Serializer: protobuf.NewRawSerializer(creater{}, types), Framer: protobuf.LengthDelimitedFramer},
	}
	return negotiated{shape: s, converter: converter, media: append(standard[:2:2], binary)}, standard
}

func textMedia(format string, types runtime.ObjectTyper) runtime.SerializerInfo {
	yaml := format == "yaml"
	with := func(o jsonserializer.SerializerOptions) runtime.Serializer {
		o.Yaml = yaml
		o.StreamingCollectionsEncoding = !yaml && !o.Pretty
		return jsonserializer.NewSerializerWithOptions(jsonserializer.DefaultMetaFactory, creater{}, types, o)
	}
	info := runtime.SerializerInfo{
		MediaType: "application/" + format, MediaTypeType: "application", MediaTypeSubType: format, EncodesAsText: true,
		Serializer:       with(jsonserializer.SerializerOptions{}),
		StrictSerializer: with(jsonserializer.SerializerOptions{Strict: true}),
	}
	if !yaml {
		info.PrettySerializer = with(jsonserializer.SerializerOptions{Pretty: true})
		info.StreamSerializer = &runtime.StreamSerializerInfo{EncodesAsText: true, Framer: jsonserializer.Framer,
			Serializer: jsonserializer.NewSerializerWithOptions(jsonserializer.DefaultMetaFactory, creater{}, types, jsonserializer.SerializerOptions{})}
	}
	return info
}

// SupportedMediaTypes implements runtime.NegotiatedSerializer.
func (n negotiated) SupportedMediaTypes() []runtime.SerializerInfo { return n.media }

// EncoderForVersion implements runtime.NegotiatedSerializer.
func (n negotiated) EncoderForVersion(encoder runtime.Encoder, to runtime.GroupVersioner) runtime.Encoder {
	return versioning.NewCodec(encoder, nil, n.converter, scheme, scheme, scheme, to, nil, "customResources")
}

// DecoderToVersion implements runtime.NegotiatedSerializer.
func (n negotiated) DecoderToVersion(decoder runtime.Decoder, to runtime.GroupVersioner) runtime.Decoder {
	strict := false
	if s, ok := decoder.(*jsonserializer.Serializer); ok {
		strict = s.IsStrict()
	}
	return versioning.NewCodec(nil, fitted{Decoder: decoder, shape: n.shape, lenience: lenience{report: strict}},
		runtime.UnsafeObjectConvertor(scheme), scheme, scheme, defaulter{n.shape, scheme}, nil, to, "customResources")
}
