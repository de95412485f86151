package differential

import "slices"

// Requests for certificates: of the node "mine" and of the user jane.
const (
	nodeRequest = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIdE1JR1VBZ0VBTURJeEZUQVRCZ05WQkFvTURITjVjM1JsYlRwdWIyUmxjekVaTUJjR0ExVUVBd3dRYzNsegpkR1Z0T201dlpHVTZiV2x1WlRCWk1CTUdCeXFHU000OUFnRUdDQ3FHU000OUF3RUhBMElBQkYwVFFiVWYrWnBWCmdlaEl4MXUyVC9jWGZSNE5tSk0zUzRyY0RvK2JaSG1Od3VDejVNb0ZhME1TS1lnaHp1cjNBamIzbWNyOUxuQTMKL1ZiaFNxRCtoSWFnQURBS0JnZ3Foa2pPUFFRREFnTklBREJGQWlCM1hoMnZBZU56NlZweExXR0tNOHhudmNucQpNaDI3TlVodTM0SW8wMXJSUXdJaEFOOTltcWlpOG9xSGlHUjFPZktzZWRQWnpWNXdaMkRtdWtmTVA3NUc4cmVMCi0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo="
	janeRequest = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlISk1IRUNBUUF3RHpFTk1Bc0dBMVVFQXd3RWFtRnVaVEJaTUJNR0J5cUdTTTQ5QWdFR0NDcUdTTTQ5QXdFSApBMElBQkt2L3Irb2xyaHlHWmxRelEyQzFXMkFBL2Z3RHBTdGN2RmlZOXlSL1pLV1RwQVRXUTNaYm4zS25oSzdECnZhYTN5aU9VSTlYRlhWYllTenRneWpMRU5UcWdBREFLQmdncWhrak9QUVFEQWdOSUFEQkZBaUFCN2FjZWZPQXMKcU5rN0p3cDBDdVVyTDJXNUtWNGZvVDJmRDN1OTNjbkNrd0loQUx0QjNzNE9ZcDVROXA0dTRJUlJ3RDREd1RCMQpoTlZWZWlPZEFOTVVnTE9oCi0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo="
)

const (
	identity = "/api/v1/namespaces/id"
	reviews  = "/apis/authentication.k8s.io/v1/tokenreviews"
	whoAmI   = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
	ownSelf  = "{apiVersion: authentication.k8s.io/v1, kind: SelfSubjectReview}"
)

// identities are who somebody is and becomes: tokens and what they are bound to, requests
// for certificates, who acts for whom, and what a node may.
func identities() []request {
	return slices.Concat(space("id", ""), boundTokens(), certificates(), constrained(), nodeWrites())
}

func boundTokens() []request {
	account := identity + "/serviceaccounts/default"
	token := func(name, spec string, options ...option) request {
		return post("bound token "+name, account+"/token", "{apiVersion: authentication.k8s.io/v1, kind: TokenRequest, spec: {"+spec+"}}", options...)
	}
	review := func(name, spec string, options ...option) request {
		return post("bound review "+name, reviews, "{apiVersion: authentication.k8s.io/v1, kind: TokenReview, spec: {"+spec+"}}", options...)
	}
	return []request{
		post("bound make secret", identity+"/secrets", "{apiVersion: v1, kind: Secret, metadata: {name: s}}"),
		token("to secret", "boundObjectRef: {apiVersion: v1, kind: Secret, name: s}", keep("bound", "status.token")),
		token("for others", "audiences: [a, b]", keep("others", "status.token")),
		token("to another uid", "boundObjectRef: {apiVersion: v1, kind: Secret, name: s, uid: nope}"),
		token("to a config map", "boundObjectRef: {apiVersion: v1, kind: ConfigMap, name: s}"),
		token("to nothing", "boundObjectRef: {}"),
		token("too long", "expirationSeconds: 4294967297"),
		review("default", "token: '${bound}'"),
		review("for nobody", "token: '${bound}', audiences: ['']"),
		review("for others", "token: '${others}', audiences: [b, c]"),
		review("of others", "token: '${others}'"),
		review("too much", "token: '${bound}x'"),
		post("bound self", whoAmI, ownSelf, as("anonymous"), header("Authorization", "bearer ${bound}")),
		del("bound delete secret", identity+"/secrets/s"),
		get("bound self later", podsInR, as("anonymous"), header("Authorization", "Bearer ${bound}"), until(401)),
		review("later", "token: '${bound}'"),
	}
}

func certificates() []request {
	const all = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	const client = "kubernetes.io/kube-apiserver-client"
	// Who asks is impersonated: a certificate's digest is no part of him.
	asker := []option{header("Impersonate-User", "ada"), header("Impersonate-Group", "system:masters")}
	ask := func(name, pem, signer, usages, more string) request {
		return post("csr "+name, all, "{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {name: "+name+"}, spec: {request: "+pem+", signerName: '"+signer+"', usages: ["+usages+"]"+more+"}}", asker...)
	}
	settle := func(name, on, sub, conditions string) request {
		return put("csr "+name, all+"/"+on+"/"+sub, "{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {name: "+on+"}, spec: {request: "+janeRequest+", signerName: "+client+", usages: [client auth]}, status: {conditions: ["+conditions+"]}}", asker...)
	}
	const yes, no, broken = "{type: Approved, status: 'True', reason: r, message: m}", "{type: Denied, status: 'True'}", "{type: Failed, status: 'True'}"
	return []request{
		ask("jane", janeRequest, client, "client auth", ", expirationSeconds: 600"),
		ask("jack", janeRequest, client, "client auth", ", username: eve, groups: [x], uid: u, extra: {a: [b]}"),
		ask("node", nodeRequest, client+"-kubelet", "digital signature, client auth", ""),
		ask("brief", janeRequest, client, "client auth", ", expirationSeconds: 599"),
		ask("legacy", janeRequest, "kubernetes.io/legacy-unknown", "client auth", ""),
		ask("unsigned", janeRequest, "nobody", "client auth", ""),
		ask("useless", janeRequest, client, "", ""),
		ask("misused", janeRequest, client, "client auth, fishing", ""),
		ask("twice", janeRequest, client, "client auth, client auth", ""),
		ask("garbage", "AAAA", client, "client auth", ""),
		settle("approve and deny", "jane", "approval", yes+","+no),
		settle("approve not", "jane", "approval", "{type: Approved, status: 'False'}"),
		settle("fail by approval", "node", "approval", broken),
		settle("approve", "jane", "approval", yes),
		settle("take back", "jane", "approval", ""),
		settle("deny after", "jane", "approval", yes+","+no),
		settle("approve by status", "jack", "status", yes),
		settle("deny", "jack", "approval", no),
		settle("fail", "jane", "status", yes+","+broken),
		patch("csr patch spec", mergePatch, all+"/jane", "{spec: {usages: [server auth]}}", asker...),
		get("csr table", all+"/jane", accept(asTable)),
	}
}

// constrained are those who may act for others in some things alone.
func constrained() []request {
	const rbac = "/apis/rbac.authorization.k8s.io/v1"
	by := func(user, group string) []option {
		options := []option{as("anonymous"), header("Authorization", "Bearer ${actor}"), header("Impersonate-User", user)}
		if group != "" {
			options = append(options, header("Impersonate-Group", group))
		}
		return options
	}
	pods := identity + "/pods"
	return []request{
		post("actor token", identity+"/serviceaccounts/default/token", "{apiVersion: authentication.k8s.io/v1, kind: TokenRequest}", keep("actor", "status.token")),
		post("actor role", rbac+"/clusterroles", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: actor}, rules: [
{apiGroups: [authentication.k8s.io], resources: [users], resourceNames: [carl], verbs: ['impersonate:user-info']},
{apiGroups: [''], resources: [pods], verbs: ['impersonate-on:user-info:list']}]}`),
		post("actor binding", rbac+"/clusterrolebindings", "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: actor}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: actor}, subjects: [{kind: ServiceAccount, namespace: id, name: default}]}"),
		post("actor for", rbac+"/clusterrolebindings", "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: carl}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:aggregate-to-view'}, subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: carl}]}"),
		get("actor lists", pods, append(by("carl", ""), until(200))...),
		get("actor gets", pods+"/x", by("carl", "")...),
		get("actor in a group", pods, by("carl", "g")...),
		get("actor for another", pods, by("eve", "")...),
		get("actor as a node", pods, by("system:node:n", "")...),
	}
}

func nodeWrites() []request {
	node := []option{header("Impersonate-User", "system:node:mine"), header("Impersonate-Group", "system:nodes")}
	mirror := func(name, metadata, spec string) request {
		return post("node mirror "+name, identity+"/pods", "{apiVersion: v1, kind: Pod, metadata: {name: "+name+metadata+"}, spec: {nodeName: mine, containers: [{name: c, image: i}]"+spec+"}}", node...)
	}
	label := func(name, key string) request {
		return patch("node label "+name, mergePatch, "/api/v1/nodes/mine", "{metadata: {labels: {"+key+": v}}}", node...)
	}
	const marked = ", annotations: {kubernetes.io/config.mirror: x}"
	const owned = ", ownerReferences: [{apiVersion: v1, kind: Node, name: mine, uid: '${mine}', controller: true}]"
	return []request{
		post("node make", "/api/v1/nodes", "{apiVersion: v1, kind: Node, metadata: {name: mine}}", append([]option{keep("mine", "metadata.uid")}, node...)...),
		mirror("good", marked+owned, ""),
		mirror("unmarked", owned, ""),
		mirror("unowned", marked, ""),
		mirror("with-secret", marked+owned, ", volumes: [{name: v, secret: {secretName: s}}]"),
		mirror("with-account", marked+owned, ", serviceAccountName: default"),
		label("own", "kubelet.kubernetes.io/x"),
		label("role", "node-role.kubernetes.io/x"),
		label("restricted", "node-restriction.kubernetes.io/x"),
		label("foreign", "example.com/x"),
		patch("node taints", mergePatch, "/api/v1/nodes/mine", "{spec: {taints: [{key: k, effect: NoSchedule}]}}", node...),
		del("node delete", "/api/v1/nodes/mine", node...),
		del("node delete mirror", identity+"/pods/good?gracePeriodSeconds=0", node...),
	}
}
