package customresources

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// still is a storage of one moment, which can only be read.
type still struct {
	storage.Interface
	codec   runtime.Codec
	objects map[string]string
}

func (s still) Versioner() storage.Versioner { return storage.APIObjectVersioner{} }

func (s still) Get(_ context.Context, key string, _ storage.GetOptions, out runtime.Object) error {
	stored, ok := s.objects[key]
	if !ok {
		return storage.NewKeyNotFoundError(key, 0)
	}
	_, _, err := s.codec.Decode([]byte(stored), nil, out)
	return err
}

// past is a server of a fixed set of definitions over a fixed set of objects.
func past(t *testing.T, definitions ...*apiextensions.CustomResourceDefinition) *Server {
	t.Helper()
	converters, err := conversion.NewCRConverterFactory(nil, nil)
	require.NoError(t, err)
	return New(Config{
		Source: Fixed(definitions...), Converters: converters, Admission: admission.NewChainHandler(), MaxRequestBytes: 1 << 20, MinRequestTimeout: time.Minute,
		Prefix: func(gr schema.GroupResource) string { return "/" + gr.Group + "/" + gr.Resource },
		Open: func(s Storage) (storage.Interface, error) {
			return still{codec: s.Codec, objects: map[string]string{
				"/example.com/widgets/ns/a": `{"kind":"Widget","apiVersion":"example.com/v1","metadata":{"name":"a","namespace":"ns"},"spec":{"color":"red"}}`,
			}}, nil
		},
	})
}

func get(t *testing.T, s *Server, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequest(method, path, nil)
	factory := request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	info, err := factory.NewRequestInfo(req)
	require.NoError(t, err)
	ctx := request.WithReceivedTimestamp(audit.WithAuditContext(request.WithRequestInfo(req.Context(), info)), time.Now())
	w := httptest.NewRecorder()
	s.Handler(http.NotFoundHandler()).ServeHTTP(w, req.WithContext(ctx))
	return w
}

// TestFixedDefinitions: definitions and a storage are all it takes to serve objects as
// they were.
func TestFixedDefinitions(t *testing.T) {
	s := past(t, widgets())
	for _, version := range []string{"v1", "v1beta1"} {
		w := get(t, s, "GET", "/apis/example.com/"+version+"/namespaces/ns/widgets/a")
		require.Equal(t, 200, w.Code, w.Body.String())
		var object struct {
			APIVersion string
			Spec       map[string]any
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &object))
		require.Equal(t, "example.com/"+version, object.APIVersion)
		require.Equal(t, map[string]any{"color": "red", "size": float64(7)}, object.Spec)
	}
	_, ok := s.Plain(&request.RequestInfo{APIGroup: "example.com", APIVersion: "v1", Resource: "widgets", Namespace: "ns", Verb: "list"})
	require.False(t, ok, "the schema fills in a default")
}

func TestWhatIsNotServed(t *testing.T) {
	unaccepted := widgets()
	unaccepted.Status.Conditions = nil
	for name, tc := range map[string]struct {
		crd          *apiextensions.CustomResourceDefinition
		method, path string
		want         int
	}{
		"no such object":          {widgets(), "GET", "/apis/example.com/v1/namespaces/ns/widgets/b", 404},
		"no such version":         {widgets(), "GET", "/apis/example.com/v3/namespaces/ns/widgets/a", 404},
		"no such resource":        {widgets(), "GET", "/apis/example.com/v1/namespaces/ns/gadgets/a", 404},
		"no namespace":            {widgets(), "GET", "/apis/example.com/v1/widgets/a", 404},
		"names not accepted":      {unaccepted, "GET", "/apis/example.com/v1/namespaces/ns/widgets/a", 404},
		"no scale":                {widgets(), "GET", "/apis/example.com/v1/namespaces/ns/widgets/a/scale", 404},
		"status in other version": {widgets(), "GET", "/apis/example.com/v1beta1/namespaces/ns/widgets/a/status", 404},
		"status can't be deleted": {widgets(), "DELETE", "/apis/example.com/v1/namespaces/ns/widgets/a/status", 405},
		"create under a name":     {widgets(), "POST", "/apis/example.com/v1/namespaces/ns/widgets/a", 405},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.want, get(t, past(t, tc.crd), tc.method, tc.path).Code)
		})
	}
}

func TestDiscoveryAndDocuments(t *testing.T) {
	s := past(t, widgets())
	versions := s.Discovery()
	require.Len(t, versions, 2)
	require.Equal(t, "v1", versions[0].Version, "the stable version comes first")
	require.Len(t, versions[0].List(), 2)
	require.Equal(t, "widgets/status", versions[0].List()[1].Name)
	require.Len(t, versions[1].List(), 1)
	base := &spec.Swagger{SwaggerProps: spec.SwaggerProps{Paths: &spec.Paths{Paths: map[string]spec.PathItem{"/own": {}}}, Definitions: spec.Definitions{}}}
	doc, mark, err := s.OpenAPIV2(base)
	require.NoError(t, err)
	require.NotEmpty(t, mark)
	require.Contains(t, doc.Paths.Paths, "/own")
	require.Contains(t, doc.Paths.Paths, "/apis/example.com/v1/namespaces/{namespace}/widgets/{name}")
	require.Len(t, base.Paths.Paths, 1, "the base is not changed")
	documents := s.OpenAPIV3()
	require.Len(t, documents, 2)
	built, err := documents[0].Build()
	require.NoError(t, err)
	require.Contains(t, built.Components.Schemas, "com.example."+documents[0].Version+".Widget")
}

func TestDeprecationWarnings(t *testing.T) {
	crd := widgets()
	own := "use gadgets"
	crd.Spec.Versions[1].Deprecated, crd.Spec.Versions[1].DeprecationWarning = true, &own
	require.Equal(t, own, deprecation(crd.Spec.Versions[1], crd.Spec))
	require.Equal(t, "example.com/v1beta1 Widget is deprecated", deprecation(crd.Spec.Versions[0], crd.Spec), "no version is better")
	crd = widgets()
	require.Equal(t, "example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget", deprecation(crd.Spec.Versions[0], crd.Spec))
}
