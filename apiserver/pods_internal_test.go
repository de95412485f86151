package apiserver

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/apiserver/internal/store"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas"
)

// podsOf are the pods of a view.
func podsOf(t *testing.T, v *view.View) *pods {
	t.Helper()
	st, err := store.New(store.Config{View: v, Prefix: schemas.RegistryPrefix + "core/pods", Resource: schema.GroupResource{Resource: "pods"}, Shape: view.Bare(true)})
	require.NoError(t, err)
	return &pods{store: func() *store.Store { return st }}
}

func podEntry(rev int64, kind feed.Type, namespace, name, node string) feed.Entry {
	object := fmt.Sprintf(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":%q,"namespace":%q,"labels":{"name":%q}},"spec":{"nodeName":%q,"volumes":[{"name":"v","secret":{"secretName":"s"}}]}}`,
		name, namespace, name, node)
	return feed.Entry{Rev: rev, CreateRev: rev, Cnt: 1, Type: kind, Object: []byte(object), Key: schemas.Key{Resource: "pods", Namespace: namespace, Name: name}}
}

func TestPodListerReadsTheView(t *testing.T) {
	v := view.New(nil)
	require.NoError(t, v.Reset(3, []feed.Entry{podEntry(1, feed.Created, "a", "x", ""), podEntry(2, feed.Created, "a", "y", ""), podEntry(3, feed.Created, "b", "x", "")}))
	lister := withPods(informers.NewSharedInformerFactory(fake.NewClientset(), 0), podsOf(t, v)).Core().V1().Pods().Lister()

	pod, err := lister.Pods("a").Get("y")
	require.NoError(t, err)
	require.Equal(t, "2", pod.ResourceVersion)
	require.Equal(t, "s", pod.Spec.Volumes[0].Secret.SecretName, "it is a whole pod")
	require.Empty(t, pod.Kind, "as clients decode it")
	_, err = lister.Pods("b").Get("y")
	require.True(t, apierrors.IsNotFound(err), "%v", err)
	require.EqualError(t, err, `pod "y" not found`, "as upstream's lister says it, which admission passes on")

	for name, tc := range map[string]struct {
		namespace string
		selector  labels.Selector
		want      int
	}{
		"all":             {"", labels.Everything(), 3},
		"of a namespace":  {"a", labels.Everything(), 2},
		"by a label":      {"", labels.SelectorFromSet(labels.Set{"name": "x"}), 2},
		"of no namespace": {"c", labels.Everything(), 0},
	} {
		found, err := lister.Pods(tc.namespace).List(tc.selector)
		require.NoError(t, err, name)
		require.Len(t, found, tc.want, name)
	}

	_, err = podLister{&pods{store: func() *store.Store { return nil }}, "a"}.Get("x")
	require.ErrorIs(t, err, errNoPods)
}

func TestPodInformerFollowsTheView(t *testing.T) {
	v := view.New(nil)
	require.NoError(t, v.Reset(1, []feed.Entry{podEntry(1, feed.Created, "a", "x", "node-1")}))
	factory := withPods(informers.NewSharedInformerFactory(fake.NewClientset(), 0), podsOf(t, v))
	informer := factory.Core().V1().Pods().Informer()
	told := make(chan string, 16)
	tell := func(what string, object any) {
		if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = tombstone.Obj
		}
		pod, _ := object.(*corev1.Pod)
		told <- fmt.Sprintf("%s %s on %q at %s", what, pod.Name, pod.Spec.NodeName, pod.ResourceVersion)
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(p any) { tell("add", p) },
		UpdateFunc: func(_, p any) { tell("update", p) },
		DeleteFunc: func(p any) { tell("delete", p) },
	})
	require.NoError(t, err)
	factory.Start(t.Context().Done())
	t.Cleanup(factory.Shutdown)

	apply := func(e feed.Entry) { v.Apply(feed.Batch{Rev: e.Rev, Entries: []feed.Entry{e}}) }
	require.Equal(t, `add x on "node-1" at 1`, <-told)
	apply(podEntry(2, feed.Created, "a", "y", ""))
	require.Equal(t, `add y on "" at 2`, <-told)
	apply(podEntry(3, feed.Modified, "a", "y", "node-2"))
	require.Equal(t, `update y on "node-2" at 3`, <-told)
	gone := podEntry(4, feed.Deleted, "a", "y", "")
	gone.Object = nil // etcd has compacted it away
	apply(gone)
	require.Equal(t, `delete y on "node-2" at 4`, <-told)

	// The view begins anew, without what it had told before.
	require.NoError(t, v.Reset(9, []feed.Entry{podEntry(8, feed.Created, "a", "z", "node-1")}))
	got := map[string]bool{<-told: true, <-told: true}
	require.Equal(t, map[string]bool{`add z on "node-1" at 8`: true, `delete x on "node-1" at 1`: true}, got)
}
