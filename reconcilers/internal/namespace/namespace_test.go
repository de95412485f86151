package namespace

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start returns a server with the namespace "a" and the controller running.
func start(t *testing.T) *fakeapi.Server {
	t.Helper()
	s := fakeapi.New()
	for _, name := range []string{"a", "b"} {
		fakeapi.Put(s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}}})
		fakeapi.Put(s, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "c"}})
	}
	c, err := New(s.Client(), s.Metadata(), s, zerolog.Nop())
	require.NoError(t, err)
	fakeapi.Start(t, s, c)
	return s
}

func remove(t *testing.T, s *fakeapi.Server) {
	t.Helper()
	require.NoError(t, s.Client().CoreV1().Namespaces().Delete(t.Context(), "a", metav1.DeleteOptions{}))
	time.Sleep(2 * recheck)
	fakeapi.Settle()
}

func namespace(s *fakeapi.Server) *corev1.Namespace {
	return fakeapi.Get[*corev1.Namespace](s, "", "a")
}

func conditions(s *fakeapi.Server) map[corev1.NamespaceConditionType]corev1.NamespaceCondition {
	byType := map[corev1.NamespaceConditionType]corev1.NamespaceCondition{}
	for _, c := range namespace(s).Status.Conditions {
		byType[c.Type] = c
	}
	return byType
}

func TestEmptiesAndFinalizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		require.Empty(t, s.Writes(), "an active namespace is left alone")
		remove(t, s)
		require.Nil(t, namespace(s))
		all := fakeapi.All[*corev1.ConfigMap](s)
		require.Len(t, all, 1)
		require.Equal(t, "b", all[0].Namespace)
	})
}

func TestPodsGoBeforeWhatTheyUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		p := fakeapi.Put(s, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n"}})
		remove(t, s)
		require.NotNil(t, fakeapi.Get[*corev1.ConfigMap](s, "a", "c"), "the pod may use it")
		require.Contains(t, conditions(s)[corev1.NamespaceContentRemaining].Message, "pods has 1 resource instances")
		fakeapi.Drop(s, p)
		fakeapi.Settle()
		require.Nil(t, fakeapi.Get[*corev1.ConfigMap](s, "a", "c"))
		require.Nil(t, namespace(s))
	})
}

func TestSaysWhichFinalizersHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		held := fakeapi.Put(s, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s", Finalizers: []string{"x/y"}}})
		remove(t, s)
		byType := conditions(s)
		require.Equal(t, "Some resources are remaining: secrets has 1 resource instances", byType[corev1.NamespaceContentRemaining].Message)
		require.Equal(t, "Some content in the namespace has finalizers remaining: x/y in 1 resource instances", byType[corev1.NamespaceFinalizersRemaining].Message)
		fakeapi.Drop(s, held)
		time.Sleep(2 * recheck)
		fakeapi.Settle()
		require.Nil(t, namespace(s))
	})
}

// partly is an API of which one path does not answer while it is down.
type partly struct {
	http.RoundTripper
	path string
	down atomic.Bool
}

func (p *partly) RoundTrip(r *http.Request) (*http.Response, error) {
	if p.down.Load() && r.URL.Path == p.path {
		return nil, errors.New("no answer")
	}
	return p.RoundTripper.RoundTrip(r)
}

func TestStaysWhileNotAllIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}}})
		fakeapi.Put(s, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "c"}})
		config := s.Config()
		api := &partly{RoundTripper: config.Transport, path: "/apis/apps/v1"}
		api.down.Store(true)
		config.Transport = api
		c, err := New(kubernetes.NewForConfigOrDie(config), s.Metadata(), s, zerolog.Nop())
		require.NoError(t, err)
		fakeapi.Start(t, s, c)

		remove(t, s)
		require.Empty(t, fakeapi.All[*corev1.ConfigMap](s), "what is known is deleted")
		condition := conditions(s)[corev1.NamespaceDeletionDiscoveryFailure]
		require.Equal(t, corev1.ConditionTrue, condition.Status)
		require.Contains(t, condition.Message, "Discovery failed for some groups, 1 failing")
		require.Equal(t, corev1.ConditionFalse, conditions(s)[corev1.NamespaceDeletionContentFailure].Status)

		api.down.Store(false)
		time.Sleep(10 * time.Minute) // longer than any wait of the queue
		fakeapi.Settle()
		require.Nil(t, namespace(s))
	})
}
