package apiserver_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/apiserver/pki"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

func oneGiB() corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
}

// stored reads what etcd holds for an object.
func (c *cluster) stored(t *testing.T, key schemas.Key) (schemas.Header, []byte) {
	t.Helper()
	resp, err := c.etcd.Get(t.Context(), key.Path())
	require.NoError(t, err)
	require.Len(t, resp.Kvs, 1)
	header, object, err := schemas.DecodeValue(resp.Kvs[0].Value)
	require.NoError(t, err)
	return header, object
}

func TestStoredValueIsAnEnvelope(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	key := schemas.Key{Resource: "configmaps", Namespace: ns, Name: "m"}
	before := time.Now().Add(-time.Second)
	made, err := c.client.CoreV1().ConfigMaps(ns).Create(schemas.WithCause(t.Context(), 7, 9), configMap("m", nil), metav1.CreateOptions{FieldManager: "the-manager"})
	require.NoError(t, err)
	header, object := c.stored(t, key)
	require.Equal(t, schemas.HeaderVersion, header.V)
	require.Equal(t, "create", header.Verb)
	require.Equal(t, "admin", header.User)
	require.Contains(t, header.Groups, "system:masters")
	require.Equal(t, "the-manager", header.Manager)
	require.Equal(t, "tester/1.0", header.Agent)
	require.Equal(t, []int64{7, 9}, header.Cause)
	require.NotEmpty(t, header.Request)
	require.False(t, header.Dry)
	require.WithinRange(t, header.Time, before, time.Now().Add(time.Second))

	require.True(t, strings.HasPrefix(string(object), `{"kind":"ConfigMap","apiVersion":"v1","metadata":{`), "%s", object)
	require.NotContains(t, string(object), "resourceVersion")
	require.NotContains(t, string(object), "\n")
	rev, err := strconv.ParseInt(made.ResourceVersion, 10, 64)
	require.NoError(t, err)
	require.Contains(t, string(schemas.AppendWithResourceVersion(nil, object, rev)), `"metadata":{"resourceVersion":"`+made.ResourceVersion+`"`)

	path := "/api/v1/namespaces/" + ns + "/configmaps/m"
	a := c.send(t, "PATCH", path, `{"data":{"a":"2"}}`, "Content-Type: application/merge-patch+json",
		"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", schemas.CauseHTTPHeader+": 12, nonsense, -4, 13", "User-Agent: kubectl/v1.37.2 (linux)")
	require.Equal(t, 200, a.status, "%s", a.body)
	header, _ = c.stored(t, key)
	require.Equal(t, "patch", header.Verb)
	require.Equal(t, []int64{12, 13}, header.Cause)
	require.Equal(t, "kubectl", header.Manager)
	require.Equal(t, "kubectl/v1.37.2 (linux)", header.Agent)
	require.Equal(t, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", header.Trace)
	require.Equal(t, a.header.Get("Audit-Id"), header.Request)
}

func TestHeaderNamesTheOneWhoIsActedFor(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	_, err := c.as(t, "alice", "system:masters").CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("m", nil), metav1.CreateOptions{})
	require.NoError(t, err)
	header, _ := c.stored(t, schemas.Key{Resource: "configmaps", Namespace: ns, Name: "m"})
	require.Equal(t, "alice", header.User)
}

func TestSecretsAreSealed(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	const value = "correct horse battery staple"
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Labels: map[string]string{"shown": "yes"},
		Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: `{"data":"` + value + `"}`, "note": "kept"}},
		Data: map[string][]byte{"password": []byte(value)}}
	made, err := c.client.CoreV1().Secrets(ns).Create(t.Context(), secret, metav1.CreateOptions{})
	require.NoError(t, err)
	key := schemas.Key{Resource: "secrets", Namespace: ns, Name: "s"}
	resp, err := c.etcd.Get(t.Context(), key.Path())
	require.NoError(t, err)
	for _, leak := range []string{value, base64.StdEncoding.EncodeToString([]byte(value))} {
		require.NotContains(t, string(resp.Kvs[0].Value), leak)
	}
	_, object := c.stored(t, key)
	require.Contains(t, string(object), `"shown":"yes"`)
	require.Contains(t, string(object), `"type":"Opaque"`)
	require.Contains(t, string(object), `"sealed":"`)

	// Everything else about it works as ever.
	for _, rv := range []string{"", "0", made.ResourceVersion} {
		list, err := c.client.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{ResourceVersion: rv, FieldSelector: "type=Opaque"})
		require.NoError(t, err)
		require.Equal(t, []corev1.Secret{*made}, list.Items)
	}
	made.Data["password"] = []byte("other")
	changed, err := c.client.CoreV1().Secrets(ns).Update(t.Context(), made, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.Equal(t, "other", string(changed.Data["password"]))
	require.Equal(t, secret.Annotations, changed.Annotations)
}

func TestDeleteLeavesItsHeader(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	c.configMap(t, ns, "m", nil)
	key := schemas.Key{Resource: "configmaps", Namespace: ns, Name: "m"}
	from := c.revision(t) + 1
	require.NoError(t, c.client.CoreV1().ConfigMaps(ns).Delete(schemas.WithCause(t.Context(), 5), "m", metav1.DeleteOptions{}))
	cause, err := c.etcd.Get(t.Context(), schemas.CausePrefix+"test")
	require.NoError(t, err)
	require.Len(t, cause.Kvs, 1)
	header, object, err := schemas.DecodeValue(cause.Kvs[0].Value)
	require.NoError(t, err)
	require.Empty(t, object)
	require.Equal(t, "delete", header.Verb)
	require.Equal(t, "admin", header.User)
	require.Equal(t, []int64{5}, header.Cause)
	got := <-c.etcd.Watch(t.Context(), key.Path(), clientv3.WithRev(from))
	require.Len(t, got.Events, 1)
	require.Equal(t, clientv3.EventTypeDelete, got.Events[0].Type)
	require.Equal(t, cause.Kvs[0].ModRevision, got.Events[0].Kv.ModRevision)
}

func certificate(t *testing.T, ca *pki.Authority, leaf pki.Leaf) *x509.Certificate {
	t.Helper()
	pair, err := ca.Issue(leaf)
	require.NoError(t, err)
	data, err := os.ReadFile(pair.CertFile)
	require.NoError(t, err)
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	return cert
}

func TestBusGuard(t *testing.T) {
	c := server(t)
	grant, err := c.server.Authorize(t.Context(), bus.Credentials{Certificate: certificate(t, c.ca, pki.Leaf{Name: "admin", CommonName: "admin", Organizations: []string{"system:masters"}, Client: true})})
	require.NoError(t, err)
	require.Equal(t, "admin", grant.User)
	require.Equal(t, []string{"h.>"}, grant.Filters)
	require.WithinRange(t, grant.Expires, time.Now(), time.Now().Add(time.Hour))

	for name, credentials := range map[string]bus.Credentials{
		"nothing shown":       {},
		"unknown token":       {Token: "nonsense"},
		"foreign certificate": {Certificate: certificate(t, foreignCA(t), pki.Leaf{Name: "admin", CommonName: "admin", Organizations: []string{"system:masters"}, Client: true})},
		"no permission":       {Certificate: certificate(t, c.ca, pki.Leaf{Name: "alice", CommonName: "alice", Client: true})},
	} {
		grant, err := c.server.Authorize(t.Context(), credentials)
		require.Error(t, err, name)
		require.Zero(t, grant, name)
	}
}

func foreignCA(t *testing.T) *pki.Authority {
	t.Helper()
	ca, err := pki.Load(t.TempDir(), "foreign")
	require.NoError(t, err)
	return ca
}

func TestBusGuardDeniesBeforeItServes(t *testing.T) {
	c := server(t)
	cfg := apiserver.DefaultConfig()
	cfg.Listen, cfg.Advertise, cfg.SealFile = "127.0.0.1:0", netip.MustParseAddr("192.0.2.1"), filepath.Join(t.TempDir(), "seal.key")
	cfg.Etcd, cfg.PKI, cfg.Log = c.etcd, foreignCA(t), zerolog.Nop()
	s, err := apiserver.New(cfg)
	require.NoError(t, err)
	_, err = s.Authorize(t.Context(), bus.Credentials{Token: "any"})
	require.ErrorContains(t, err, "does not serve yet")
}
