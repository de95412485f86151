package image

import (
	"testing"

	"github.com/distribution/reference"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

func dockerConfig(s string) *corev1.Secret {
	return &corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(s)}}
}

func TestKeyring(t *testing.T) {
	k, err := ParseSecret(dockerConfig(`{"auths":{
		"https://index.docker.io/v1/":{"username":"hub","password":"h"},
		"registry.example:5000":{"auth":"aG9zdDpo"},
		"registry.example:5000/team":{"username":"team","password":"t"},
		"*.wild.example":{"username":"wild","password":"w"}}}`))
	require.NoError(t, err)
	for ref, want := range map[string][]string{
		"busybox":                          {"hub"},
		"registry.example:5000/a":          {"host"},
		"registry.example:5000/team/a":     {"team", "host"},
		"registry.example:5000/teamwork/a": {"host"},
		"a.wild.example/x":                 {"wild"},
		"a.b.wild.example/x":               nil,
		"elsewhere.example/x":              nil,
	} {
		named, err := reference.ParseDockerRef(ref)
		require.NoError(t, err)
		var got []string
		for _, c := range k.For(named) {
			got = append(got, c.Username)
		}
		require.Equal(t, want, got, ref)
	}
}

func TestParseSecretRefuses(t *testing.T) {
	for name, s := range map[string]*corev1.Secret{
		"opaque":      {Type: corev1.SecretTypeOpaque},
		"not json":    dockerConfig(`secret`),
		"not base64":  dockerConfig(`{"auths":{"a":{"auth":"???"}}}`),
		"no colon":    dockerConfig(`{"auths":{"a":{"auth":"YWE="}}}`),
		"other field": {Type: corev1.SecretTypeDockercfg, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{}`)}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseSecret(s)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "secret\"")
		})
	}
	k, err := ParseSecret(&corev1.Secret{Type: corev1.SecretTypeDockercfg, Data: map[string][]byte{corev1.DockerConfigKey: []byte(`{"a":{"username":"u"}}`)}})
	require.NoError(t, err)
	require.Len(t, k, 1)
}

func FuzzParseSecret(f *testing.F) {
	f.Add([]byte(`{"auths":{"a":{"auth":"YTpi"}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseSecret(&corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: b}})
		if err != nil {
			return
		}
		named, _ := reference.ParseDockerRef("a/b")
		_ = k.For(named)
	})
}

func TestDefaultPolicy(t *testing.T) {
	for ref, want := range map[string]corev1.PullPolicy{
		"a": corev1.PullAlways, "a:latest": corev1.PullAlways, "a:1": corev1.PullIfNotPresent, "Not An Image": corev1.PullIfNotPresent,
		"a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855": corev1.PullIfNotPresent,
	} {
		require.Equal(t, want, DefaultPolicy(ref), ref)
	}
}
