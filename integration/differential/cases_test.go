package differential

import "slices"

// cases are all requests, in the order in which they are sent.
func cases() []request {
	return slices.Concat(
		setUp(), discovery(), reads(), lists(), watches(),
		creations(), updates(), patches(), applies(), deletions(),
		subresources(), refusals(), access(), identities(), admission(), kinds(), customs(), extensions(),
	)
}

// space makes a namespace with the service account that pods in it run as.
func space(name, labels string) []request {
	return []request{
		post("make namespace "+name, "/api/v1/namespaces", "{apiVersion: v1, kind: Namespace, metadata: {name: "+name+", labels: {"+labels+"}}}"),
		post("make service account in "+name, "/api/v1/namespaces/"+name+"/serviceaccounts", "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default}}"),
	}
}

func setUp() []request {
	return slices.Concat(space("r", "a: b"), space("w", ""), space("s", ""), []request{
		post("make pod r/p-0", "/api/v1/namespaces/r/pods", pod("p-0", "{app: web, tier: a}", "")),
		post("make pod r/p-1", "/api/v1/namespaces/r/pods", pod("p-1", "{app: web, tier: b}", "node-1")),
		post("make pod r/p-2", "/api/v1/namespaces/r/pods", pod("p-2", "{app: db}", "node-1")),
		post("make pod r/p-3", "/api/v1/namespaces/r/pods", pod("p-3", "{}", "node-2")),
		post("make pod r/p-4", "/api/v1/namespaces/r/pods", pod("p-4", "{app: web}", "node-2"), keep("rv", "metadata.resourceVersion")),
		post("make configmap r/c-0", "/api/v1/namespaces/r/configmaps", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c-0, annotations: {note: 'a \"b\" <c>'}}, data: {k: v}, binaryData: {b: AAEC}}"),
		post("make secret r/s-0", "/api/v1/namespaces/r/secrets", "{apiVersion: v1, kind: Secret, metadata: {name: s-0, labels: {a: b}, annotations: {n: o}}, type: Opaque, stringData: {user: me}}"),
	})
}

func pod(name, labels, node string) string {
	if node != "" {
		node = ", nodeName: " + node
	}
	return "{apiVersion: v1, kind: Pod, metadata: {name: " + name + ", labels: " + labels + "}, spec: {containers: [{name: c, image: i}]" + node + "}}"
}
