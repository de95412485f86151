package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/rutter-project/rutter/integration/cluster"
)

// mortal is a deployment whose pods leave a lost node at once.
const mortal = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      containers:
      - {name: web, image: "IMAGE:v1", args: [wait]}
`

// TestWhyExplainsEveryEnd: a pod that is scaled away, deleted, evicted, and lost with its
// node tells which it was, and who is behind it. The node really dies: its process is
// killed, and the control plane comes back without it.
func TestWhyExplainsEveryEnd(t *testing.T) {
	c := &pastCluster{Cluster: cluster.New(t), t: t, dir: t.TempDir()}
	c.Start()
	c.Apply(strings.ReplaceAll(mortal, "IMAGE", image))
	c.Kubectl("-n", "shop", "rollout", "status", "deploy/web", "--timeout=120s")
	pods := func() []string {
		return strings.Fields(c.Kubectl("-n", "shop", "get", "pods", "-l", "app=web", "-o", "go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}"))
	}
	gone := func(pod string) string {
		c.Kubectl("-n", "shop", "wait", "pod/"+pod, "--for=delete", "--timeout=120s")
		why := c.operator(0, "why", "pod/"+pod, "-n", "shop")
		if strings.Contains(why, "cause unknown") && !strings.Contains(why, "nodes/"+c.Node) {
			t.Errorf("a cause is missing:\n%s", why)
		}
		return why
	}

	all := strings.Fields(c.Kubectl("-n", "shop", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"))
	c.Kubectl("-n", "shop", "scale", "deploy/web", "--replicas=3")
	c.Kubectl("-n", "shop", "wait", "deploy/web", "--for=jsonpath={.status.replicas}=3", "--timeout=60s")
	left := strings.Join(pods(), " ")
	for _, pod := range all {
		if !strings.Contains(left, pod) {
			inOrder(t, gone(pod), "deployments.apps/web: changed", "by admin (kubectl", "~ spec.replicas: 4 → 3", "replicasets.apps/web-", "~ spec.replicas: 4 → 3",
				"pods/"+pod+": deletion asked for", "because of", "pods/"+pod+": gone")
		}
	}
	deleted := pods()[0]
	c.Kubectl("-n", "shop", "delete", "pod", deleted, "--wait=false")
	inOrder(t, gone(deleted), "pods/"+deleted+": is Running on node "+c.Node, "pods/"+deleted+": deletion asked for", "by admin", "pods/"+deleted+": gone")

	evicted := pods()[0]
	eviction := `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"` + evicted + `","namespace":"shop"}}`
	if out, err := c.TryKubectl(eviction, "create", "--raw", "/api/v1/namespaces/shop/pods/"+evicted+"/eviction", "-f", "-"); err != nil {
		t.Fatalf("evict: %v\n%s", err, out)
	}
	inOrder(t, gone(evicted), "pods/"+evicted+": to be disrupted: EvictionByEvictionAPI", "by admin", "pods/"+evicted+": gone")

	c.Kubectl("-n", "shop", "rollout", "status", "deploy/web", "--timeout=120s")
	lost := pods()[0]
	c.Kill()
	c.UpFlags("--no-node")
	c.Start()
	deadline := time.Now().Add(4 * time.Minute)
	for c.Kubectl("-n", "shop", "get", "pod", lost, "-o", "jsonpath={.metadata.deletionTimestamp}") == "" {
		if time.Now().After(deadline) {
			t.Fatalf("the pod of a dead node stays:\n%s", c.Kubectl("get", "nodes,pods", "-A", "-o", "wide"))
		}
	}
	why := c.operator(0, "why", "pod/"+lost, "-n", "shop")
	because := func(rev string) string {
		return "by rutter:reconcilers (node-lifecycle-controller), because of " + rev + "\n"
	}
	silent := revisionOf(t, why, "nodes/"+c.Node+": not ready: NodeStatusUnknown")
	tainted := revisionOf(t, why, "nodes/"+c.Node+": changed")
	inOrder(t, why, "pods/"+lost+": is Running on node "+c.Node,
		"nodes/"+c.Node+": not ready: NodeStatusUnknown", "by rutter:reconcilers (node-lifecycle-controller)",
		"nodes/"+c.Node+": changed", because(silent), "node.kubernetes.io/unreachable",
		"pods/"+lost+": to be disrupted: DeletionByTaintManager", because(tainted),
		"pods/"+lost+": deletion asked for", because(tainted))
}

// revisionOf is that of the step of a chain that has a text.
func revisionOf(t *testing.T, why, text string) string {
	t.Helper()
	fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line(why, text)), "*"))
	if len(fields) == 0 {
		t.Fatalf("no %q:\n%s", text, why)
	}
	return fields[0]
}
