package podgc

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, s *fakeapi.Server) {
	t.Helper()
	c, err := New(s.Client(), 2, s, zerolog.Nop())
	require.NoError(t, err)
	fakeapi.Start(t, s, c)
}

func pod(name, node string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase}}
}

func names(s *fakeapi.Server) (out []string) {
	for _, p := range fakeapi.All[*corev1.Pod](s) {
		out = append(out, p.Name)
	}
	return out
}

func TestPodsOfGoneNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		n := fakeapi.Put(s, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
		fakeapi.Put(s, pod("here", "n", corev1.PodRunning))
		fakeapi.Put(s, pod("lost", "never-was", corev1.PodRunning))
		fakeapi.Put(s, pod("waiting", "", corev1.PodPending))
		start(t, s)
		require.Equal(t, []string{"here", "waiting"}, names(s))
		fakeapi.Drop(s, n)
		fakeapi.Settle()
		require.Equal(t, []string{"waiting"}, names(s))
	})
}

func TestDeletedBeforePlaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		p := pod("a", "", corev1.PodPending)
		p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		fakeapi.Put(s, p)
		start(t, s)
		require.Empty(t, names(s))
	})
}

func TestOldestFinishedGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
		for i := range 5 {
			p := pod(fmt.Sprint("p", i), "", corev1.PodSucceeded)
			p.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Duration(i) * time.Hour))
			fakeapi.Put(s, p)
		}
		fakeapi.Put(s, pod("runs", "n", corev1.PodRunning))
		start(t, s)
		require.Equal(t, []string{"p0", "p1", "runs"}, names(s))
	})
}
