package integration

import (
	"regexp"
	"strings"
	"testing"

	"github.com/rutter-project/rutter/integration/cluster"
)

// TestSealRotation changes the key of Secrets under a running cluster: nothing is left
// under the former one, the past still opens, and stops to when the key is destroyed.
func TestSealRotation(t *testing.T) {
	c := cluster.New(t, "--no-node")
	c.Start()
	c.Kubectl("create", "secret", "generic", "old", "--from-literal=password=first")
	c.Kubectl("create", "secret", "generic", "other", "--from-literal=password=second")
	before := c.Kubectl("get", "secret", "old", "-o", "jsonpath={.metadata.resourceVersion}")
	former := sealing(t, c, `^KEY +STATE +SECRETS\n(\w{12}) +present +2\n$`)

	out, err := c.Rutter("seal", "forget", former)
	if exitCode(err) != 2 || !strings.Contains(out, "run `rutter seal rotate` first") {
		t.Errorf("forget a key in use: %v\n%s", err, out)
	}
	out, err = c.Rutter("seal", "rotate")
	if err != nil || !regexp.MustCompile(`^Key \w{12} seals 2 Secrets.\n$`).MatchString(out) {
		t.Fatalf("rotate: %v\n%s", err, out)
	}
	sealing(t, c, `^KEY +STATE +SECRETS\n(\w{12}) +present +2\n`+former+` +former +0\n$`)
	if after := c.Kubectl("get", "secret", "old", "-o", "jsonpath={.metadata.resourceVersion}"); after == before {
		t.Error("the Secret was not written anew")
	}
	c.Kubectl("create", "secret", "generic", "new", "--from-literal=password=third")
	c.Kill()
	c.Start()
	for name, want := range map[string]string{"old": "Zmlyc3Q=", "other": "c2Vjb25k", "new": "dGhpcmQ="} {
		if got := c.Kubectl("get", "secret", name, "-o", "jsonpath={.data.password}"); got != want {
			t.Errorf("secret %s is %s, want %s", name, got, want)
		}
	}
	verify(t, c)

	past := "/at/rev-" + before + "/api/v1/namespaces/default/secrets/old"
	if out := c.Kubectl("get", "--raw", past); !strings.Contains(out, "Zmlyc3Q=") {
		t.Errorf("the past before the rotation: %s", out)
	}
	out, err = c.Rutter("seal", "forget", former)
	if err != nil || !strings.HasPrefix(out, "Key "+former+" is gone from ") {
		t.Fatalf("forget: %v\n%s", err, out)
	}
	c.Kill() // what was read before is in memory
	c.Start()
	if out, err := c.TryKubectl("", "get", "--raw", past); err == nil || !strings.Contains(out, former) {
		t.Errorf("the past whose key was destroyed: %v %s; want an error that names the key", err, out)
	}
	if got := c.Kubectl("get", "secret", "old", "-o", "jsonpath={.data.password}"); got != "Zmlyc3Q=" {
		t.Errorf("the present after a former key was destroyed: %s", got)
	}
}

// sealing checks what `rutter seal status` prints and returns the first group.
func sealing(t *testing.T, c *cluster.Cluster, want string) string {
	t.Helper()
	out, err := c.Rutter("seal", "status")
	found := regexp.MustCompile(want).FindStringSubmatch(out)
	if err != nil || found == nil {
		t.Fatalf("seal status: %v\n%s\nwant %s", err, out, want)
	}
	return found[1]
}
