package events

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/integration/cluster"
)

// elsewhere is the environment of somebody on another machine: a kubeconfig with the token
// of a service account that may watch ConfigMaps of the namespace "shop", and nothing else.
func elsewhere(t *testing.T, c *cluster.Cluster) []string {
	t.Helper()
	vars := map[string]string{}
	for _, pair := range reader(t, c) {
		name, value, _ := strings.Cut(pair, "=")
		vars[name] = value
	}
	ca, err := os.ReadFile(vars["CA"])
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:%d", certificate-authority-data: %s}}]
users: [{name: u, user: {token: %s}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, c.API, base64.StdEncoding.EncodeToString(ca), vars["TOKEN"]), 0o600))
	return []string{"KUBECONFIG=" + file, "HOME=" + t.TempDir()}
}

// seen is a line of `rutter tap -o ndjson`.
type seen struct {
	Type string
	Rev  int64
	Key  struct{ Resource, Namespace, Name string }
}

// about is the next change of an object that is not there at the beginning.
func about(t *testing.T, tap *running, name string) seen {
	t.Helper()
	for {
		var e seen
		require.NoError(t, json.Unmarshal([]byte(tap.next(t)), &e))
		if e.Key.Resource != "configmaps" {
			require.Equal(t, "clustertrustbundles", e.Key.Resource, "which all service accounts may watch")
			continue
		}
		require.Equal(t, "shop", e.Key.Namespace, "nothing of other namespaces comes")
		if e.Key.Name == name {
			return e
		}
	}
}

// TestTapFromAnotherMachine needs nothing but a kubeconfig, shows what its user may watch,
// and outlives a server that is killed.
func TestTapFromAnotherMachine(t *testing.T) {
	c := cluster.New(t, "--no-node")
	c.Start()
	env := elsewhere(t, c)
	live := startCommand(t, exec.Command(c.Program(), "tap", "cm", "-o", "ndjson"), env...)
	past := startCommand(t, exec.Command(c.Program(), "tap", "--since", "rev-1", "-o", "ndjson"), env...)
	require.Equal(t, "kube-root-ca.crt", about(t, past, "kube-root-ca.crt").Key.Name, "it follows what was before")
	refused := exec.Command(c.Program(), "tap", "pods", "-n", "shop")
	refused.Env = append(os.Environ(), env...)
	out, err := refused.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), `pods is forbidden: user "system:serviceaccount:shop:reader" cannot watch it in namespace "shop"`)

	c.Kubectl("-n", "default", "create", "configmap", "menu")
	c.Kubectl("-n", "shop", "create", "configmap", "menu", "--from-literal=soup=leek")
	require.Equal(t, "ADDED", about(t, past, "menu").Type)
	c.Kill()
	c.Start()
	c.Kubectl("-n", "shop", "patch", "configmap", "menu", "-p", `{"data":{"soup":"pea"}}`)
	c.Kubectl("-n", "shop", "delete", "configmap", "menu")
	for _, tap := range []*running{past, live} {
		if tap == live {
			require.Equal(t, "ADDED", about(t, tap, "menu").Type)
		}
		require.Equal(t, "MODIFIED", about(t, tap, "menu").Type, "what was before the kill does not come again")
		require.Equal(t, "DELETED", about(t, tap, "menu").Type)
	}
}
