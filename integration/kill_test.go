package integration

import (
	"strings"
	"testing"

	"github.com/rutter-project/rutter/integration/cluster"
)

// TestKillDuringRollout kills the whole control plane in the middle of a rolling
// update: pods keep running, the rollout finishes after the restart, and nothing is
// lost or doubled in the stream (invariants 2 and 7).
func TestKillDuringRollout(t *testing.T) {
	c := cluster.New(t)
	c.Start()
	c.Apply(web())
	c.Kubectl("-n", "shop", "run", "bystander", "--image="+image+":v1", "--restart=Never", "--", "tick=100ms")
	c.Kubectl("-n", "shop", "wait", "--for=condition=Ready", "pod/bystander", "--timeout=60s")
	c.Kubectl("-n", "shop", "rollout", "status", "deploy/web", "--timeout=60s")
	for range 3 {
		c.Kubectl("-n", "shop", "patch", "deploy", "web", "--type=json", "-p", `[{"op":"add","path":"/spec/template/metadata/annotations","value":{"roll":"`+strings.Repeat("x", len(c.Kubectl("-n", "shop", "get", "rs", "-o", "name")))+`"}}]`)
		c.Kill()
		c.Start()
		c.Kubectl("-n", "shop", "rollout", "status", "deploy/web", "--timeout=90s")
		verify(t, c)
	}
	if got := c.Kubectl("-n", "shop", "get", "pod", "bystander", "-o", "jsonpath={.status.containerStatuses[0].restartCount} {.status.phase}"); got != "0 Running" {
		t.Errorf("the bystander has restarts and phase %q, want 0 Running", got)
	}
	if lines := strings.Fields(c.Kubectl("-n", "shop", "logs", "bystander")); len(lines) == 0 || lines[len(lines)-1] == "0" || !consecutive(lines) {
		t.Errorf("the bystander's log has holes: %v", lines)
	}
}

// consecutive: the lines are the numbers from 0 on, none missing.
func consecutive(lines []string) bool {
	for i, line := range lines {
		if line != itoa(i) {
			return false
		}
	}
	return true
}
