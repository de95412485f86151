package serviceaccount

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func startTokens(t *testing.T, s *fakeapi.Server) {
	t.Helper()
	c, err := NewTokens(s.Client(), func(_ context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
		return "token of " + account.Name + " in " + secret.Name, nil
	}, []byte("CA"), s, zerolog.Nop())
	require.NoError(t, err)
	fakeapi.Start(t, s, c)
}

func builder(secrets ...corev1.ObjectReference) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "builder"}, Secrets: secrets}
}

func tokenSecret(name, uid string) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: "builder"}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}
	if uid != "" {
		s.Annotations[corev1.ServiceAccountUIDKey] = uid
	}
	return s
}

func secret(s *fakeapi.Server, name string) *corev1.Secret {
	return fakeapi.Get[*corev1.Secret](s, "a", name)
}

func TestTokenSecretIsFilled(t *testing.T) {
	for name, c := range map[string]struct {
		has, want map[string][]byte
	}{
		"empty":      {nil, map[string][]byte{"ca.crt": []byte("CA"), "namespace": []byte("a"), "token": []byte("token of builder in t")}},
		"another CA": {map[string][]byte{"ca.crt": []byte("old"), "namespace": []byte("a"), "token": []byte("mine"), "more": []byte("x")}, map[string][]byte{"ca.crt": []byte("CA"), "namespace": []byte("a"), "token": []byte("mine"), "more": []byte("x")}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := fakeapi.New()
				account := fakeapi.Put(s, builder())
				startTokens(t, s)
				made := tokenSecret("t", "")
				made.Data = c.has
				fakeapi.Put(s, made)
				fakeapi.Settle()
				require.Equal(t, c.want, secret(s, "t").Data)
				require.Equal(t, string(account.UID), secret(s, "t").Annotations[corev1.ServiceAccountUIDKey])
				writes := s.Writes()
				require.Len(t, writes, 1, "and left alone afterwards")
				require.NotEmpty(t, writes[0].Cause)
			})
		})
	}
}

func TestTokenSecretEndsWithItsAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		account := fakeapi.Put(s, builder())
		fakeapi.Put(s, tokenSecret("t", ""))
		opaque := tokenSecret("opaque", "")
		opaque.Type = corev1.SecretTypeOpaque
		fakeapi.Put(s, opaque)
		fakeapi.Put(s, tokenSecret("of-a-former-account", "another-uid"))
		startTokens(t, s)
		require.NotEmpty(t, secret(s, "t").Data)
		require.Nil(t, secret(s, "of-a-former-account"))
		fakeapi.Drop(s, account)
		fakeapi.Settle()
		require.Nil(t, secret(s, "t"))
		require.NotNil(t, secret(s, "opaque"), "an annotation alone makes no token")
		require.Empty(t, secret(s, "opaque").Data)
	})
}

func TestAccountForgetsDeletedTokenSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, builder(corev1.ObjectReference{Name: "t"}, corev1.ObjectReference{Name: "kept"}))
		fakeapi.Put(s, tokenSecret("t", ""))
		startTokens(t, s)
		fakeapi.Drop(s, secret(s, "t"))
		fakeapi.Settle()
		require.Equal(t, []corev1.ObjectReference{{Name: "kept"}}, fakeapi.Get[*corev1.ServiceAccount](s, "a", "builder").Secrets)
	})
}
