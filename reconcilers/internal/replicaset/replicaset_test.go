package replicaset

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func set(name string, replicas int32) *appsv1.ReplicaSet {
	labels := map[string]string{"app": name}
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}},
	}
}

func pod(name, app string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": app}}}
}

// start runs the controller over what the server holds.
func start(t *testing.T, s *fakeapi.Server) {
	t.Helper()
	c, err := New(s.Client(), s, zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.InfoLevel))
	require.NoError(t, err)
	fakeapi.Start(t, s, c)
}

func status(s *fakeapi.Server, name string) appsv1.ReplicaSetStatus {
	return fakeapi.Get[*appsv1.ReplicaSet](s, "default", name).Status
}

// makeReady reports all pods as running and ready.
func makeReady(s *fakeapi.Server) {
	for _, p := range fakeapi.All[*corev1.Pod](s) {
		p.Spec.NodeName = "node"
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		fakeapi.Put(s, p)
	}
}

func TestCreatesMissingPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		rs := fakeapi.Put(s, set("web", 3))
		start(t, s)
		pods := fakeapi.All[*corev1.Pod](s)
		require.Len(t, pods, 3)
		for _, p := range pods {
			require.Equal(t, rs.UID, metav1.GetControllerOf(p).UID)
			require.Equal(t, "web", p.Labels["app"])
		}
		require.EqualValues(t, 3, status(s, "web").Replicas)
		require.EqualValues(t, 1, status(s, "web").ObservedGeneration)
		require.NotEmpty(t, s.Writes()[0].Cause, "a write names its cause")
	})
}

func TestDoesNotCreateTwiceWhenEventsAreLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		start(t, s)
		release := s.Hold(corev1.SchemeGroupVersion.WithResource("pods"))
		fakeapi.Put(s, set("web", 3))
		fakeapi.Settle()
		require.Len(t, fakeapi.All[*corev1.Pod](s), 3)
		release()
		fakeapi.Settle()
		require.Len(t, fakeapi.All[*corev1.Pod](s), 3)
		require.EqualValues(t, 3, status(s, "web").Replicas)
	})
}

func TestDeletesSurplusAndReplacesLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, set("web", 3))
		start(t, s)
		makeReady(s)
		fakeapi.Settle()
		require.EqualValues(t, 3, status(s, "web").AvailableReplicas)
		one := int32(1)
		rs := fakeapi.Get[*appsv1.ReplicaSet](s, "default", "web")
		rs.Spec.Replicas = &one
		fakeapi.Put(s, rs)
		fakeapi.Settle()
		var left []string
		for _, p := range fakeapi.All[*corev1.Pod](s) {
			if p.DeletionTimestamp == nil {
				left = append(left, p.Name)
			}
		}
		require.Len(t, left, 1)
		require.EqualValues(t, 2, *status(s, "web").TerminatingReplicas)
		require.NoError(t, s.Client().CoreV1().Pods("default").Delete(t.Context(), left[0], metav1.DeleteOptions{}))
		fakeapi.Settle()
		require.Len(t, fakeapi.All[*corev1.Pod](s), 4, "three end, one is new")
	})
}

func TestFinishedPodsAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, set("web", 1))
		start(t, s)
		p := fakeapi.All[*corev1.Pod](s)[0]
		p.Status.Phase = corev1.PodFailed
		fakeapi.Put(s, p)
		fakeapi.Settle()
		require.Len(t, fakeapi.All[*corev1.Pod](s), 2)
	})
}

func TestAdoptsOrphansAndReleasesStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, pod("orphan", "web"))
		rs := fakeapi.Put(s, set("web", 2))
		start(t, s)
		require.Len(t, fakeapi.All[*corev1.Pod](s), 2, "the orphan counts")
		orphan := fakeapi.Get[*corev1.Pod](s, "default", "orphan")
		require.Equal(t, rs.UID, metav1.GetControllerOf(orphan).UID)
		orphan.Labels = map[string]string{"app": "debug"}
		fakeapi.Put(s, orphan)
		fakeapi.Settle()
		require.Nil(t, metav1.GetControllerOf(fakeapi.Get[*corev1.Pod](s, "default", "orphan")))
		require.Len(t, fakeapi.All[*corev1.Pod](s), 3)
	})
}

// An adopted pod that the informer still shows as an orphan was not counted in the next
// pass, and one too many was made.
func TestAdoptedPodCountsBeforeItsEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, pod("orphan", "web"))
		start(t, s)
		s.Hold(corev1.SchemeGroupVersion.WithResource("pods"))
		fakeapi.Put(s, set("web", 1))
		fakeapi.Settle()
		rs := fakeapi.Get[*appsv1.ReplicaSet](s, "default", "web")
		rs.Annotations = map[string]string{"wake": "up"}
		fakeapi.Put(s, rs)
		fakeapi.Settle()
		require.Len(t, fakeapi.All[*corev1.Pod](s), 1)
	})
}

// A ReplicaSet that is known to be there, but is being deleted with its pods orphaned,
// took them back.
func TestDyingSetDoesNotAdopt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		rs := fakeapi.Put(s, set("web", 1))
		start(t, s)
		p := fakeapi.All[*corev1.Pod](s)[0]
		s.Hold(appsv1.SchemeGroupVersion.WithResource("replicasets"))
		orphan := metav1.DeletePropagationOrphan
		require.NoError(t, s.Client().AppsV1().ReplicaSets("default").Delete(t.Context(), rs.Name, metav1.DeleteOptions{PropagationPolicy: &orphan}))
		p.OwnerReferences = nil
		fakeapi.Put(s, p)
		fakeapi.Settle()
		require.Nil(t, metav1.GetControllerOf(fakeapi.Get[*corev1.Pod](s, "default", p.Name)))
	})
}

// A pod that changes its labels from one ReplicaSet's to another's is taken over.
func TestReleasedPodIsAdoptedByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, set("a", 1))
		start(t, s)
		fakeapi.Put(s, set("b", 0))
		fakeapi.Settle()
		p := fakeapi.All[*corev1.Pod](s)[0]
		p.Labels = map[string]string{"app": "b"}
		fakeapi.Put(s, p)
		fakeapi.Settle()
		require.Nil(t, fakeapi.Get[*corev1.Pod](s, "default", p.Name), "b wants none, so it deletes what it adopted")
	})
}

// Every refusal names another pod. Writing each into the condition woke the key at once
// and so undid the back-off.
func TestQuotaFailureBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		var tries atomic.Int64
		var refusing atomic.Bool
		refusing.Store(true)
		s.Refuse = func(w fakeapi.Write, _ *unstructured.Unstructured) *apierrors.StatusError {
			if w.Resource != "pods" || w.Verb != "create" || !refusing.Load() {
				return nil
			}
			return apierrors.NewForbidden(corev1.Resource("pods"), fmt.Sprintf("web-%d", tries.Add(1)), errors.New("exceeded quota"))
		}
		fakeapi.Put(s, set("web", 3))
		start(t, s)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Less(t, tries.Load(), int64(20))
		c := status(s, "web").Conditions
		require.Len(t, c, 1)
		require.Equal(t, "FailedCreate", c[0].Reason)
		require.Contains(t, c[0].Message, "exceeded quota")
		require.Zero(t, status(s, "web").Replicas)
		refusing.Store(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Empty(t, status(s, "web").Conditions)
		require.Len(t, fakeapi.All[*corev1.Pod](s), 3)
	})
}

func TestTerminatingNamespaceIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		s.Refuse = func(w fakeapi.Write, _ *unstructured.Unstructured) *apierrors.StatusError {
			if w.Resource != "pods" {
				return nil
			}
			err := apierrors.NewForbidden(corev1.Resource("pods"), "web", errors.New("terminating"))
			err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
			return err
		}
		fakeapi.Put(s, set("web", 3))
		start(t, s)
		require.Empty(t, status(s, "web").Conditions)
	})
}

func TestAvailableAfterMinReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		rs := set("web", 1)
		rs.Spec.MinReadySeconds = 30
		fakeapi.Put(s, rs)
		start(t, s)
		makeReady(s)
		fakeapi.Settle()
		require.EqualValues(t, 1, status(s, "web").ReadyReplicas)
		require.Zero(t, status(s, "web").AvailableReplicas)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 1, status(s, "web").AvailableReplicas)
	})
}

func TestDyingSetCreatesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		rs := set("web", 3)
		now := metav1.Now()
		rs.DeletionTimestamp, rs.Finalizers = &now, []string{"x/y"}
		fakeapi.Put(s, rs)
		start(t, s)
		require.Empty(t, fakeapi.All[*corev1.Pod](s))
	})
}
