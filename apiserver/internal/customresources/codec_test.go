package customresources

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/conversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// widgets is a definition in two versions, established.
func widgets() *apiextensions.CustomResourceDefinition {
	names := apiextensions.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList"}
	object := func(properties map[string]apiextensions.JSONSchemaProps) *apiextensions.CustomResourceValidation {
		return &apiextensions.CustomResourceValidation{OpenAPIV3Schema: &apiextensions.JSONSchemaProps{Type: "object", Properties: properties}}
	}
	spec := apiextensions.JSONSchemaProps{Type: "object", Properties: map[string]apiextensions.JSONSchemaProps{
		"color": {Type: "string"}, "size": {Type: "integer", Default: &apiextensions.JSON{Raw: []byte("7")}}}}
	return &apiextensions.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets.example.com", UID: "1", Generation: 1},
		Spec: apiextensions.CustomResourceDefinitionSpec{Group: "example.com", Scope: apiextensions.NamespaceScoped, Names: names,
			Conversion: &apiextensions.CustomResourceConversion{Strategy: apiextensions.NoneConverter},
			Versions: []apiextensions.CustomResourceDefinitionVersion{
				{Name: "v1beta1", Served: true, Deprecated: true, Schema: object(map[string]apiextensions.JSONSchemaProps{"spec": spec})},
				{Name: "v1", Served: true, Storage: true, Schema: object(map[string]apiextensions.JSONSchemaProps{"spec": spec}),
					Subresources: &apiextensions.CustomResourceSubresources{Status: &apiextensions.CustomResourceSubresourceStatus{}}},
			}},
		Status: apiextensions.CustomResourceDefinitionStatus{AcceptedNames: names, StoredVersions: []string{"v1"},
			Conditions: []apiextensions.CustomResourceDefinitionCondition{{Type: apiextensions.Established, Status: apiextensions.ConditionTrue},
				{Type: apiextensions.NamesAccepted, Status: apiextensions.ConditionTrue}}},
	}
}

func TestLayoutPutsMetadataFirst(t *testing.T) {
	for name, tc := range map[string]struct {
		object map[string]any
		want   string
	}{
		"usual":           {map[string]any{"spec": map[string]any{"b": int64(1), "a": "x"}, "metadata": map[string]any{"name": "n"}, "kind": "K", "apiVersion": "g/v1"}, `{"kind":"K","apiVersion":"g/v1","metadata":{"name":"n"},"spec":{"a":"x","b":1}}`},
		"before metadata": {map[string]any{"Above": true, "layers": nil, "metadata": map[string]any{}, "kind": "K", "apiVersion": "g/v1"}, `{"kind":"K","apiVersion":"g/v1","metadata":{},"Above":true,"layers":null}`},
		"metadata alone":  {map[string]any{"metadata": map[string]any{"name": "n"}}, `{"metadata":{"name":"n"}}`},
		"nothing":         {map[string]any{}, `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			require.NoError(t, layout{}.Encode(&unstructured.Unstructured{Object: tc.object}, &out))
			require.Equal(t, tc.want, out.String())
		})
	}
	require.Error(t, layout{}.Encode(&metav1.Status{}, &bytes.Buffer{}))
}

func codecOf(t testing.TB) runtime.Codec {
	t.Helper()
	converters, err := conversion.NewCRConverterFactory(nil, nil)
	require.NoError(t, err)
	r, err := newResource(&Config{Converters: converters}, Definition{CustomResourceDefinition: widgets()})
	require.NoError(t, err)
	v1 := schema.GroupVersion{Group: "example.com", Version: "v1"}
	return storageCodec(r.shape, r.safe, v1, v1)
}

func TestStorageCodec(t *testing.T) {
	codec := codecOf(t)
	for name, tc := range map[string]struct{ stored, want string }{
		"a default is filled in":   {`{"kind":"Widget","apiVersion":"example.com/v1","metadata":{"name":"n","generation":2},"spec":{}}`, `{"size":7}`},
		"another version":          {`{"kind":"Widget","apiVersion":"example.com/v1beta1","metadata":{"name":"n"},"spec":{"color":"red","size":1}}`, `{"color":"red","size":1}`},
		"what no schema knows":     {`{"kind":"Widget","apiVersion":"example.com/v1","metadata":{"name":"n"},"spec":{"old":1,"size":1}}`, `{"size":1}`},
		"metadata of another kind": {`{"kind":"Widget","apiVersion":"example.com/v1","metadata":{"name":"n","labels":"none"},"spec":{"size":1}}`, `{"size":1}`},
	} {
		t.Run(name, func(t *testing.T) {
			into := &unstructured.Unstructured{}
			into.SetGroupVersionKind(schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"})
			got, _, err := codec.Decode([]byte(tc.stored), nil, into)
			require.NoError(t, err)
			u := got.(*unstructured.Unstructured)
			spec, err := json.Marshal(u.Object["spec"])
			require.NoError(t, err)
			require.JSONEq(t, tc.want, string(spec))
			require.Equal(t, "example.com/v1", u.GetAPIVersion())
			require.Equal(t, "n", u.GetName())
			require.Positive(t, u.GetGeneration())
		})
	}
}

// FuzzStorageCodec: whatever can be decoded can be stored, and reads the same again.
func FuzzStorageCodec(f *testing.F) {
	for _, seed := range []string{
		`{"kind":"Widget","apiVersion":"example.com/v1","metadata":{"name":"n"},"spec":{"color":"red"}}`,
		`{"kind":"Widget","apiVersion":"example.com/v1beta1","metadata":null,"spec":null}`,
		`{"kind":"Widget","apiVersion":"example.com/v1","metadata":{"creationTimestamp":1,"labels":[]},"spec":[1e400]}`,
		`{"kind":1}`, `[]`, ``,
	} {
		f.Add([]byte(seed))
	}
	codec := codecOf(f)
	kind := schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"}
	decode := func(data []byte) (runtime.Object, error) {
		into := &unstructured.Unstructured{}
		into.SetGroupVersionKind(kind)
		obj, _, err := codec.Decode(data, nil, into)
		return obj, err
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		first, err := decode(data)
		if err != nil {
			return
		}
		if first.GetObjectKind().GroupVersionKind() != kind {
			return // another kind, which no storage hands to this codec
		}
		stored, err := runtime.Encode(codec, first)
		require.NoError(t, err)
		second, err := decode(stored)
		require.NoError(t, err, "%s", stored)
		again, err := runtime.Encode(codec, second)
		require.NoError(t, err)
		require.Equal(t, string(stored), string(again))
	})
}

// TestEveryMediaTypeIsDecoded: what a request's body may be in, handlers decode with the
// strict serializer unless they are told to ignore what they do not know.
func TestEveryMediaTypeIsDecoded(t *testing.T) {
	n, _ := newNegotiated(nil, nil, newTyper(scheme))
	for _, media := range n.SupportedMediaTypes() {
		for name, serializer := range map[string]runtime.Serializer{"usual": media.Serializer, "strict": media.StrictSerializer} {
			require.NotNil(t, serializer, "%s, %s", media.MediaType, name)
			_, _, err := serializer.Decode([]byte("k8s\x00"), nil, nil)
			require.Error(t, err, "%s, %s", media.MediaType, name)
		}
	}
}
