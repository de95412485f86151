package differential

import "strings"

func subresources() []request {
	s := "/api/v1/namespaces/s"
	p := s + "/pods/sub"
	d := "/apis/apps/v1/namespaces/s/deployments/sd"
	scale := func(more string) string {
		return "{apiVersion: autoscaling/v1, kind: Scale, metadata: {name: sd, namespace: s}, spec: {" + more + "}}"
	}
	binding := func(node string) string {
		return "{apiVersion: v1, kind: Binding, metadata: {name: sub}, target: {apiVersion: v1, kind: Node, name: " + node + "}}"
	}
	return []request{
		post("sub make pod", s+"/pods", pod("sub", "{app: sub}", "")),
		post("sub make deployment", "/apis/apps/v1/namespaces/s/deployments", deployment("sd")),
		get("scale get", d+"/scale"),
		get("scale get table", d+"/scale", accept(asTable)),
		get("scale get protobuf", d+"/scale", accept(asProtobuf)),
		put("scale put", d+"/scale", scale("replicas: 3")),
		put("scale put negative", d+"/scale", scale("replicas: -3")),
		put("scale put wrong kind", d+"/scale", deployment("sd")),
		put("scale put stale", d+"/scale", strings.ReplaceAll(scale("replicas: 3"), "name: sd,", "name: sd, resourceVersion: '1',")),
		put("scale put other name", d+"/scale", strings.ReplaceAll(scale("replicas: 3"), "name: sd,", "name: se,")),
		patch("scale patch", mergePatch, d+"/scale", "{spec: {replicas: 4}}"),
		patch("scale patch dry", mergePatch, d+"/scale?dryRun=All", "{spec: {replicas: 9}}"),
		patch("scale patch json", jsonPatch, d+"/scale", "[{op: replace, path: /spec/replicas, value: 1}]"),
		get("scale nobody", "/apis/apps/v1/namespaces/s/deployments/nobody/scale"),
		del("scale delete", d+"/scale"),
		get("scale of configmap", s+"/configmaps/x/scale"),
		get("status get", d+"/status"),
		del("status delete", d+"/status"),
		put("status keeps spec", p+"/status", strings.ReplaceAll(pod("sub", "{app: sub}", ""), "spec:", "status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}, spec:")),
		patch("status strategic", strategicPatch, p+"/status", "{status: {conditions: [{type: Ready, status: 'True'}]}}"),
		patch("status bad phase", mergePatch, p+"/status", "{status: {qosClass: Guaranteed}}"),

		post("bind", p+"/binding", binding("node-7")),
		post("bind again", p+"/binding", binding("node-8")),
		post("bind nobody", s+"/pods/nobody/binding", binding("node-8")),
		post("bind no target", p+"/binding", "{apiVersion: v1, kind: Binding, metadata: {name: sub}}"),
		post("bind deprecated", s+"/bindings", binding("node-8")),
		get("bind get", p+"/binding"),
		get("bound", p),

		post("evict dry", p+"/eviction?dryRun=All", "{apiVersion: policy/v1, kind: Eviction, metadata: {name: sub}}"),
		post("evict nobody", s+"/pods/nobody/eviction", "{apiVersion: policy/v1, kind: Eviction, metadata: {name: nobody}}"),
		post("evict other name", p+"/eviction", "{apiVersion: policy/v1, kind: Eviction, metadata: {name: other}}"),
		post("evict old version", p+"/eviction", "{apiVersion: policy/v1beta1, kind: Eviction, metadata: {name: sub}}"),
		post("evict make budget", "/apis/policy/v1/namespaces/s/poddisruptionbudgets", "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: b}, spec: {minAvailable: 1, selector: {matchLabels: {app: sub}}}}"),
		post("evict budgeted", p+"/eviction", "{apiVersion: policy/v1, kind: Eviction, metadata: {name: sub}}"),
		patch("evict allow", mergePatch, "/apis/policy/v1/namespaces/s/poddisruptionbudgets/b/status", "{status: {observedGeneration: 1, disruptionsAllowed: 0, currentHealthy: 1, desiredHealthy: 1, expectedPods: 1}}"),
		post("evict not now", p+"/eviction", "{apiVersion: policy/v1, kind: Eviction, metadata: {name: sub}}"),
		patch("evict one", mergePatch, "/apis/policy/v1/namespaces/s/poddisruptionbudgets/b/status", "{status: {disruptionsAllowed: 1}}"),
		post("evict", p+"/eviction", "{apiVersion: policy/v1, kind: Eviction, metadata: {name: sub}}"),
		get("evicted", p),

		post("token", s+"/serviceaccounts/default/token", "{apiVersion: authentication.k8s.io/v1, kind: TokenRequest, spec: {}}", keep("token", "status.token")),
		post("token bound", s+"/serviceaccounts/default/token", "{apiVersion: authentication.k8s.io/v1, kind: TokenRequest, spec: {audiences: [a], expirationSeconds: 700, boundObjectRef: {apiVersion: v1, kind: Pod, name: sub}}}"),
		post("token bound nobody", s+"/serviceaccounts/default/token", "{apiVersion: authentication.k8s.io/v1, kind: TokenRequest, spec: {boundObjectRef: {apiVersion: v1, kind: Pod, name: nobody}}}"),
		post("token too short", s+"/serviceaccounts/default/token", "{apiVersion: authentication.k8s.io/v1, kind: TokenRequest, spec: {expirationSeconds: 5}}"),
		post("token nobody", s+"/serviceaccounts/nobody/token", "{apiVersion: authentication.k8s.io/v1, kind: TokenRequest, spec: {}}"),
		post("token review", "/apis/authentication.k8s.io/v1/tokenreviews", "{apiVersion: authentication.k8s.io/v1, kind: TokenReview, spec: {token: '${token}'}}"),
		post("token review audience", "/apis/authentication.k8s.io/v1/tokenreviews", "{apiVersion: authentication.k8s.io/v1, kind: TokenReview, spec: {token: '${token}', audiences: [other]}}"),
		post("token review bad", "/apis/authentication.k8s.io/v1/tokenreviews", "{apiVersion: authentication.k8s.io/v1, kind: TokenReview, spec: {token: abc}}"),
		post("token review empty", "/apis/authentication.k8s.io/v1/tokenreviews", "{apiVersion: authentication.k8s.io/v1, kind: TokenReview, spec: {}}"),
		get("token used", "/apis/authentication.k8s.io/v1/selfsubjectreviews", as("anonymous"), header("Authorization", "Bearer ${token}")),
		post("token self", "/apis/authentication.k8s.io/v1/selfsubjectreviews", "{apiVersion: authentication.k8s.io/v1, kind: SelfSubjectReview}", as("anonymous"), header("Authorization", "Bearer ${token}")),

		patch("ephemeral", strategicPatch, podP1+"/ephemeralcontainers", "{spec: {ephemeralContainers: [{name: dbg, image: d}]}}"),
		patch("ephemeral invalid", strategicPatch, podP1+"/ephemeralcontainers", "{spec: {ephemeralContainers: [{name: c, image: d}]}}"),
		patch("resize", strategicPatch, podP1+"/resize", "{spec: {containers: [{name: c, resources: {requests: {cpu: 10m}}}]}}"),
		patch("resize image", strategicPatch, podP1+"/resize", "{spec: {containers: [{name: c, image: other}]}}"),
		get("log unbound", podP0+"/log"),
		get("log nobody", podsInR+"/nobody/log"),
		get("log bad container", podP0+"/log?container=nothing"),
		get("log bad lines", podP0+"/log?tailLines=-1"),
		get("log no node", podP1+"/log"),
		get("exec no upgrade", podP1+"/exec?command=ls"),
		post("exec no command", podP1+"/exec", "{}"),
		post("exec unbound", podP0+"/exec?command=ls&stdout=true", "{}"),
		get("attach no upgrade", podP1+"/attach"),
		get("port forward no upgrade", podP1+"/portforward"),
		get("proxy pod", podP0+"/proxy/"),
		get("proxy pod nobody", podsInR+"/nobody/proxy/"),
		get("proxy node nobody", "/api/v1/nodes/nobody/proxy/healthz"),
		get("proxy service nobody", "/api/v1/namespaces/r/services/nobody/proxy/"),
		get("sub unknown", podP0+"/fish"),
		put("finalize namespace", "/api/v1/namespaces/s/finalize", "{apiVersion: v1, kind: Namespace, metadata: {name: s}, spec: {finalizers: [kubernetes]}}"),
		put("namespace status", "/api/v1/namespaces/s/status", "{apiVersion: v1, kind: Namespace, metadata: {name: s}, status: {phase: Active}}"),
		get("finalize get", "/api/v1/namespaces/s/finalize"),
	}
}

func refusals() []request {
	return []request{
		get("no such resource", "/api/v1/fishes"),
		get("no such resource in namespace", "/api/v1/namespaces/r/fishes"),
		get("no such resource named", "/api/v1/namespaces/r/fishes/x"),
		post("no such resource post", "/api/v1/namespaces/r/fishes", "{}"),
		get("no such group", "/apis/fish.example.com/v1/fishes"),
		get("no such version", "/apis/apps/v1beta1/deployments"),
		get("alpha version", "/apis/resource.k8s.io/v1alpha3/deviceclasses"),
		get("beta version", "/apis/networking.k8s.io/v1beta1/ipaddresses"),
		get("internal version", "/apis/apps/__internal/deployments"),
		send("PUT", "put on list", podsInR, raw("application/json", "{}")),
		send("PATCH", "patch on list", podsInR, raw(mergePatch, "{}")),
		send("POST", "post on named", podP0, raw("application/json", "{}")),
		send("TRACE", "trace", podP0),
		send("FISH", "unknown method", podP0),
		send("CONNECT", "put method", podP0+"/fish"),
		del("delete component", "/api/v1/componentstatuses/etcd-0"),
		post("create component", "/api/v1/componentstatuses", "{apiVersion: v1, kind: ComponentStatus, metadata: {name: x}}"),
		post("list review", "/apis/authorization.k8s.io/v1/subjectaccessreviews?fish=1", "{apiVersion: authorization.k8s.io/v1, kind: SubjectAccessReview}"),
		get("get review", "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
		get("get review named", "/apis/authorization.k8s.io/v1/subjectaccessreviews/x"),
		get("double slash", "/api/v1//namespaces/r/pods"),
		get("dots", "/api/v1/namespaces/r/../r/pods"),
		get("encoded dots", "/api/v1/namespaces/r/%2e%2e/pods"),
		get("namespace upper", "/api/v1/namespaces/UPPER/pods"),
		get("query broken", podsInR+"?limit=%zz"),
		get("query semicolon", podsInR+"?limit=1;x=2"),
		get("long query", podsInR+"?labelSelector="+strings.Repeat("a", 5000)),
		get("if match", podP0, header("If-Match", "x")),
		get("range", podP0, header("Range", "bytes=0-5")),
		get("accept junk", podP0, accept(";;;")),
		get("accept q0", podP0, accept("application/json;q=0")),
		get("accept empty", podP0, accept("")),
	}
}

func access() []request {
	sar := func(spec string) string {
		return "{apiVersion: authorization.k8s.io/v1, kind: SubjectAccessReview, spec: {" + spec + "}}"
	}
	self := func(spec string) string {
		return "{apiVersion: authorization.k8s.io/v1, kind: SelfSubjectAccessReview, spec: {" + spec + "}}"
	}
	const (
		sars  = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
		selfs = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
		rbac  = "/apis/rbac.authorization.k8s.io/v1"
	)
	return []request{
		get("anonymous pods", podsInR, as("anonymous")),
		get("anonymous pod yaml", podP0, accept(asYAML), as("anonymous")),
		get("anonymous version", "/version", as("anonymous")),
		get("anonymous healthz", "/healthz", as("anonymous")),
		get("anonymous livez", "/livez", as("anonymous")),
		get("anonymous readyz", "/readyz", as("anonymous")),
		get("anonymous api", "/api", as("anonymous")),
		get("anonymous openapi", "/openapi/v2", as("anonymous")),
		get("anonymous metrics", "/metrics", as("anonymous")),
		get("anonymous root", "/", as("anonymous")),
		get("anonymous nowhere", "/nowhere", as("anonymous")),
		get("anonymous unknown resource", "/api/v1/fishes", as("anonymous")),
		post("anonymous self review", selfs, self("nonResourceAttributes: {path: /, verb: get}"), as("anonymous")),
		get("bad token", podsInR, as("anonymous"), header("Authorization", "Bearer abc")),
		get("bad token jwt", podsInR, as("anonymous"), header("Authorization", "Bearer eyJhbGciOiJub25lIn0.e30.")),
		get("basic password", podsInR, as("anonymous"), header("Authorization", "Basic YTpi")),
		get("bad token yaml", podsInR, as("anonymous"), accept(asYAML), header("Authorization", "Bearer abc")),

		get("nobody pods", podsInR, as("nobody")),
		get("nobody pod", podP0, as("nobody")),
		get("nobody everywhere", "/api/v1/pods", as("nobody")),
		get("nobody log", podP0+"/log", as("nobody")),
		get("nobody nodes", "/api/v1/nodes/x", as("nobody")),
		get("nobody path", "/fish", as("nobody")),
		post("nobody creates", mapsInW, configMap("nobody", ""), as("nobody")),
		del("nobody deletes", mapsInW+"/a", as("nobody")),
		del("nobody deletes all", mapsInW, as("nobody")),
		patch("nobody patches", mergePatch, mapsInW+"/a", "{}", as("nobody")),
		patch("nobody applies", applyPatch, mapsInW+"/new?fieldManager=x", configMap("new", ""), as("nobody")),
		watch("nobody watches", podsInR+"?watch=1", as("nobody")),
		get("nobody discovers", "/apis", as("nobody"), outlined),

		get("impersonate group", podsInR+"?limit=1", header("Impersonate-User", "x"), header("Impersonate-Group", "system:masters")),
		get("impersonate group alone", podsInR, header("Impersonate-Group", "system:masters")),
		get("impersonate extra", podsInR, header("Impersonate-User", "x"), header("Impersonate-Extra-scope", "y")),
		get("impersonate account", podsInR, as("system:serviceaccount:r:default")),
		get("impersonate uid", podsInR, header("Impersonate-User", "x"), header("Impersonate-Uid", "u")),
		post("impersonated self", "/apis/authentication.k8s.io/v1/selfsubjectreviews", "{apiVersion: authentication.k8s.io/v1, kind: SelfSubjectReview}", header("Impersonate-User", "x"), header("Impersonate-Group", "g"), header("Impersonate-Extra-Scope", "y")),
		post("self", "/apis/authentication.k8s.io/v1/selfsubjectreviews", "{apiVersion: authentication.k8s.io/v1, kind: SelfSubjectReview}"),

		post("sar allowed", sars, sar("user: x, groups: [system:masters], resourceAttributes: {verb: get, resource: pods, namespace: r}")),
		post("sar denied", sars, sar("user: x, resourceAttributes: {verb: get, resource: pods, namespace: r}")),
		post("sar path", sars, sar("user: x, groups: ['system:authenticated'], nonResourceAttributes: {verb: get, path: /apis/apps}")),
		post("sar node", sars, sar("user: 'system:node:node-1', groups: ['system:nodes'], resourceAttributes: {verb: get, resource: secrets, namespace: r, name: s-0}")),
		post("sar fields", sars, sar("user: x, resourceAttributes: {verb: list, resource: pods, fieldSelector: {requirements: [{key: spec.nodeName, operator: In, values: [a]}]}}")),
		post("sar both", sars, sar("user: x, resourceAttributes: {verb: get}, nonResourceAttributes: {path: /}")),
		post("sar neither", sars, sar("user: x")),
		post("sar nobody", sars, sar("resourceAttributes: {verb: get, resource: pods}")),
		post("sar named", sars, strings.Replace(sar("user: x, resourceAttributes: {verb: get}"), "spec:", "metadata: {name: x}, spec:", 1)),
		post("self sar", selfs, self("resourceAttributes: {verb: delete, resource: nodes}")),
		post("self sar of nobody", selfs, self("resourceAttributes: {verb: delete, resource: nodes}"), as("nobody")),
		post("self sar table", selfs, self("resourceAttributes: {verb: delete, resource: nodes}"), accept(asTable)),
		post("local sar", "/apis/authorization.k8s.io/v1/namespaces/r/localsubjectaccessreviews", "{apiVersion: authorization.k8s.io/v1, kind: LocalSubjectAccessReview, metadata: {namespace: r}, spec: {user: x, resourceAttributes: {verb: get, resource: pods, namespace: r}}}"),
		post("local sar elsewhere", "/apis/authorization.k8s.io/v1/namespaces/r/localsubjectaccessreviews", "{apiVersion: authorization.k8s.io/v1, kind: LocalSubjectAccessReview, metadata: {namespace: r}, spec: {user: x, resourceAttributes: {verb: get, resource: pods, namespace: w}}}"),
		post("rules", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", "{apiVersion: authorization.k8s.io/v1, kind: SelfSubjectRulesReview, spec: {namespace: r}}"),
		post("rules of nobody", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", "{apiVersion: authorization.k8s.io/v1, kind: SelfSubjectRulesReview, spec: {namespace: r}}", as("nobody")),
		post("rules nowhere", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", "{apiVersion: authorization.k8s.io/v1, kind: SelfSubjectRulesReview, spec: {}}"),

		post("role", rbac+"/namespaces/w/roles", "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: reader}, rules: [{apiGroups: [''], resources: [configmaps], verbs: [get, list]}, {apiGroups: [rbac.authorization.k8s.io], resources: [roles, rolebindings], verbs: ['*']}]}"),
		post("role invalid", rbac+"/namespaces/w/roles", "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: bad}, rules: [{resources: [pods]}]}"),
		post("role binding", rbac+"/namespaces/w/rolebindings", "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: reader}, subjects: [{kind: User, name: nobody}], roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}}"),
		get("role acts", mapsInW+"/fixed", as("nobody"), until(200)),
		get("role does not act", "/api/v1/namespaces/w/secrets", as("nobody")),
		post("escalates role", rbac+"/namespaces/w/roles", "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: more}, rules: [{apiGroups: [''], resources: [secrets], verbs: [get]}]}", as("nobody")),
		post("escalates binding", rbac+"/namespaces/w/rolebindings", "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: more}, subjects: [{kind: User, name: nobody}], roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}}", as("nobody")),
		post("does not escalate", rbac+"/namespaces/w/roles", "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: less}, rules: [{apiGroups: [''], resources: [configmaps], verbs: [get]}]}", as("nobody")),
		put("binding other role", rbac+"/namespaces/w/rolebindings/reader", "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: reader}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: other}}"),
		get("cluster role admin", rbac+"/clusterroles/system:node"),
		get("cluster roles", rbac+"/clusterroles", accept(asMetadatas)),
		get("cluster role bindings", rbac+"/clusterrolebindings"),
		get("roles of the system", rbac+"/namespaces/kube-system/roles"),
		get("role bindings of the system", rbac+"/namespaces/kube-system/rolebindings"),
		get("flow schemas", "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas"),
		get("priority levels", "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations"),
		get("priority classes", "/apis/scheduling.k8s.io/v1/priorityclasses"),
		post("node restriction", "/api/v1/nodes", "{apiVersion: v1, kind: Node, metadata: {name: other}}", header("Impersonate-User", "system:node:mine"), header("Impersonate-Group", "system:nodes")),
		post("node restriction own", "/api/v1/nodes", "{apiVersion: v1, kind: Node, metadata: {name: mine, labels: {node-restriction.kubernetes.io/x: y}}}", header("Impersonate-User", "system:node:mine"), header("Impersonate-Group", "system:nodes")),
		get("node authorizer", "/api/v1/namespaces/r/secrets/s-0", header("Impersonate-User", "system:node:mine"), header("Impersonate-Group", "system:nodes")),
		post("node evicts nobody", "/api/v1/namespaces/r/pods/nobody/eviction", "{apiVersion: policy/v1, kind: Eviction, metadata: {name: nobody, namespace: r}}", header("Impersonate-User", "system:node:mine"), header("Impersonate-Group", "system:nodes")),
		get("node authorizer list", "/api/v1/namespaces/r/secrets", header("Impersonate-User", "system:node:mine"), header("Impersonate-Group", "system:nodes")),
	}
}

func admission() []request {
	const ns = "/api/v1/namespaces/adm"
	pods := ns + "/pods"
	restricted := "pod-security.kubernetes.io/enforce: baseline, pod-security.kubernetes.io/warn: restricted"
	all := space("adm", restricted)
	return append(all,
		post("security warns", pods, pod("warned", "{}", "")),
		post("security forbids", pods, strings.ReplaceAll(pod("forbidden", "{}", ""), "spec: {", "spec: {hostNetwork: true, ")),
		post("security forbids privileged", pods, strings.ReplaceAll(pod("forbidden", "{}", ""), "image: i", "image: i, securityContext: {privileged: true}")),
		post("security warns of deployment", "/apis/apps/v1/namespaces/adm/deployments", strings.ReplaceAll(deployment("w"), "spec: {containers", "spec: {hostPID: true, containers")),
		patch("security dry label", mergePatch, ns+"?dryRun=All", "{metadata: {labels: {pod-security.kubernetes.io/enforce: restricted}}}"),
		patch("security bad label", mergePatch, ns, "{metadata: {labels: {pod-security.kubernetes.io/enforce: fish}}}"),
		post("no service account", pods, strings.ReplaceAll(pod("account", "{}", ""), "spec: {", "spec: {serviceAccountName: nobody, ")),
		post("no priority class", pods, strings.ReplaceAll(pod("priority", "{}", ""), "spec: {", "spec: {priorityClassName: nothing, ")),
		post("system priority", pods, strings.ReplaceAll(pod("priority", "{}", ""), "spec: {", "spec: {priorityClassName: system-node-critical, ")),
		post("no runtime class", pods, strings.ReplaceAll(pod("runtime", "{}", ""), "spec: {", "spec: {runtimeClassName: nothing, ")),
		post("limits", ns+"/limitranges", "{apiVersion: v1, kind: LimitRange, metadata: {name: l}, spec: {limits: [{type: Container, default: {cpu: 200m}, defaultRequest: {cpu: 100m}, max: {cpu: '1'}}]}}"),
		post("limits exceeded", pods+"?dryRun=All", strings.ReplaceAll(pod("exceeding", "{}", ""), "image: i", "image: i, resources: {limits: {cpu: '2'}}"), until(403)), // the limits are told by a watch
		post("limits applied", pods, pod("limited", "{}", "")),
		post("quota", ns+"/resourcequotas", "{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {services: '1'}}}"),
		put("quota counted", ns+"/resourcequotas/q/status", "{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {services: '1'}}, status: {hard: {services: '1'}, used: {services: '1'}}}"),
		post("quota exceeded", ns+"/services?dryRun=All", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None, ports: [{port: 80}]}}", until(403)),
		post("policy", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: pol}, spec: {failurePolicy: Fail, matchConstraints: {resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}, validations: [{expression: \"object.metadata.name != 'evil'\", message: no evil}]}}"),
		post("policy bad", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: bad}, spec: {matchConstraints: {resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}, validations: [{expression: 'object.'}]}}"),
		post("policy binding", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings", "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: pol}, spec: {policyName: pol, validationActions: [Deny], matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: adm}}}}}"),
		post("policy denies", ns+"/configmaps?dryRun=All", configMap("evil", ""), until(422)),
		post("policy lets", ns+"/configmaps", configMap("good", "")),
		post("webhook", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: hook}, webhooks: [{name: hook.example.com, admissionReviewVersions: [v1], sideEffects: None, failurePolicy: Fail, clientConfig: {url: 'https://127.0.0.1:1/x'}, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: adm}}, rules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [secrets]}]}]}"),
		post("webhook fails", ns+"/secrets?dryRun=All", "{apiVersion: v1, kind: Secret, metadata: {name: hooked}}", until(500)),
		post("webhook bad", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: bad}, webhooks: [{name: bad}]}"),
		del("namespace delete", ns),
		post("namespace terminating", ns+"/configmaps", configMap("late", "")),
		get("namespace terminates", ns),
		del("namespace protected", "/api/v1/namespaces/kube-system?dryRun=All"),
		del("namespace default", "/api/v1/namespaces/default"),
	)
}
