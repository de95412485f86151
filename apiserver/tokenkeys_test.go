package apiserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/apiserver/etcd"
)

// keyFiles writes a key, and its public half, as files.
func keyFiles(t *testing.T, key any, public any) (private, publicOnly string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	half, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	return writeFile(t, "signing.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))),
		writeFile(t, "signing.pub", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: half})))
}

// A signing key is changed by naming the next one and keeping the former one's public half.
func TestSigningKeysAreRotated(t *testing.T) {
	e, err := etcd.Start(t.Context(), etcd.Config{Dir: t.TempDir(), NoSync: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	dir := t.TempDir()
	c := &cluster{etcd: e.Client(), sealFile: filepath.Join(dir, "seal.key")}
	run := func(change func(*apiserver.AccessConfig), use func()) {
		t.Helper()
		stop, err := c.start(filepath.Join(dir, "pki"), "test", func(cfg *apiserver.Config) { change(&cfg.Access) })
		defer func() { require.NoError(t, stop()) }()
		require.NoError(t, err)
		use()
	}
	token := func() string {
		got, err := c.client.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "builder", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		require.NoError(t, err)
		return got.Status.Token
	}
	believed := func(token string, want bool) {
		t.Helper()
		who, err := whoIs(t, c, token)
		if !want {
			require.ErrorContains(t, err, "Unauthorized")
			return
		}
		require.NoError(t, err)
		require.Equal(t, "system:serviceaccount:default:builder", who.Username)
	}
	listed := func(want int) {
		t.Helper()
		var set struct{ Keys []struct{ Kid, Alg string } }
		answer := c.send(t, "GET", "/openid/v1/jwks", "")
		require.Equal(t, http.StatusOK, answer.status)
		require.NoError(t, json.Unmarshal(answer.body, &set))
		require.Len(t, set.Keys, want)
	}
	second, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	secondKey, secondPublic := keyFiles(t, second, second.Public())
	third, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	thirdKey, _ := keyFiles(t, third, third.Public())
	own := filepath.Join(dir, "pki", "service-account.key")

	var first, next string
	run(func(*apiserver.AccessConfig) {}, func() {
		_, err := c.client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "builder"}}, metav1.CreateOptions{})
		require.NoError(t, err)
		first = token()
		believed(first, true)
		listed(1)
	})
	run(func(a *apiserver.AccessConfig) {
		a.SigningKeyFile, a.TokenKeyFiles = secondKey, []string{own, secondPublic}
	}, func() {
		next = token()
		believed(first, true)
		believed(next, true)
		listed(2) // the signing key counts once
	})
	run(func(a *apiserver.AccessConfig) { a.SigningKeyFile, a.TokenKeyFiles = thirdKey, []string{secondPublic} }, func() {
		believed(first, false)
		believed(next, true)
		believed(token(), true)
		listed(2)
	})
}

func TestBadKeyFilesAreNamed(t *testing.T) {
	garbage := writeFile(t, "garbage.key", "x")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	_, public := keyFiles(t, key, key.Public())
	for name, c := range map[string]struct {
		access apiserver.AccessConfig
		want   []string
	}{
		"signing key missing":   {apiserver.AccessConfig{SigningKeyFile: "/nowhere"}, []string{"--service-account-signing-key-file", "/nowhere"}},
		"signing key garbage":   {apiserver.AccessConfig{SigningKeyFile: garbage}, []string{"--service-account-signing-key-file", garbage}},
		"signing key is public": {apiserver.AccessConfig{SigningKeyFile: public}, []string{"--service-account-signing-key-file", public}},
		"key missing":           {apiserver.AccessConfig{TokenKeyFiles: []string{public, "/nowhere"}}, []string{"--service-account-key-file", "/nowhere"}},
		"key garbage":           {apiserver.AccessConfig{TokenKeyFiles: []string{garbage}}, []string{"--service-account-key-file", garbage}},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.access.Validate()
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

// A token in a Secret is good for as long as the Secret holds it.
func TestTokensInSecrets(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	sign, err := apiserver.SecretTokens(apiserver.AccessConfig{}, c.ca)
	require.NoError(t, err)
	account, err := c.client.CoreV1().ServiceAccounts(ns).Get(t.Context(), "default", metav1.GetOptions{})
	require.NoError(t, err)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "t", Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}}, Type: corev1.SecretTypeServiceAccountToken}
	token, err := sign(t.Context(), account, secret)
	require.NoError(t, err)
	secret.Data = map[string][]byte{corev1.ServiceAccountTokenKey: []byte(token)}
	_, err = whoIs(t, c, token)
	require.ErrorContains(t, err, "Unauthorized", "no Secret holds it")

	secrets := c.client.CoreV1().Secrets(ns)
	_, err = secrets.Create(t.Context(), secret, metav1.CreateOptions{})
	require.NoError(t, err)
	who, err := whoIs(t, c, token)
	require.NoError(t, err)
	require.Equal(t, "system:serviceaccount:"+ns+":default", who.Username)
	used, err := secrets.Get(t.Context(), "t", metav1.GetOptions{})
	require.NoError(t, err)
	require.NotEmpty(t, used.Labels["kubernetes.io/legacy-token-last-used"])

	require.NoError(t, secrets.Delete(t.Context(), "t", metav1.DeleteOptions{}))
	eventually(t, func() error {
		if _, err := whoIs(t, c, token); err == nil {
			return errors.New("the token outlives its Secret")
		}
		return nil
	})
}

func TestTokenTrackingIsAnnounced(t *testing.T) {
	c := server(t)
	since, err := c.client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "kube-apiserver-legacy-service-account-token-tracking", metav1.GetOptions{})
	require.NoError(t, err)
	require.Regexp(t, `^\d{4}-\d\d-\d\d$`, since.Data["since"])
}
