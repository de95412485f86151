package replicaset

import (
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func replicationController(name string, replicas int32) *corev1.ReplicationController {
	labels := map[string]string{"app": name}
	return &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.ReplicationControllerSpec{Replicas: &replicas, Selector: labels, Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}},
	}
}

func startForReplicationControllers(t *testing.T, s *fakeapi.Server) {
	t.Helper()
	c, err := NewForReplicationControllers(s.Client(), s, zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.InfoLevel))
	require.NoError(t, err)
	fakeapi.Start(t, s, c)
}

func TestReplicationControllerKeepsItsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, pod("orphan", "web"))
		rc := fakeapi.Put(s, replicationController("web", 3))
		startForReplicationControllers(t, s)
		all := fakeapi.All[*corev1.Pod](s)
		require.Len(t, all, 3, "the orphan counts")
		for _, p := range all {
			owner := metav1.GetControllerOf(p)
			require.Equal(t, "ReplicationController", owner.Kind)
			require.Equal(t, "v1", owner.APIVersion)
			require.Equal(t, rc.UID, owner.UID)
		}
		makeReady(s)
		fakeapi.Settle()
		got := fakeapi.Get[*corev1.ReplicationController](s, "default", "web")
		require.Equal(t, corev1.ReplicationControllerStatus{Replicas: 3, FullyLabeledReplicas: 3, ReadyReplicas: 3, AvailableReplicas: 3, ObservedGeneration: 1}, got.Status)
		s.Writes() // those so far
		got.Annotations = map[string]string{"wake": "up"}
		fakeapi.Put(s, got)
		fakeapi.Settle()
		require.Empty(t, s.Writes(), "a status that is right is not written again")
	})
}

func TestReplicationControllerReleasesWhatNoLongerMatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, replicationController("web", 1))
		startForReplicationControllers(t, s)
		p := fakeapi.All[*corev1.Pod](s)[0]
		p.Labels = map[string]string{"app": "other"}
		fakeapi.Put(s, p)
		fakeapi.Settle()
		require.Nil(t, metav1.GetControllerOf(fakeapi.Get[*corev1.Pod](s, "default", p.Name)))
		require.Len(t, fakeapi.All[*corev1.Pod](s), 2)
	})
}

func TestReplicationControllerTellsWhyPodsAreMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		full := true
		s.Refuse = func(w fakeapi.Write, _ *unstructured.Unstructured) *apierrors.StatusError {
			if full && w.Verb == "create" && w.Resource == "pods" {
				return apierrors.NewForbidden(corev1.Resource("pods"), w.Name, nil)
			}
			return nil
		}
		fakeapi.Put(s, replicationController("web", 1))
		startForReplicationControllers(t, s)
		conditions := fakeapi.Get[*corev1.ReplicationController](s, "default", "web").Status.Conditions
		require.Len(t, conditions, 1)
		require.Equal(t, corev1.ReplicationControllerReplicaFailure, conditions[0].Type)
		require.Equal(t, "FailedCreate", conditions[0].Reason)
		full = false
		rc := fakeapi.Get[*corev1.ReplicationController](s, "default", "web")
		rc.Annotations = map[string]string{"wake": "up"}
		fakeapi.Put(s, rc)
		fakeapi.Settle()
		require.Empty(t, fakeapi.Get[*corev1.ReplicationController](s, "default", "web").Status.Conditions)
	})
}
