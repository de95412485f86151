package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rutter-project/rutter/integration/cluster"
)

// TestRestore puts back what others have changed and deleted.
func TestRestore(t *testing.T) {
	c := &pastCluster{Cluster: cluster.New(t, "--no-node"), t: t, dir: t.TempDir()}
	c.Start()
	c.Apply(web())
	c.Kubectl("-n", "shop", "wait", "deploy/web", "--for=jsonpath={.status.replicas}=3", "--timeout=60s")
	c.Kubectl("-n", "shop", "create", "secret", "generic", "db", "--from-literal=password=before")
	c.Kubectl("-n", "shop", "create", "configmap", "settings", "--from-literal=a=1")
	good := c.revision()
	c.Kubectl("-n", "shop", "scale", "deploy/web", "--replicas=0", "--as", "bob", "--as-group", "system:masters")
	c.Kubectl("-n", "shop", "set", "env", "deploy/web", "ADDED=since")
	c.Kubectl("-n", "shop", "delete", "secret", "db")
	c.Kubectl("-n", "shop", "delete", "configmap", "settings")
	get := func(what, path string) string { return c.Kubectl("-n", "shop", "get", what, "-o", "jsonpath="+path) }

	t.Run("a dry run writes nothing", func(t *testing.T) {
		before := get("deploy/web", "{.metadata.resourceVersion}")
		out := c.operator(1, "restore", "deploy/web", "-n", "shop", "--from", good)
		want(t, out, "~ spec.replicas: 0 → 3", "Conflict: others have changed shop deployments.apps/web since\n    spec.replicas, by bob (kubectl) at rev-",
			"Added since to shop deployments.apps/web, and stays: spec.template.spec.containers[name=web].env[name=ADDED]", "Nothing was written; --apply --force-conflicts does it.")
		want(t, c.operator(1, "restore", "secret/db", "-n", "shop", "--from", good), "ADDED shop secrets/db")
		if after := get("deploy/web", "{.metadata.resourceVersion}"); !strings.HasPrefix(after, before) && get("deploy/web", "{.spec.replicas}") != "0" {
			t.Errorf("a dry run has written: %s, %s", before, after)
		}
		if out, err := c.TryKubectl("", "-n", "shop", "get", "secret", "db"); err == nil {
			t.Errorf("a dry run has written:\n%s", out)
		}
	})
	t.Run("conflicts are refused", func(t *testing.T) {
		want(t, c.operator(2, "restore", "deploy/web", "configmap/settings", "-n", "shop", "--from", good, "--apply"), "1 object changed by others since", "nothing was written", "--force-conflicts")
		if out, err := c.TryKubectl("", "-n", "shop", "get", "configmap", "settings"); err == nil {
			t.Errorf("part of it was written:\n%s", out)
		}
	})
	t.Run("what I did is no conflict", func(t *testing.T) {
		was := c.revision()
		c.Kubectl("-n", "shop", "label", "deploy/web", "app=wrong", "--overwrite")
		c.operator(0, "restore", "deploy/web", "-n", "shop", "--from", was, "--apply")
	})
	t.Run("forced", func(t *testing.T) {
		want(t, c.operator(0, "restore", "deploy/web", "-n", "shop", "--from", good, "--apply", "--force-conflicts"), "Restored 1 object.")
		if replicas := get("deploy/web", "{.spec.replicas}"); replicas != "3" {
			t.Errorf("%s replicas", replicas)
		}
		if managers := get("deploy/web", "{.metadata.managedFields[*].manager}"); !strings.Contains(managers, "rutter-restore") {
			t.Errorf("managers: %s", managers)
		}
		want(t, c.operator(0, "restore", "deploy/web", "-n", "shop", "--from", good), "Nothing differs from "+good)
		want(t, c.operator(0, "blame", "deploy/web", "-n", "shop"), "rutter-restore")
	})
	t.Run("what is gone is made anew", func(t *testing.T) {
		out := c.operator(0, "restore", "secret/db", "configmap/settings", "-n", "shop", "--from", good, "--apply")
		want(t, out, "ADDED shop configmaps/settings", "ADDED shop secrets/db", "Restored 2 objects.")
		if value := get("secret/db", "{.data.password}"); value != "YmVmb3Jl" {
			t.Errorf("the password is %q", value)
		}
		if strings.Contains(out, "YmVmb3Jl") {
			t.Errorf("the value is shown:\n%s", out)
		}
	})
	t.Run("what others make is left to them", func(t *testing.T) {
		rs := strings.TrimPrefix(strings.TrimSpace(c.must(good, "-n", "shop", "get", "rs", "-o", "name")), "replicaset.apps/")
		want(t, c.operator(1, "restore", "rs/"+rs, "deploy/none", "-n", "shop", "--from", good),
			"Left to its controller: shop replicasets.apps/"+rs+" is made by Deployment/web.", "Left alone: shop deployments.apps/none was not there at", "Nothing of it is held at")
	})
	t.Run("from a diff", func(t *testing.T) {
		c.Kubectl("-n", "shop", "delete", "configmap", "settings")
		c.Kubectl("-n", "shop", "delete", "secret", "db")
		line := c.Program() + " diff --from " + good + " -n shop -o name configmaps 2>/dev/null | " + c.Program() + " restore -f - --from " + good + " --apply -o name"
		run := exec.Command("sh", "-c", line)
		run.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
		out, err := run.CombinedOutput()
		if err != nil || string(out) != "shop configmaps/settings\nRestored 1 object.\n" {
			t.Errorf("%v:\n%s", err, out)
		}
	})
	t.Run("with what it owns", func(t *testing.T) {
		c.Apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: owner, namespace: shop}")
		owner := get("configmap/owner", "{.metadata.uid}")
		for _, name := range []string{"owned", "owned-twice"} {
			c.Apply("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\n  namespace: shop\n  ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: owner, uid: " + owner + "}]")
			owner = get("configmap/"+name, "{.metadata.uid}")
			if name == "owned" {
				owner = get("configmap/owner", "{.metadata.uid}")
			}
		}
		before := c.revision()
		c.Kubectl("-n", "shop", "delete", "configmap", "owner")
		c.Kubectl("-n", "shop", "wait", "configmap/owned", "configmap/owned-twice", "--for=delete", "--timeout=60s")
		want(t, c.operator(1, "restore", "cm/owner", "-n", "shop", "--from", before, "--with-owned", "-o", "name"), "shop configmaps/owned\nshop configmaps/owned-twice\nshop configmaps/owner\n")
		want(t, c.operator(0, "restore", "cm/owner", "-n", "shop", "--from", before, "--with-owned", "--apply"), "Restored 3 objects.")
		if got, want := get("configmap/owned", "{.metadata.ownerReferences[0].uid}"), get("configmap/owner", "{.metadata.uid}"); got != want {
			t.Errorf("owned by %s, the owner is %s", got, want)
		}
	})
	t.Run("exactly", func(t *testing.T) {
		c.Apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: exact, namespace: shop}\ndata: {kept: a, changed: b}")
		then := c.revision()
		c.Kubectl("-n", "shop", "patch", "configmap", "exact", "--type=merge", "-p", `{"metadata":{"labels":{"added":"since"}},"data":{"changed":"c","added":"since"}}`)
		want(t, c.operator(1, "restore", "cm/exact", "-n", "shop", "--from", then), "~ data.changed", "Added since to shop configmaps/exact, and stays: ", "(--exact removes it)")
		out := c.operator(1, "restore", "cm/exact", "-n", "shop", "--from", then, "--exact")
		want(t, out, "~ data.changed", "- data.added", "- metadata.labels")
		if strings.Contains(out, "and stays") {
			t.Errorf("something stays:\n%s", out)
		}
		want(t, c.operator(0, "restore", "cm/exact", "-n", "shop", "--from", then, "--exact", "--apply"), "Restored 1 object.")
		if data := get("configmap/exact", "{.data}"); data != `{"changed":"b","kept":"a"}` {
			t.Errorf("data: %s", data)
		}
		c.Kubectl("-n", "shop", "set", "env", "deploy/web", "ADDED=again")
		want(t, c.operator(1, "restore", "deploy/web", "-n", "shop", "--from", good, "--exact"), "- spec.template.spec.containers[name=web].env[name=ADDED]")
		c.operator(0, "restore", "deploy/web", "-n", "shop", "--from", good, "--exact", "--apply", "--force-conflicts")
		if env := get("deploy/web", "{.spec.template.spec.containers[0].env[*].name}"); env != "GREETING PASSWORD" {
			t.Errorf("environment: %s", env)
		}
	})
	t.Run("from a bundle", func(t *testing.T) {
		file := filepath.Join(c.dir, "before.bundle")
		c.operator(0, "bundle", file, "--from", good, "--to", good, "-n", "shop")
		c.Kubectl("-n", "shop", "scale", "deploy/web", "--replicas=1", "--as", "bob", "--as-group", "system:masters")
		c.Kubectl("-n", "shop", "delete", "configmap", "settings")
		args := []string{"restore", "deploy/web", "cm/settings", "secret/db", "-n", "shop", "--from-bundle", file}
		want(t, c.operator(2, append(args, "--apply")...), "spec.replicas, by bob (kubectl) at rev-", "nothing was written")
		want(t, c.operator(0, append(args, "--apply", "--force-conflicts")...), "Left alone: values of shop secrets/db are hidden in the bundle.", "ADDED shop configmaps/settings", "~ spec.replicas: 1 → 3", "Restored 2 objects.")
		if replicas := get("deploy/web", "{.spec.replicas}"); replicas != "3" {
			t.Errorf("%s replicas", replicas)
		}
	})
	t.Run("a bundle is not written to", func(t *testing.T) {
		c.Kubectl("-n", "shop", "scale", "deploy/web", "--replicas=2")
		file := filepath.Join(c.dir, "all.bundle")
		c.operator(0, "bundle", file, "--from", good, "-n", "shop")
		restore := []string{"open", file, "--", "rutter", "restore", "deploy/web", "--from", good}
		want(t, c.operator(1, restore...), "~ spec.replicas: 2 → 3") // dry runs are answered
		want(t, c.operator(2, append(restore, "--apply", "--force-conflicts")...), "this is a recording")
	})
}
