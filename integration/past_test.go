package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rutter-project/rutter/integration/cluster"
)

// pastCluster is a cluster without a node, whose past is looked at with stock kubectl.
type pastCluster struct {
	*cluster.Cluster
	t   *testing.T
	dir string
}

// at runs kubectl through a kubeconfig whose server has the instant in its path.
func (c *pastCluster) at(instant string, args ...string) (string, error) {
	c.t.Helper()
	config, err := os.ReadFile(c.Kubeconfig())
	if err != nil {
		c.t.Fatal(err)
	}
	live := fmt.Sprintf(":%d", c.API)
	path := filepath.Join(c.dir, strings.NewReplacer(":", "_", "/", "_").Replace(instant)+".kubeconfig")
	if err := os.WriteFile(path, []byte(strings.Replace(string(config), live, live+"/at/"+instant, 1)), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return c.TryKubectl("", append([]string{"--kubeconfig", path, "--cache-dir", filepath.Join(c.dir, "cache")}, args...)...)
}

func (c *pastCluster) must(instant string, args ...string) string {
	c.t.Helper()
	out, err := c.at(instant, args...)
	if err != nil {
		c.t.Fatalf("kubectl %s at %s: %v\n%s", strings.Join(args, " "), instant, err, out)
	}
	return out
}

// revision is the newest one.
func (c *pastCluster) revision() string {
	c.t.Helper()
	var found struct {
		Revision int64 `json:"revision"`
	}
	if err := json.Unmarshal([]byte(c.Kubectl("get", "--raw", "/history/instant?at=now")), &found); err != nil {
		c.t.Fatal(err)
	}
	return fmt.Sprintf("rev-%d", found.Revision)
}

// TestPastWithKubectl looks at a deployment that is gone, as an operator does.
func TestPastWithKubectl(t *testing.T) {
	c := &pastCluster{Cluster: cluster.New(t, "--no-node"), t: t, dir: t.TempDir()}
	c.Start()
	c.Apply(web())
	c.Kubectl("-n", "shop", "wait", "deploy/web", "--for=jsonpath={.status.replicas}=3", "--timeout=60s")
	c.Kubectl("-n", "shop", "wait", "pod", "--all", "--for=condition=PodScheduled=false", "--timeout=60s")
	then := c.revision()
	c.Kubectl("-n", "shop", "delete", "deploy", "web", "--cascade=foreground")
	if out := c.Kubectl("-n", "shop", "get", "deploy,pods"); !strings.Contains(out, "No resources found") {
		t.Fatalf("not deleted:\n%s", out)
	}

	t.Run("get", func(t *testing.T) {
		want(t, c.must(then, "get", "deploy,rs,pods", "-n", "shop"), "deployment.apps/web", "replicaset.apps/web-", "pod/web-", "0/3", "Pending")
		want(t, c.must(then, "get", "pods", "-A", "-o", "wide"), "web-")
		want(t, c.must(then, "get", "deploy", "web", "-n", "shop", "-o", "yaml"), "replicas: 3")
		want(t, c.must(then, "get", "pods", "-n", "shop", "-l", "app=web", "-o", "name"), "pod/web-")
		want(t, c.must(then, "get", "secret", "sec", "-n", "shop", "-o", "jsonpath={.data.password}"), "Q0FOQVJZLTdjMWU=")
	})
	t.Run("describe", func(t *testing.T) {
		want(t, c.must(then, "describe", "deploy", "web", "-n", "shop"), "Replicas:", "3 desired", "NewReplicaSet:")
		want(t, c.must(then, "describe", "pods", "-n", "shop"), "Status:", "Pending", "PodScheduled")
	})
	t.Run("events", func(t *testing.T) {
		if out := c.must(then, "get", "events", "-n", "shop"); !strings.Contains(out, "LAST SEEN") && !strings.Contains(out, "No resources found") {
			t.Errorf("no table of events:\n%s", out)
		}
	})
	t.Run("what can't be done", func(t *testing.T) {
		for _, args := range [][]string{
			{"delete", "deploy", "web"}, {"scale", "deploy", "web", "--replicas=1"}, {"create", "configmap", "x"},
			{"exec", "deploy/web", "--", "true"}, {"apply", "--server-side", "-f", c.manifest()}, {"delete", "deploy", "web", "--dry-run=server"},
		} {
			out, err := c.at(then, append([]string{"-n", "shop"}, args...)...)
			if err == nil || !strings.Contains(out, "the past") || !strings.Contains(out, then) {
				t.Errorf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		}
		out, err := c.at(then, "auth", "can-i", "delete", "pods")
		if err == nil || !strings.Contains(out, "no") {
			t.Errorf("may delete: %v\n%s", err, out)
		}
		want(t, c.must(then, "auth", "can-i", "list", "pods"), "yes")
	})
	t.Run("instants that are not held", func(t *testing.T) {
		out, err := c.at("2001-01-01T00:00:00Z", "get", "pods")
		if err == nil || !strings.Contains(out, "the oldest instant held is rev-") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("after a kill", func(t *testing.T) {
		before := c.must(then, "get", "pods", "-n", "shop", "-o", "yaml")
		c.Kill()
		c.Start()
		if after := c.must(then, "get", "pods", "-n", "shop", "-o", "yaml"); before != after {
			t.Errorf("the past changed with kill -9:\n%s\n%s", before, after)
		}
	})
}

// manifest is a file with the application.
func (c *pastCluster) manifest() string {
	path := filepath.Join(c.dir, "web.yaml")
	if err := os.WriteFile(path, []byte(web()), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

func want(t *testing.T, out string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(out, part) {
			t.Errorf("no %q in:\n%s", part, out)
		}
	}
}
