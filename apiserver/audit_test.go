package apiserver_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/apiserver/pki"
	"github.com/rutter-project/rutter/schemas"
)

// testPolicy keeps the server's own requests and Secrets' contents out, and asks for all
// of ConfigMaps.
const testPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:apiserver"]
- level: Metadata
  resources: [{group: "", resources: [secrets]}]
- level: RequestResponse
  resources: [{group: "", resources: [configmaps]}]
- level: Metadata
`

func writeFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// records reads an audit log.
func records(t testing.TB, path string) []auditv1.Event {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	var found []auditv1.Event
	for line := range bytes.Lines(data) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // being written
		}
		var e auditv1.Event
		require.NoError(t, json.Unmarshal(line, &e), "%s", line)
		found = append(found, e)
	}
	return found
}

// record waits for the record of a request by its audit ID.
func record(t testing.TB, path, id string) auditv1.Event {
	t.Helper()
	var found auditv1.Event
	eventually(t, func() error {
		for _, e := range records(t, path) {
			if string(e.AuditID) == id {
				found = e
				return nil
			}
		}
		return errors.New("no record of " + id)
	})
	return found
}

func TestAuditRecordsWhatThePolicyAsks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	c := alone(t, func(cfg *apiserver.Config) {
		cfg.Access.Audit.PolicyFile, cfg.Access.Audit.Log.Path = writeFile(t, "policy.yaml", testPolicy), path
	})

	a := c.send(t, "POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"m"},"data":{"a":"plain"}}`, "Content-Type: application/json")
	require.Equal(t, 201, a.status, "%s", a.body)
	id := a.header.Get("Audit-Id")
	got := record(t, path, id)
	require.Equal(t, auditv1.LevelRequestResponse, got.Level)
	require.Equal(t, "create", got.Verb)
	require.Equal(t, "admin", got.User.Username)
	require.Equal(t, "m", got.ObjectRef.Name)
	require.Equal(t, int32(201), got.ResponseStatus.Code)
	require.Contains(t, string(got.RequestObject.Raw), "plain")
	require.Contains(t, string(got.ResponseObject.Raw), "resourceVersion")
	require.Equal(t, "allow", got.Annotations["authorization.k8s.io/decision"])

	stored, err := c.etcd.Get(t.Context(), schemas.Key{Resource: "configmaps", Namespace: "default", Name: "m"}.Path())
	require.NoError(t, err)
	header, _, err := schemas.DecodeValue(stored.Kvs[0].Value)
	require.NoError(t, err)
	require.Equal(t, id, header.Request, "the event and the record of a write carry the same ID")

	for path2, list := range map[string]bool{"/api/v1/namespaces/default/configmaps/m": false, "/api/v1/namespaces/default/configmaps": true} {
		got = record(t, path, c.send(t, "GET", path2, "").header.Get("Audit-Id"))
		require.NotNil(t, got.ResponseObject, "plain JSON reads are recorded with what they answered; list: %v", list)
		require.Contains(t, string(got.ResponseObject.Raw), "plain")
	}
}

func TestAuditLeavesOutSecretsAndNotRefusals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	c := alone(t, func(cfg *apiserver.Config) {
		cfg.Access.Audit.PolicyFile, cfg.Access.Audit.Log.Path = writeFile(t, "policy.yaml", testPolicy), path
		cfg.Access.Audit.Log.Mode = "blocking"
	})
	const hidden = "c2VjcmV0LXZhbHVl"
	ids := []string{}
	a := c.send(t, "POST", "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"s"},"data":{"k":"`+hidden+`"}}`, "Content-Type: application/json")
	require.Equal(t, 201, a.status, "%s", a.body)
	ids = append(ids, a.header.Get("Audit-Id"))
	for _, p := range []string{"/api/v1/namespaces/default/secrets/s", "/api/v1/secrets", "/at/1/api/v1/namespaces/default/secrets/s"} {
		ids = append(ids, c.send(t, "GET", p, "").header.Get("Audit-Id"))
	}
	for _, id := range ids {
		got := record(t, path, id)
		require.Equal(t, auditv1.LevelMetadata, got.Level)
		require.Equal(t, "secrets", got.ObjectRef.Resource)
		require.Nil(t, got.RequestObject)
		require.Nil(t, got.ResponseObject)
	}
	require.Equal(t, "1", record(t, path, ids[3]).Annotations["history.rutter.dev/instant"])
	log, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(log), hidden)

	got := record(t, path, send(t, c.withToken("nonsense"), "GET", "/api/v1/pods", "").header.Get("Audit-Id"))
	require.Equal(t, int32(401), got.ResponseStatus.Code)
	require.Empty(t, got.User.Username)

	alice, err := c.access(pki.Leaf{Name: "alice", CommonName: "alice", Client: true})
	require.NoError(t, err)
	got = record(t, path, send(t, alice, "GET", "/api/v1/pods", "").header.Get("Audit-Id"))
	require.Equal(t, int32(403), got.ResponseStatus.Code)
	require.Equal(t, "forbid", got.Annotations["authorization.k8s.io/decision"])

	_, err = c.as(t, "bob").CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	require.Error(t, err)
	eventually(t, func() error {
		for _, e := range records(t, path) {
			if e.ImpersonatedUser != nil && e.ImpersonatedUser.Username == "bob" && e.User.Username == "admin" {
				return nil
			}
		}
		return errors.New("no record of the impersonation")
	})
	for _, e := range records(t, path) {
		require.NotEqual(t, "system:apiserver", e.User.Username, "the policy leaves the server itself out")
	}
}

func TestAuditWebhook(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]bool{}
	hook := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var list auditv1.EventList
		if err := json.NewDecoder(r.Body).Decode(&list); err != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, e := range list.Items {
			seen[string(e.AuditID)] = true
		}
	}))
	defer hook.Close()
	c := alone(t, func(cfg *apiserver.Config) {
		cfg.Access.Audit.PolicyFile, cfg.Access.Audit.Webhook.ConfigFile = writeFile(t, "policy.yaml", testPolicy), hookConfig(t, hook)
		cfg.Access.Audit.Webhook.Mode = "blocking"
	})
	_, err := c.client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	id := c.send(t, "GET", "/api/v1/namespaces/default/configmaps/m", "").header.Get("Audit-Id")
	eventually(t, func() error {
		mu.Lock()
		defer mu.Unlock()
		if !seen[id] {
			return fmt.Errorf("%s is not among %d records", id, len(seen))
		}
		return nil
	})
}

func TestAuditIsRefusedAtStart(t *testing.T) {
	cfg := apiserver.DefaultConfig()
	c := server(t)
	cfg.Listen, cfg.Advertise, cfg.SealFile = "127.0.0.1:0", c.bootstrapConfig().Address, c.sealFile
	cfg.Etcd, cfg.PKI = c.etcd, c.ca
	cfg.Access.Audit.PolicyFile = writeFile(t, "policy.yaml", "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, verb: [get]}]")
	cfg.Access.Audit.Log.Path = filepath.Join(t.TempDir(), "audit.log")
	_, err := apiserver.New(cfg)
	require.ErrorContains(t, err, cfg.Access.Audit.PolicyFile)
	require.ErrorContains(t, err, `unknown field "rules[0].verb"`)
}

// hookConfig writes the kubeconfig of a server that is called.
func hookConfig(t testing.TB, hook *httptest.Server) string {
	t.Helper()
	return writeFile(t, "hook.kubeconfig", fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: hook
contexts: [{name: hook, context: {cluster: hook, user: hook}}]
users: [{name: hook, user: {}}]
clusters: [{name: hook, cluster: {server: %q, certificate-authority-data: %s}}]
`, hook.URL, base64Certificate(hook)))
}

// base64Certificate is the server's certificate as kubeconfigs hold it.
func base64Certificate(s *httptest.Server) string {
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}
