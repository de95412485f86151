package scheduler

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is an API of nodes and pods in memory, and the informers of both.
type world struct {
	mu         sync.Mutex
	rev        int
	pods       map[string]*corev1.Pod // by name; guarded by mu
	bindings   []corev1.Binding       // guarded by mu
	causes     []string               // of the bindings; guarded by mu
	conditions []string               // messages written to pods; guarded by mu
	failures   int                    // bindings still to refuse; guarded by mu
	informers  map[string]cache.SharedIndexInformer
	events     map[string]chan watch.Event
}

func newWorld() *world {
	return &world{pods: map[string]*corev1.Pod{}, informers: map[string]cache.SharedIndexInformer{}, events: map[string]chan watch.Event{}}
}

type noWatchList struct{}

func (noWatchList) IsWatchListSemanticsUnSupported() bool { return true }

// For implements Source.
func (w *world) For(gvr schema.GroupVersionResource, obj runtime.Object) cache.SharedIndexInformer {
	events := make(chan watch.Event, 1000)
	w.events[gvr.Resource] = events
	w.informers[gvr.Resource] = cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			return &metav1.List{ListMeta: metav1.ListMeta{ResourceVersion: "0"}}, nil
		},
		WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) {
			return watch.NewProxyWatcher(events), nil
		},
	}, noWatchList{}), obj, 0, cache.Indexers{})
	return w.informers[gvr.Resource]
}

// tell sends a change to the informer of its resource and waits for what comes of it.
func (w *world) tell(t watch.EventType, obj metav1.Object) {
	w.mu.Lock()
	w.tellLocked(t, obj)
	w.mu.Unlock()
	settle()
}

func (w *world) tellLocked(t watch.EventType, obj metav1.Object) {
	w.rev++
	obj.SetResourceVersion(strconv.Itoa(w.rev))
	switch obj := obj.(type) {
	case *corev1.Pod:
		w.pods[obj.Name] = obj
		if t == watch.Deleted {
			delete(w.pods, obj.Name)
		}
		w.events["pods"] <- watch.Event{Type: t, Object: obj.DeepCopy()}
	case *corev1.Node:
		w.events["nodes"] <- watch.Event{Type: t, Object: obj.DeepCopy()}
	}
}

// RoundTrip is the API server.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	code, answer := http.StatusCreated, any(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess})
	switch {
	case strings.HasSuffix(r.URL.Path, "/binding"):
		var b corev1.Binding
		if err := json.Unmarshal(body, &b); err != nil {
			return nil, err
		}
		pod := w.pods[b.Name]
		switch {
		case pod == nil:
			code, answer = http.StatusNotFound, failure("NotFound", http.StatusNotFound)
		case w.failures > 0:
			w.failures--
			code, answer = http.StatusInternalServerError, failure("InternalError", http.StatusInternalServerError)
		default:
			w.bindings, w.causes = append(w.bindings, b), append(w.causes, r.Header.Get(schemas.CauseHTTPHeader))
			bound := pod.DeepCopy()
			bound.Spec.NodeName = b.Target.Name
			w.tellLocked(watch.Modified, bound)
		}
	case strings.HasSuffix(r.URL.Path, "/status"):
		var p corev1.Pod
		if err := json.Unmarshal(body, &p); err != nil {
			return nil, err
		}
		w.conditions = append(w.conditions, p.Status.Conditions[0].Message)
		name := strings.Split(r.URL.Path, "/")[6]
		told := w.pods[name].DeepCopy()
		told.Status.Conditions = p.Status.Conditions
		w.tellLocked(watch.Modified, told)
		told = told.DeepCopy()
		told.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
		answer = told
	case strings.HasSuffix(r.URL.Path, "/events"):
		answer = json.RawMessage(body)
	}
	encoded, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(encoded)), Request: r}, nil
}

func failure(reason string, code int32) metav1.Status {
	return metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Reason: metav1.StatusReason(reason), Code: code, Message: reason}
}

// bound returns where pods were bound, as "pod@node".
func (w *world) bound() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, b := range w.bindings {
		out = append(out, b.Name+"@"+b.Target.Name)
	}
	return out
}

const quiet = 500 * time.Millisecond

func settle() {
	time.Sleep(quiet)
	synctest.Wait()
}

// run runs a scheduler over the world until the test ends.
func run(t *testing.T) *world {
	t.Helper()
	w := newWorld()
	cfg := DefaultConfig()
	cfg.Source, cfg.Log = w, zerolog.Nop()
	cfg.API = &rest.Config{Host: "http://fake", Transport: w, WrapTransport: schemas.CauseTransport,
		ContentConfig: rest.ContentConfig{ContentType: "application/json", AcceptContentTypes: "application/json"}}
	s, err := New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, informer := range w.informers {
		wg.Go(func() { informer.RunWithContext(ctx) })
	}
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		time.Sleep(time.Minute) // what records events looks at its end now and then
	})
	settle()
	return w
}

func node(name, cpu string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
		"cpu": resource.MustParse(cpu), "memory": resource.MustParse("8Gi"), "pods": resource.MustParse("110")}}}
}

func pod(name, cpu string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}, Spec: corev1.PodSpec{SchedulerName: corev1.DefaultSchedulerName,
		Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(cpu)}}}}}}
}

func TestBindsAndExplains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t)
		w.tell(watch.Added, node("a", "1"))
		w.tell(watch.Added, node("b", "4"))
		w.tell(watch.Added, pod("p", "2"))
		require.Equal(t, []string{"p@b"}, w.bound())
		require.Equal(t, types.UID("p"), w.bindings[0].UID)
		require.Equal(t, []string{"3"}, w.causes, "the pod's creation is the cause")
		var decision struct {
			Node     string
			Rev      int64
			Rejected map[string]int
		}
		require.NoError(t, json.Unmarshal([]byte(w.bindings[0].Annotations[DecisionAnnotation]), &decision))
		require.Equal(t, "b", decision.Node)
		require.EqualValues(t, 3, decision.Rev)
		require.Equal(t, map[string]int{"Insufficient cpu": 1}, decision.Rejected)
	})
}

func TestFailedBindingIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t)
		w.mu.Lock()
		w.failures = 1
		w.mu.Unlock()
		w.tell(watch.Added, node("a", "2"))
		w.tell(watch.Added, pod("p", "2"))
		require.Empty(t, w.bound())
		time.Sleep(2 * time.Second)
		settle()
		require.Equal(t, []string{"p@a"}, w.bound(), "what the failed binding held was given back")
	})
}

func TestUnschedulablePodWaitsForANode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t)
		w.tell(watch.Added, node("a", "1"))
		w.tell(watch.Added, pod("p", "2"))
		time.Sleep(time.Hour)
		require.Equal(t, []string{"0/1 nodes are available: 1 Insufficient cpu."}, w.conditions, "told once, and not tried by time")
		w.tell(watch.Added, node("b", "2"))
		require.Equal(t, []string{"p@b"}, w.bound())
		require.NotEmpty(t, w.causes[0], "the node is the cause")
	})
}

func TestPodThatGoesMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t)
		w.tell(watch.Added, node("a", "2"))
		first := pod("first", "2")
		w.tell(watch.Added, first)
		w.tell(watch.Added, pod("second", "2"))
		time.Sleep(time.Minute)
		require.Equal(t, []string{"first@a"}, w.bound())
		ended := w.pods["first"].DeepCopy()
		ended.Status.Phase = corev1.PodSucceeded
		w.tell(watch.Modified, ended)
		require.Equal(t, []string{"first@a", "second@a"}, w.bound())
	})
}

func TestWhoIsNotScheduled(t *testing.T) {
	gated, other, claims, deleted, affine := pod("gated", "1"), pod("other", "1"), pod("claims", "1"), pod("deleted", "1"), pod("affine", "1")
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "wait"}}
	other.Spec.SchedulerName = "another"
	claims.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
	deleted.DeletionTimestamp = &metav1.Time{}
	affine.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: "x"}}}}
	for _, tc := range []struct {
		pod  *corev1.Pod
		told string
	}{
		{gated, ""}, {other, ""}, {deleted, ""},
		{claims, `volume "data": persistent volume claims are not supported yet`},
		{affine, "required pod affinity and anti-affinity are not supported yet; remove them or use topologySpreadConstraints"},
	} {
		t.Run(tc.pod.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := run(t)
				w.tell(watch.Added, node("a", "2"))
				w.tell(watch.Added, tc.pod.DeepCopy())
				require.Empty(t, w.bound())
				require.Equal(t, tc.told, strings.Join(w.conditions, ", "))
			})
		})
	}
}

func TestLiftedGateSchedules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t)
		w.tell(watch.Added, node("a", "2"))
		p := pod("p", "1")
		p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "wait"}}
		w.tell(watch.Added, p)
		free := p.DeepCopy()
		free.Spec.SchedulingGates = nil
		w.tell(watch.Modified, free)
		require.Equal(t, []string{"p@a"}, w.bound())
	})
}

func TestConfigValidate(t *testing.T) {
	good := DefaultConfig()
	good.API, good.Source = &rest.Config{}, newWorld()
	require.NoError(t, good.Validate())
	for want, edit := range map[string]func(*Config){
		"Name is empty":  func(c *Config) { c.Name = "" },
		"Binders is 0":   func(c *Config) { c.Binders = 0 },
		"API and Source": func(c *Config) { c.API = nil },
		"are required":   func(c *Config) { c.Source = nil },
	} {
		c := good
		edit(&c)
		require.ErrorContains(t, c.Validate(), want)
	}
}
