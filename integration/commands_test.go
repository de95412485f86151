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

// operator runs the commands that look at the past, as from another machine: with a
// kubeconfig only.
func (c *pastCluster) operator(code int, args ...string) string {
	c.t.Helper()
	run := exec.Command(c.Program(), append(args[:1:1], append([]string{"--data-dir", filepath.Join(c.dir, "none")}, args[1:]...)...)...)
	run.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), "KUBECTL_EXTERNAL_DIFF=")
	out, err := run.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	if got := run.ProcessState.ExitCode(); got != code {
		c.t.Fatalf("rutter %s: exit code %d, want %d\n%s", strings.Join(args, " "), got, code, out)
	}
	return string(out)
}

// TestCommandsOfThePast finds out who scaled a deployment, when and with what effect.
func TestCommandsOfThePast(t *testing.T) {
	c := &pastCluster{Cluster: cluster.New(t, "--no-node"), t: t, dir: t.TempDir()}
	c.Start()
	c.Apply(web())
	c.Kubectl("-n", "shop", "wait", "deploy/web", "--for=jsonpath={.status.replicas}=3", "--timeout=60s")
	pod := strings.TrimPrefix(strings.Fields(c.Kubectl("-n", "shop", "get", "pods", "-l", "app=web", "-o", "name"))[0], "pod/")
	good := c.revision()
	c.Kubectl("-n", "shop", "scale", "deploy/web", "--replicas=0")
	c.Kubectl("-n", "shop", "wait", "pod/"+pod, "--for=delete", "--timeout=60s")

	t.Run("log", func(t *testing.T) {
		want(t, c.operator(0, "log", "deploy/web", "-n", "shop"), "ADDED", "shop deployments.apps/web", "admin (kubectl")
		want(t, c.operator(0, "log", "deploy/web", "-n", "shop", "--tree", "--since", good), "replicasets.apps/web-", "DELETED   shop pods/"+pod)
		want(t, c.operator(0, "log", "deploy/web", "-n", "shop", "--diff"), "~ spec.replicas: 3 → 0")
		want(t, c.operator(1, "log", "deploy/none", "-n", "shop"), "No changes of shop deployments.apps/none are held.")
	})
	t.Run("diff", func(t *testing.T) {
		want(t, c.operator(1, "diff", "--from", good, "-n", "shop"), "~ spec.replicas: 3 → 0", "DELETED shop pods/"+pod)
		want(t, c.operator(1, "diff", "--from", good, "-A", "-o", "name"), "shop deployments.apps/web\n")
		c.operator(0, "diff", "--from", good, "--to", good, "-A")
	})
	t.Run("blame", func(t *testing.T) {
		now := c.operator(0, "blame", "deploy/web", "-n", "shop")
		then := c.operator(0, "blame", "deploy/web", "-n", "shop", "--at", good)
		if line(now, "spec.replicas ") == line(then, "spec.replicas ") {
			t.Errorf("the scale is not blamed:\n%s", now)
		}
		if image := line(now, ".image "); image == "" || image != line(then, ".image ") {
			t.Errorf("the image is blamed on the scale:\n%s", now)
		}
	})
	t.Run("why", func(t *testing.T) {
		why := c.operator(0, "why", "pod/"+pod, "-n", "shop")
		inOrder(t, why, "deployments.apps/web: created", "by admin (kubectl", "replicasets.apps/web-", "created", "pods/"+pod+": created",
			"deployments.apps/web: changed", "~ spec.replicas: 3 → 0", "replicasets.apps/web-", "~ spec.replicas: 3 → 0", "pods/"+pod)
		if strings.Contains(why, "unknown") || strings.Contains(why, "not held") {
			t.Errorf("a cause is missing:\n%s", why)
		}
	})
	t.Run("at", func(t *testing.T) {
		kubectl := os.Getenv("KUBECTL_BIN")
		if kubectl == "" {
			kubectl = "kubectl"
		}
		want(t, c.operator(0, "at", good, "--", kubectl, "get", "pods", "-n", "shop"), pod)
		want(t, c.operator(1, "at", good, "--", kubectl, "delete", "pod", pod, "-n", "shop"), "the past")
		want(t, c.operator(1, "at", "now", "--", kubectl, "get", "pod", pod, "-n", "shop"), "not found")

		found := c.operator(0, "bisect", "--good", good, "--", "sh", "-c", kubectl+" -n shop get deploy web -o jsonpath={.spec.replicas} | grep -q 3")
		want(t, found, "is the first bad revision.", "shop deployments.apps/web by admin (kubectl", "~ spec.replicas: 3 → 0")
	})
	t.Run("mark", func(t *testing.T) {
		c.operator(0, "mark", "before-scale", "--at", good)
		want(t, c.operator(0, "mark", "list"), "before-scale  "+strings.TrimPrefix(good, "rev-")+"  ")
		want(t, c.must("before-scale", "-n", "shop", "get", "pods"), pod)
		want(t, c.operator(1, "diff", "--from", "before-scale", "-n", "shop", "deploy"), "~ spec.replicas: 3 → 0")
		want(t, c.operator(0, "log", "cm/rutter-marks", "-n", "kube-system"), "admin (rutter-mark)")
		tapped, err := c.Rutter("tap", "deploy/web", "-n", "shop", "--since", "before-scale", "--limit", "1", "--timeout", "1m", "-o", "diff")
		if err != nil {
			t.Errorf("tap since a mark: %v", err)
		}
		want(t, tapped, "~ spec.replicas: 3 → 0")
		c.operator(0, "mark", "delete", "before-scale")
		want(t, c.operator(2, "diff", "--from", "before-scale"), "no mark has this name")
	})
	t.Run("as a plugin of kubectl", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Symlink(c.Program(), filepath.Join(dir, "kubectl-rutter")); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
		run := exec.Command(cluster.Binary(t, "KUBECTL_BIN", "kubectl"), "rutter", "why", "pod/"+pod, "-n", "shop")
		run.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
		out, err := run.CombinedOutput()
		if err != nil {
			t.Errorf("kubectl rutter: %v", err)
		}
		want(t, string(out), "shop pods/"+pod+": created")
	})
	t.Run("how it is", func(t *testing.T) {
		out, err := c.RutterBus("status", "--kubeconfig", c.Kubeconfig())
		if err != nil {
			t.Errorf("status: %v", err)
		}
		want(t, out, ": healthy", "published up to revision ", "1 member, leader rutter", "HISTORY ", "ARCHIVE ", "PACKS ")
		out, err = c.Rutter("check", "cluster", "--kubeconfig", c.Kubeconfig())
		if err != nil {
			t.Errorf("check: %v", err)
		}
		want(t, out, "sealed by the present one of 1 key", "every owner is there", " 0 failed, ")
		want(t, c.operator(0, "top", "--since", good, "--by", "actor,kind"), "admin ", "deployments.apps", "rutter:reconcilers ")
	})
	t.Run("history status", func(t *testing.T) {
		want(t, c.operator(0, "history", "status"), "Oldest     rev-", "Packs      ", " of 1 GiB", "Gaps       none")
	})
}

// line is the first line that has the text.
func line(out, text string) string {
	for l := range strings.Lines(out) {
		if strings.Contains(l, text) {
			return l
		}
	}
	return ""
}

// inOrder checks that the texts follow one another.
func inOrder(t *testing.T, out string, texts ...string) {
	t.Helper()
	rest := out
	for _, text := range texts {
		_, after, ok := strings.Cut(rest, text)
		if !ok {
			t.Fatalf("no %q, or in another order:\n%s", text, out)
		}
		rest = after
	}
}
