package bootstraptoken

import (
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

func TestExpiredTokensGo(t *testing.T) {
	token := func(change func(*corev1.Secret)) *corev1.Secret {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abcdef"}, Type: corev1.SecretTypeBootstrapToken, Data: map[string][]byte{}}
		change(s)
		return s
	}
	in := func(d time.Duration) func(*corev1.Secret) {
		return func(s *corev1.Secret) { s.Data["expiration"] = []byte(time.Now().Add(d).Format(time.RFC3339)) }
	}
	for name, tc := range map[string]struct {
		change       func(*corev1.Secret)
		stays, later bool // at once, and after an hour
	}{
		"no end":         {func(*corev1.Secret) {}, true, true},
		"over":           {in(-time.Second), false, false},
		"in ten minutes": {in(10 * time.Minute), true, false},
		"in two hours":   {in(2 * time.Hour), true, true},
		"no time":        {func(s *corev1.Secret) { s.Data["expiration"] = []byte("tomorrow") }, false, false},
		"another type":   {func(s *corev1.Secret) { in(-time.Hour)(s); s.Type = corev1.SecretTypeOpaque }, true, true},
		"another place":  {func(s *corev1.Secret) { in(-time.Hour)(s); s.Namespace = "default" }, true, true},
		"another name":   {func(s *corev1.Secret) { in(-time.Hour)(s); s.Name = "token" }, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := fakeapi.New()
				secret := fakeapi.Put(s, token(tc.change))
				c, err := New(s.Client(), s, zerolog.Nop())
				require.NoError(t, err)
				fakeapi.Start(t, s, c)
				there := func() bool { return fakeapi.Get[*corev1.Secret](s, secret.Namespace, secret.Name) != nil }
				require.Equal(t, tc.stays, there())
				time.Sleep(time.Hour)
				fakeapi.Settle()
				require.Equal(t, tc.later, there())
			})
		})
	}
}

func TestAGivenLongerTimeStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		at := func(d time.Duration) map[string][]byte {
			return map[string][]byte{"expiration": []byte(time.Now().Add(d).Format(time.RFC3339))}
		}
		secret := fakeapi.Put(s, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abcdef"}, Type: corev1.SecretTypeBootstrapToken, Data: at(time.Minute)})
		c, err := New(s.Client(), s, zerolog.Nop())
		require.NoError(t, err)
		fakeapi.Start(t, s, c)
		secret.Data = at(time.Hour)
		fakeapi.Put(s, secret)
		time.Sleep(10 * time.Minute)
		fakeapi.Settle()
		require.NotNil(t, fakeapi.Get[*corev1.Secret](s, "kube-system", "bootstrap-token-abcdef"))
	})
}
