package rootca

import (
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func namespace(name string, phase corev1.NamespacePhase) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NamespaceStatus{Phase: phase}}
}

func start(t *testing.T, s *fakeapi.Server) {
	t.Helper()
	c, err := New(s.Client(), []byte("CA"), s, zerolog.Nop())
	require.NoError(t, err)
	fakeapi.Start(t, s, c)
}

func in(s *fakeapi.Server, namespace string) *corev1.ConfigMap {
	return fakeapi.Get[*corev1.ConfigMap](s, namespace, "kube-root-ca.crt")
}

func TestEveryActiveNamespaceHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, namespace("a", corev1.NamespaceActive))
		fakeapi.Put(s, namespace("ending", corev1.NamespaceTerminating))
		start(t, s)
		require.NotNil(t, in(s, "a"))
		require.Nil(t, in(s, "ending"))
		require.NotEmpty(t, s.Writes()[0].Cause)
		fakeapi.Put(s, namespace("b", corev1.NamespaceActive))
		fakeapi.Settle()
		require.NotNil(t, in(s, "b"))
	})
}

func TestDeletedOnesComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, namespace("a", corev1.NamespaceActive))
		start(t, s)
		was := in(s, "a")
		fakeapi.Drop(s, was)
		fakeapi.Settle()
		require.NotNil(t, in(s, "a"))
		require.NotEqual(t, was.UID, in(s, "a").UID)
	})
}

func TestChangedOnesAreMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, namespace("a", corev1.NamespaceActive))
		start(t, s)
		changed := in(s, "a")
		changed.Data = map[string]string{"ca.crt": "forged", "more": "x"}
		fakeapi.Put(s, changed)
		fakeapi.Settle()
		require.Equal(t, map[string]string{"ca.crt": "CA"}, in(s, "a").Data)
	})
}
