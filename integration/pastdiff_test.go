package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rutter-project/rutter/integration/cluster"
)

const gauges = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gauges.example.com}
spec:
  group: example.com
  scope: Cluster
  names: {plural: gauges, singular: gauge, kind: Gauge}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {FIELD: {type: integer}, unit: {type: string, default: bar}}}}}}
`

const gauge = `{apiVersion: example.com/v1, kind: Gauge, metadata: {name: g}, spec: {limit: 1}}`

// diff runs kubectl diff of a manifest at an instant and returns what it said on both
// ways: from the client's side and from the server's.
func (c *pastCluster) diff(instant, manifest string, code int) string {
	c.t.Helper()
	path := filepath.Join(c.dir, "diff.yaml")
	if err := os.WriteFile(path, []byte(manifest), 0o600); err != nil {
		c.t.Fatal(err)
	}
	var both strings.Builder
	for _, side := range [][]string{nil, {"--server-side", "--force-conflicts"}} {
		out, err := c.at(instant, append([]string{"diff", "-f", path}, side...)...)
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			c.t.Fatal(err)
		}
		got := 0
		if exit != nil {
			got = exit.ExitCode()
		}
		if got != code {
			c.t.Fatalf("kubectl diff %v at %s: exit code %d, want %d\n%s", side, instant, got, code, out)
		}
		both.WriteString(out)
	}
	return both.String()
}

// TestDiffWithThePast asks what a manifest would have changed.
func TestDiffWithThePast(t *testing.T) {
	t.Setenv("KUBECTL_EXTERNAL_DIFF", "")
	c := &pastCluster{Cluster: cluster.New(t, "--no-node"), t: t, dir: t.TempDir()}
	c.Start()
	if out, err := c.TryKubectl(web(), "apply", "--server-side", "-f", "-"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.Apply(strings.Replace(gauges, "FIELD", "limit", 1))
	c.Kubectl("wait", "crd/gauges.example.com", "--for=condition=Established", "--timeout=60s")
	c.Apply(gauge)
	c.Kubectl("-n", "shop", "wait", "deploy/web", "--for=jsonpath={.status.replicas}=3", "--timeout=60s")
	then := c.revision()
	c.Kubectl("-n", "shop", "delete", "deploy/web", "cm/cfg")
	c.Apply(strings.Replace(gauges, "FIELD", "bound", 1))

	t.Run("nothing", func(t *testing.T) {
		if out, err := c.at(then, "diff", "--server-side", "-f", c.manifest()); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("a field", func(t *testing.T) {
		out := c.diff(then, strings.Replace(web(), "replicas: 3", "replicas: 4", 1), 1)
		if n := strings.Count(out, "+  replicas: 4"); n != 2 || strings.Count(out, "-  replicas: 3") != 2 {
			t.Errorf("the scale is told %d times:\n%s", n, out)
		}
		want(t, out, "admission plugins and webhooks")
	})
	t.Run("a missing object", func(t *testing.T) {
		out := c.diff(then, "{apiVersion: v1, kind: ConfigMap, metadata: {name: other, namespace: shop}, data: {a: b}}", 1)
		if n := strings.Count(out, "+  a: b"); n != 2 {
			t.Errorf("it is told %d times:\n%s", n, out)
		}
	})
	t.Run("a custom resource as it was defined", func(t *testing.T) {
		out := c.diff(then, strings.Replace(gauge, "limit: 1", "limit: 2", 1), 1)
		if n := strings.Count(out, "+  limit: 2"); n != 2 {
			t.Errorf("it is told %d times:\n%s", n, out)
		}
		want(t, c.must("now", "diff", "-f", filepath.Join(c.dir, "diff.yaml")), `unknown field "spec.limit"`) // today's definition
	})
	t.Run("by rutter at", func(t *testing.T) {
		path := filepath.Join(c.dir, "cfg.yaml")
		if err := os.WriteFile(path, []byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: cfg, namespace: shop}, data: {greeting: hi}}"), 0o600); err != nil {
			t.Fatal(err)
		}
		want(t, c.operator(1, "at", then, "--", cluster.Binary(t, "KUBECTL_BIN", "kubectl"), "diff", "-f", path), "-  greeting: hello", "+  greeting: hi")
	})
	t.Run("nothing was written", func(t *testing.T) {
		out, err := c.Rutter("log", "--since", then, "--data-dir", filepath.Join(c.dir, "none"), "--kubeconfig", c.Kubeconfig(), "deploy/web", "-n", "shop")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if strings.Contains(out, "MODIFIED") && strings.Contains(out, "kubectl-client-side-apply") {
			t.Errorf("a dry run was written:\n%s", out)
		}
		if out, err := c.TryKubectl("", "-n", "shop", "get", "cm/other"); err == nil {
			t.Errorf("a dry run was written:\n%s", out)
		}
	})
}
