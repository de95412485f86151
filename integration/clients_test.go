package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/integration/cluster"
	"github.com/rutter-project/rutter/integration/images"
)

// examples are controller-runtime's own operators, by the variable that names their image
// to the tests.
var examples = map[string]string{
	"CHAOS_IMAGE":    "sigs.k8s.io/controller-runtime/examples/crd",
	"BUILTINS_IMAGE": "sigs.k8s.io/controller-runtime/examples/builtins",
}

// TestClients: programs that others wrote for Kubernetes work on Rutter. Their tests are a
// module of their own, because of what they depend on.
func TestClients(t *testing.T) {
	dir := t.TempDir()
	env := append(os.Environ(), "IMAGE="+image)
	for variable, program := range examples {
		env = append(env, variable+"="+operatorImage(t, dir, program))
	}
	helm := filepath.Join(dir, "helm")
	inClients(t, nil, "build", "-o", helm, "helm.sh/helm/v4/cmd/helm")
	c := cluster.New(t)
	c.Start()
	env = append(env, "KUBECONFIG="+c.Kubeconfig())
	for _, name := range []string{"clientgo", "operator", "helm"} {
		t.Run(name, func(t *testing.T) {
			t.Log(inClients(t, env, "test", "-count", "1", "-v", "./"+name))
		})
	}
	t.Run("helm at an instant", func(t *testing.T) { helmAtAnInstant(t, c, helm, dir) })
}

// inClients runs the go command in the module of the clients.
func inClients(t *testing.T, env []string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir, cmd.Env = "clients", env
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// operatorImage builds a program into an image and returns its reference.
func operatorImage(t *testing.T, dir, program string) string {
	t.Helper()
	name := filepath.Base(program)
	binary := filepath.Join(dir, name)
	inClients(t, nil, "build", "-o", binary, program)
	img, err := images.Assemble(images.Options{Files: map[string]string{"/operator": binary}, Entrypoint: []string{"/operator"}})
	require.NoError(t, err)
	ref, err := registry.Push(context.Background(), "operators/"+name+":v1", img)
	require.NoError(t, err)
	return ref
}

// helmAtAnInstant: the stock helm program lists what was released then.
func helmAtAnInstant(t *testing.T, c *cluster.Cluster, helm, dir string) {
	chart := filepath.Join(dir, "menu")
	require.NoError(t, os.MkdirAll(filepath.Join(chart, "templates"), 0o755))
	for file, text := range map[string]string{
		"Chart.yaml":          "apiVersion: v2\nname: menu\nversion: 1.0.0\n",
		"templates/menu.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: menu}\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(chart, file), []byte(text), 0o644))
	}
	out, err := exec.CommandContext(t.Context(), helm, "--kubeconfig", c.Kubeconfig(), "install", "menu", chart).CombinedOutput()
	require.NoError(t, err, "%s", out)
	released := c.Kubectl("get", "configmap", "menu", "-o", "jsonpath={.metadata.resourceVersion}")
	installed := c.Kubectl("get", "secret", "sh.helm.release.v1.menu.v1", "-o", "jsonpath={.metadata.resourceVersion}")
	out, err = exec.CommandContext(t.Context(), helm, "--kubeconfig", c.Kubeconfig(), "uninstall", "menu").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for instant, want := range map[string]string{"rev-" + installed: `"status":"deployed"`, "rev-" + released: `"status":"pending-install"`} {
		out, err := c.TryRutter("at", "--data-dir", c.Dir, instant, "--", helm, "list", "--deployed", "--pending", "-o", "json")
		require.NoError(t, err, out)
		require.Contains(t, out, want)
	}
}
