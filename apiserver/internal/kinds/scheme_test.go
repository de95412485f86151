package kinds

import (
	stdjson "encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	core "k8s.io/kubernetes/pkg/apis/core"
)

var storedHeads = []string{
	`{"kind":"Pod","apiVersion":"v1","metadata":{}}`,
	`{"kind":"Deployment","apiVersion":"apps/v1","spec":{"kind":"x"}}`,
	`{"apiVersion":"v1","kind":"Pod"}`,
	`{"kind":"P\u006fd","apiVersion":"v1"}`,
	`{"kind":"Pod"}`,
	`{"kind":"","apiVersion":""}`,
	`{"kind":"Pod","apiVersion":"a/b/c"}`,
	`{}`,
}

// TestStoredMeta: the short way finds what the long one finds.
func TestStoredMeta(t *testing.T) {
	for _, object := range storedHeads {
		want, wantErr := json.DefaultMetaFactory.Interpret([]byte(object))
		got, err := storedMeta{}.Interpret([]byte(object))
		require.Equal(t, want, got, object)
		require.Equal(t, wantErr == nil, err == nil, object)
	}
}

func FuzzStoredMeta(f *testing.F) {
	f.Add("Pod", "v1")
	f.Add("Deployment", "apps/v1")
	f.Add(`a"b\`, "<{[]}>")
	f.Fuzz(func(t *testing.T, kind, version string) {
		object, err := stdjson.Marshal(struct {
			Kind       string         `json:"kind"`
			APIVersion string         `json:"apiVersion"`
			Spec       map[string]any `json:"spec"`
		}{kind, version, map[string]any{"kind": "Other", "apiVersion": "v7"}})
		require.NoError(t, err)
		want, wantErr := json.DefaultMetaFactory.Interpret(object)
		got, err := storedMeta{}.Interpret(object)
		require.Equal(t, wantErr == nil, err == nil, "%s: %v, %v", object, wantErr, err)
		require.Equal(t, want, got, "%s", object)
	})
}

// BenchmarkDecodeStored is what a read that can't send stored bytes costs for each object.
//
//	go test ./apiserver/internal/kinds -run '^$' -bench DecodeStored -count 10 | benchstat -
func BenchmarkDecodeStored(b *testing.B) {
	codec, _, err := StorageCodec(schema.GroupResource{Resource: "pods"}, &core.Pod{})
	require.NoError(b, err)
	pod := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", Labels: map[string]string{"app": "web", "tier": "backend"}}}
	for range 3 {
		pod.Spec.Containers = append(pod.Spec.Containers, core.Container{Name: "c", Image: "registry.example.com/app:v1", Env: []core.EnvVar{{Name: "A", Value: "b"}, {Name: "C", Value: "d"}},
			VolumeMounts: []core.VolumeMount{{Name: "v", MountPath: "/v"}}, ReadinessProbe: &core.Probe{ProbeHandler: core.ProbeHandler{Exec: &core.ExecAction{Command: []string{"x"}}}}})
	}
	stored, err := runtime.Encode(codec, pod)
	require.NoError(b, err)
	b.SetBytes(int64(len(stored)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := codec.Decode(stored, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}
