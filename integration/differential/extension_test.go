package differential

// extensions are others that take part in answers: webhooks, policies and API servers
// behind this one, of which only what happens without them can be recorded.
func extensions() []request {
	const (
		registration = "/apis/admissionregistration.k8s.io/v1/"
		hooks        = registration + "validatingwebhookconfigurations"
		policies     = registration + "validatingadmissionpolicies"
		bindings     = registration + "validatingadmissionpolicybindings"
		servers      = "/apis/apiregistration.k8s.io/v1/apiservices"
		maps         = "/api/v1/namespaces/x/configmaps?dryRun=All"
	)
	object := func(kind, name, rest string) string {
		return "{apiVersion: admissionregistration.k8s.io/v1, kind: " + kind + ", metadata: {name: " + name + "}, " + rest + "}"
	}
	rules := "ules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]"
	return append(space("x", "extended: 'yes'"),
		post("hook make", hooks, object("ValidatingWebhookConfiguration", "h", `webhooks: [{name: h.example.com, admissionReviewVersions: [v1], sideEffects: NoneOnDryRun,
			namespaceSelector: {matchLabels: {extended: 'yes'}}, matchConditions: [{name: asked, expression: "object.metadata.name != 'unasked'"}], r`+rules+`,
			clientConfig: {service: {namespace: x, name: nothing, path: /x}}}]`)),
		post("hook not found", maps, configMap("a", ""), until(500)),
		post("hook not asked", maps, configMap("unasked", "")),
		del("hook delete", hooks+"/h"),
		post("hook gone", maps, configMap("a", ""), until(201)),

		post("rule make", policies, object("ValidatingAdmissionPolicy", "p", `spec: {matchConstraints: {resourceR`+rules+`},
			variables: [{name: n, expression: object.metadata.name}], validations: [{expression: "variables.n != 'bad'", messageExpression: "'not ' + variables.n", reason: Invalid}]}`)),
		post("rule bind", bindings, object("ValidatingAdmissionPolicyBinding", "p", "spec: {policyName: p, validationActions: [Deny], matchResources: {namespaceSelector: {matchLabels: {extended: 'yes'}}}}")),
		post("rule denies", maps, configMap("bad", ""), until(422)),
		post("rule allows", maps, configMap("good", "")),
		del("rule unbind", bindings+"/p"),
		post("rule unbound", maps, configMap("bad", ""), until(201)),
		del("rule delete", policies+"/p"),

		post("server make", servers, `{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.gone.example.com},
			spec: {group: gone.example.com, version: v1, groupPriorityMinimum: 100, versionPriority: 10, insecureSkipTLSVerify: true, service: {namespace: x, name: nothing}}}`),
		get("server group", "/apis/gone.example.com", until(200)),
		get("server version", "/apis/gone.example.com/v1", until(503)),
		get("server object", "/apis/gone.example.com/v1/namespaces/x/things/y", until(503)),
		del("server delete", servers+"/v1.gone.example.com"),
		get("server deleted", "/apis/gone.example.com", until(404)),
	)
}
