package integration

import (
	"strings"
	"testing"

	"github.com/rutter-project/rutter/integration/cluster"
)

const backups = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: backups.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: backups, singular: backup, kind: Backup, shortNames: [bak]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Schedule, type: string, jsonPath: .spec.schedule}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              schedule: {type: string, description: When to make a copy.}
`

// TestCustomResourcesWithKubectl: what an operator brings is a kind like any other, for
// kubectl, garbage collection, namespace deletion and the event log.
func TestCustomResourcesWithKubectl(t *testing.T) {
	c := cluster.New(t, "--no-node")
	c.Start()
	c.Apply(backups)
	c.Kubectl("wait", "--for=condition=Established", "crd/backups.example.com", "--timeout=30s")
	c.Kubectl("create", "namespace", "shop")
	c.Apply(`{apiVersion: example.com/v1, kind: Backup, metadata: {name: daily, namespace: shop, finalizers: [example.com/hold]}, spec: {schedule: "0 3 * * *"}}`)
	contains(t, c.Kubectl("get", "bak", "-n", "shop"), "SCHEDULE", "0 3 * * *")
	contains(t, c.Kubectl("explain", "backup.spec.schedule"), "When to make a copy.")
	out, err := c.TryKubectl("{apiVersion: example.com/v1, kind: Backup, metadata: {name: bad, namespace: shop}, spec: {schedule: 3, odd: 1}}", "apply", "-f", "-")
	if err == nil || !strings.Contains(out, "odd") {
		t.Fatalf("a mistake is not found: %v\n%s", err, out)
	}

	uid := c.Kubectl("get", "backup", "daily", "-n", "shop", "-o", "jsonpath={.metadata.uid}")
	owned := func(name string) string {
		return "{apiVersion: v1, kind: ConfigMap, metadata: {name: " + name + ", namespace: shop, ownerReferences: [{apiVersion: example.com/v1, kind: Backup, name: daily, uid: " + uid + "}]}}"
	}
	c.Apply(owned("catalog"))
	c.Kubectl("delete", "backup", "daily", "-n", "shop", "--wait=false")
	c.Kubectl("patch", "backup", "daily", "-n", "shop", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	c.Kubectl("wait", "--for=delete", "configmap/catalog", "-n", "shop", "--timeout=30s")

	c.Apply(`{apiVersion: example.com/v1, kind: Backup, metadata: {name: weekly, namespace: shop}, spec: {schedule: "0 3 * * 0"}}`)
	c.Kubectl("delete", "namespace", "shop", "--timeout=30s")
	if all := c.Kubectl("get", "backups", "-A"); !strings.Contains(all, "No resources found") {
		t.Fatalf("backups outlive their namespace:\n%s", all)
	}
	log, err := c.Rutter("log", "backups.example.com/weekly", "-n", "shop")
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	contains(t, log, "weekly")
	if out, err := c.RutterBus("verify"); err != nil {
		t.Fatalf("the log is not what etcd has: %v\n%s", err, out)
	}
	c.Kubectl("delete", "crd", "backups.example.com", "--timeout=30s")
	if out, err := c.TryKubectl("", "get", "backups"); err == nil {
		t.Fatalf("the kind is still served:\n%s", out)
	}
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Fatalf("%q is missing in:\n%s", part, text)
		}
	}
}
