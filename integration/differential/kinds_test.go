package differential

import (
	"slices"
	"strings"
)

// a kind with the least that makes an object of it valid, so that defaults show.
type kind struct{ path, version, kind, spec string }

func kinds() []request {
	const template = "template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: 'i:v1', ports: [{containerPort: 80}], livenessProbe: {httpGet: {port: 80}}, env: [{name: E, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]}], volumes: [{name: v, configMap: {name: x}}, {name: h, hostPath: {path: /x}}]}}"
	never := strings.Replace(template, "spec: {containers", "spec: {restartPolicy: Never, containers", 1)
	all := space("k", "")
	for _, k := range []kind{
		{"/api/v1/namespaces/k/pods", "v1", "Pod", "spec: {initContainers: [{name: i, image: j, restartPolicy: Always}], containers: [{name: c, image: 'r/i@sha256:" + strings.Repeat("a", 64) + "', resources: {limits: {cpu: 1500m, memory: 1Gi}}, readinessProbe: {exec: {command: [x]}}, lifecycle: {preStop: {sleep: {seconds: 1}}}}], volumes: [{name: s, secret: {secretName: y}}, {name: p, projected: {sources: [{serviceAccountToken: {path: t}}]}}, {name: d, downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}]}}]}"},
		{"/api/v1/namespaces/k/services", "v1", "Service", "spec: {clusterIP: 10.96.7.7, selector: {a: b}, ports: [{port: 80}]}"},
		{"/api/v1/namespaces/k/endpoints", "v1", "Endpoints", "subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]"},
		{"/api/v1/namespaces/k/secrets", "v1", "Secret", "stringData: {a: b}"},
		{"/api/v1/namespaces/k/serviceaccounts", "v1", "ServiceAccount", "automountServiceAccountToken: false"},
		{"/api/v1/namespaces/k/replicationcontrollers", "v1", "ReplicationController", "spec: {selector: {a: b}, " + template + "}"},
		{"/api/v1/namespaces/k/podtemplates", "v1", "PodTemplate", template},
		{"/api/v1/namespaces/k/limitranges", "v1", "LimitRange", "spec: {limits: [{type: Pod, max: {cpu: '4'}}]}"},
		{"/api/v1/namespaces/k/resourcequotas", "v1", "ResourceQuota", "spec: {hard: {pods: '50'}}"},
		{"/api/v1/namespaces/k/persistentvolumeclaims", "v1", "PersistentVolumeClaim", "spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}"},
		{"/api/v1/namespaces/k/events", "v1", "Event", "involvedObject: {namespace: k, kind: Pod, name: x}, reason: R, message: m, type: Normal, firstTimestamp: '2020-01-01T00:00:00Z', lastTimestamp: '2020-01-01T00:00:00Z', count: 1, source: {component: c}"},
		{"/api/v1/persistentvolumes", "v1", "PersistentVolume", "spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /x}}"},
		{"/api/v1/nodes", "v1", "Node", "spec: {podCIDR: 10.1.0.0/24}"},
		{"/apis/apps/v1/namespaces/k/deployments", "apps/v1", "Deployment", "spec: {selector: {matchLabels: {a: b}}, " + template + "}"},
		{"/apis/apps/v1/namespaces/k/replicasets", "apps/v1", "ReplicaSet", "spec: {selector: {matchLabels: {a: b}}, " + template + "}"},
		{"/apis/apps/v1/namespaces/k/statefulsets", "apps/v1", "StatefulSet", "spec: {serviceName: s, selector: {matchLabels: {a: b}}, volumeClaimTemplates: [{metadata: {name: v}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}], " + template + "}"},
		{"/apis/apps/v1/namespaces/k/daemonsets", "apps/v1", "DaemonSet", "spec: {selector: {matchLabels: {a: b}}, " + template + "}"},
		{"/apis/apps/v1/namespaces/k/controllerrevisions", "apps/v1", "ControllerRevision", "revision: 1, data: {spec: {x: y}}"},
		{"/apis/batch/v1/namespaces/k/jobs", "batch/v1", "Job", "spec: {" + never + "}"},
		{"/apis/batch/v1/namespaces/k/cronjobs", "batch/v1", "CronJob", "spec: {schedule: '* * * * *', jobTemplate: {spec: {" + never + "}}}"},
		{"/apis/autoscaling/v1/namespaces/k/horizontalpodautoscalers", "autoscaling/v1", "HorizontalPodAutoscaler", "spec: {maxReplicas: 3, scaleTargetRef: {kind: Deployment, name: d, apiVersion: apps/v1}}"},
		{"/apis/policy/v1/namespaces/k/poddisruptionbudgets", "policy/v1", "PodDisruptionBudget", "spec: {maxUnavailable: 25%, selector: {matchLabels: {a: b}}}"},
		{"/apis/networking.k8s.io/v1/namespaces/k/networkpolicies", "networking.k8s.io/v1", "NetworkPolicy", "spec: {podSelector: {}, ingress: [{ports: [{port: 80}]}]}"},
		{"/apis/networking.k8s.io/v1/namespaces/k/ingresses", "networking.k8s.io/v1", "Ingress", "spec: {defaultBackend: {service: {name: s, port: {number: 80}}}}"},
		{"/apis/networking.k8s.io/v1/ingressclasses", "networking.k8s.io/v1", "IngressClass", "spec: {controller: example.com/c}"},
		{"/apis/networking.k8s.io/v1/servicecidrs", "networking.k8s.io/v1", "ServiceCIDR", "spec: {cidrs: [10.77.0.0/24]}"},
		{"/apis/discovery.k8s.io/v1/namespaces/k/endpointslices", "discovery.k8s.io/v1", "EndpointSlice", "addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}], ports: [{port: 80}]"},
		{"/apis/coordination.k8s.io/v1/namespaces/k/leases", "coordination.k8s.io/v1", "Lease", "spec: {holderIdentity: me, leaseDurationSeconds: 10}"},
		{"/apis/events.k8s.io/v1/namespaces/k/events", "events.k8s.io/v1", "Event", "regarding: {namespace: k, kind: Pod, name: x}, reason: R, note: m, type: Normal, eventTime: '2020-01-01T00:00:00.000000Z', reportingController: c, reportingInstance: i, action: A"},
		{"/apis/rbac.authorization.k8s.io/v1/namespaces/k/roles", "rbac.authorization.k8s.io/v1", "Role", "rules: []"},
		{"/apis/rbac.authorization.k8s.io/v1/clusterroles", "rbac.authorization.k8s.io/v1", "ClusterRole", "aggregationRule: {clusterRoleSelectors: [{matchLabels: {none: such}}]}"},
		{"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "subjects: [{kind: ServiceAccount, name: a, namespace: k}], roleRef: {kind: ClusterRole, name: view, apiGroup: rbac.authorization.k8s.io}"},
		{"/apis/storage.k8s.io/v1/storageclasses", "storage.k8s.io/v1", "StorageClass", "provisioner: example.com/p"},
		{"/apis/storage.k8s.io/v1/csidrivers", "storage.k8s.io/v1", "CSIDriver", "spec: {}"},
		{"/apis/storage.k8s.io/v1/csinodes", "storage.k8s.io/v1", "CSINode", "spec: {drivers: []}"},
		{"/apis/storage.k8s.io/v1/volumeattachments", "storage.k8s.io/v1", "VolumeAttachment", "spec: {attacher: a, nodeName: n, source: {persistentVolumeName: p}}"},
		{"/apis/storage.k8s.io/v1/namespaces/k/csistoragecapacities", "storage.k8s.io/v1", "CSIStorageCapacity", "storageClassName: s, capacity: 1Gi"},
		{"/apis/storage.k8s.io/v1/volumeattributesclasses", "storage.k8s.io/v1", "VolumeAttributesClass", "driverName: d.example.com, parameters: {a: b}"},
		{"/apis/node.k8s.io/v1/runtimeclasses", "node.k8s.io/v1", "RuntimeClass", "handler: h"},
		{"/apis/scheduling.k8s.io/v1/priorityclasses", "scheduling.k8s.io/v1", "PriorityClass", "value: 7"},
		{"/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", "flowcontrol.apiserver.k8s.io/v1", "FlowSchema", "spec: {priorityLevelConfiguration: {name: workload-low}}"},
		{"/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations", "flowcontrol.apiserver.k8s.io/v1", "PriorityLevelConfiguration", "spec: {type: Limited, limited: {limitResponse: {type: Queue}}}"},
		{"/apis/certificates.k8s.io/v1/certificatesigningrequests", "certificates.k8s.io/v1", "CertificateSigningRequest", "spec: {signerName: example.com/s, usages: [client auth], request: " + signingRequest + "}"},
		{"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", "admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "webhooks: [{name: m.example.com, admissionReviewVersions: [v1], sideEffects: None, clientConfig: {service: {name: s, namespace: k}}, rules: [{apiGroups: [none.example.com], apiVersions: [v1], operations: [CREATE], resources: [none]}]}]"},
		{"/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies", "admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy", "spec: {matchConstraints: {resourceRules: [{apiGroups: [none.example.com], apiVersions: [v1], operations: [CREATE], resources: [none]}]}, reinvocationPolicy: Never, mutations: [{patchType: JSONPatch, jsonPatch: {expression: '[]'}}]}"},
		{"/apis/resource.k8s.io/v1/deviceclasses", "resource.k8s.io/v1", "DeviceClass", "spec: {}"},
		{"/apis/resource.k8s.io/v1/namespaces/k/resourceclaims", "resource.k8s.io/v1", "ResourceClaim", "spec: {devices: {requests: [{name: r, exactly: {deviceClassName: x}}]}}"},
		{"/apis/resource.k8s.io/v1/namespaces/k/resourceclaimtemplates", "resource.k8s.io/v1", "ResourceClaimTemplate", "spec: {spec: {devices: {requests: [{name: r, exactly: {deviceClassName: x}}]}}}"},
		{"/apis/resource.k8s.io/v1/resourceslices", "resource.k8s.io/v1", "ResourceSlice", "spec: {driver: d.example.com, nodeName: n, pool: {name: p, generation: 1, resourceSliceCount: 1}}"},
		{"/apis/apiregistration.k8s.io/v1/apiservices", "apiregistration.k8s.io/v1", "APIService", "spec: {group: kd.example.com, version: v1, groupPriorityMinimum: 10, versionPriority: 10, service: {name: s, namespace: k}}"},
	} {
		all = append(all, k.requests()...)
	}
	return slices.Concat(all, services())
}

// signingRequest is a request for a certificate with the common name "x".
const signingRequest = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIR01HNENBUUF3RERFS01BZ0dBMVVFQXd3QmVEQlpNQk1HQnlxR1NNNDlBZ0VHQ0NxR1NNNDlBd0VIQTBJQQpCS3hkTFlib3IzMmJqZVFMYlUyUGg0R3M0UUF1Z2NzdVRmM2xROS92V1BXYmxkZUl6U3YzcDVtS29JYjgrZWhqCm92TzRNWTNFaklzZUtnMjJwMHU1WDJHZ0FEQUtCZ2dxaGtqT1BRUURBZ05JQURCRkFpRUFvZlVQeEt0MlovM2wKUGhVSHJCbHZRc3Z5UWFtdUwwMUhZdG82Y2NqMnYxOENJRHJGRE9hcnpaMTVid0pwZitvZndqNVh4eStjb0xHYgpCNjFvSEcwZkVuUUUKLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg=="

// requests make an object, read it in all forms, and remove it.
func (k kind) requests() []request {
	name := "kd"
	switch k.kind {
	case "APIService":
		name = "v1.kd.example.com"
	case "CSIDriver", "VolumeAttributesClass":
		name = "kd.example.com"
	}
	id, one := k.version+" "+k.kind, k.path+"/"+name
	body := "{apiVersion: " + k.version + ", kind: " + k.kind + ", metadata: {name: " + name + "}, " + k.spec + "}"
	switch k.kind {
	case "APIService", "FlowSchema", "PriorityLevelConfiguration": // the server writes their status as soon as they are there
		return []request{post("kind create "+id, k.path, body), del("kind delete "+id, one, unread)}
	}
	return []request{
		post("kind create "+id, k.path, body),
		get("kind get "+id, one),
		get("kind protobuf "+id, one, accept(asProtobuf)),
		get("kind table "+id, one, accept(asTable)),
		get("kind list "+id, k.path+"?fieldSelector=metadata.name%3D"+name),
		put("kind update "+id, one, strings.Replace(body, "{name: "+name+"}", "{name: "+name+", labels: {up: dated}}", 1)),
		patch("kind apply "+id, applyPatch, one+"?fieldManager=ap&force=true", body),
		post("kind invalid "+id, k.path+"?fieldValidation=Strict", "{apiVersion: "+k.version+", kind: "+k.kind+", metadata: {name: invalid}, spec: {fish: 1}}"),
		post("kind empty "+id, k.path, "{apiVersion: "+k.version+", kind: "+k.kind+", metadata: {name: '-'}}"),
		get("kind status "+id, one+"/status"),
		del("kind delete "+id, one),
	}
}

func services() []request {
	const path = "/api/v1/namespaces/k/services"
	service := func(name, spec string, more ...option) request {
		return post("service "+name, path, "{apiVersion: v1, kind: Service, metadata: {name: "+name+"}, spec: {"+spec+"}}", more...)
	}
	return []request{
		service("drawn", "ports: [{port: 80}]", keep("ipDrawn", "spec.clusterIP")),
		service("node-port", "type: NodePort, ports: [{port: 80}]", keep("ipNode", "spec.clusterIP"), keep("nodePort", "spec.ports.0.nodePort")),
		service("balanced", "type: LoadBalancer, ports: [{port: 80, name: a}, {port: 81, name: b, protocol: UDP}]", keep("ipBalanced", "spec.clusterIP"), keep("port1", "spec.ports.0.nodePort"), keep("port2", "spec.ports.1.nodePort")),
		service("headless", "clusterIP: None, selector: {a: b}"),
		service("external", "type: ExternalName, externalName: example.com"),
		service("taken", "clusterIP: '${ipDrawn}', ports: [{port: 80}]"),
		service("outside", "clusterIP: 192.168.1.1, ports: [{port: 80}]"),
		service("bad-port", "type: NodePort, ports: [{port: 80, nodePort: 80}]"),
		service("taken-port", "type: NodePort, ports: [{port: 80, nodePort: '#{nodePort}'}]"),
		service("ipv6", "ipFamilies: [IPv6], ports: [{port: 80}]"),
		service("dual", "ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]"),
		get("services", path),
		get("services table", path, accept(asTable)),
		patch("service to external", mergePatch, path+"/drawn", "{spec: {type: ExternalName, externalName: x.example.com, clusterIP: null, clusterIPs: null}}"),
		patch("service ip", mergePatch, path+"/node-port", "{spec: {clusterIP: 10.96.1.1}}"),
		del("service gone", path+"/node-port"),
		service("port-again", "type: NodePort, clusterIP: '${ipNode}', ports: [{port: 80, nodePort: '#{nodePort}'}]"),
		post("service dry", path+"?dryRun=All", "{apiVersion: v1, kind: Service, metadata: {name: dry}, spec: {ports: [{port: 80}]}}", keep("ipDry", "spec.clusterIP")),
	}
}

func customs() []request {
	const (
		crds  = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
		fish  = "/apis/diff.example.com/v1/namespaces/r/fishes"
		shark = fish + "/shark"
	)
	definition := `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: fishes.diff.example.com}, spec: {
  group: diff.example.com, scope: Namespaced, names: {plural: fishes, singular: fish, kind: Fish, shortNames: [fi], categories: [all]},
  versions: [{name: v1, served: true, storage: true,
    schema: {openAPIV3Schema: {type: object, properties: {
      spec: {type: object, required: [weight], properties: {weight: {type: integer, minimum: 1}, color: {type: string, default: blue, enum: [blue, red]}, fins: {type: array, maxItems: 3, items: {type: string}}, replicas: {type: integer}},
             x-kubernetes-validations: [{rule: 'self.weight < 100', message: too heavy}]},
      status: {type: object, properties: {phase: {type: string}, replicas: {type: integer}}}}}},
    additionalPrinterColumns: [{name: Weight, type: integer, jsonPath: .spec.weight}, {name: Color, type: string, jsonPath: .spec.color}],
    selectableFields: [{jsonPath: .spec.color}],
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}},
   {name: v2, served: true, storage: false, deprecated: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}`
	body := func(name, spec string) string {
		return "{apiVersion: diff.example.com/v1, kind: Fish, metadata: {name: " + name + "}, spec: {" + spec + "}}"
	}
	return []request{
		post("crd create", crds, definition),
		post("crd bad name", crds, strings.Replace(definition, "name: fishes.diff.example.com", "name: wrong", 1)),
		post("crd no schema", crds, "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a.b.example.com}, spec: {group: b.example.com, scope: Cluster, names: {plural: a, kind: A}, versions: [{name: v1, served: true, storage: true}]}}"),
		post("crd bad rule", crds, strings.NewReplacer("fishes", "birds", "Fish", "Bird", "fish", "bird", "[fi]", "[bi]", "self.weight <", "self.fish <").Replace(definition)),
		get("cr list", fish, until(200)),
		get("crd get", crds+"/fishes.diff.example.com"),
		get("crd table", crds+"/fishes.diff.example.com", accept(asTable)),
		get("crd protobuf", crds+"/fishes.diff.example.com", accept(asProtobuf)),
		get("cr group", "/apis/diff.example.com", until(200)),
		get("cr version", "/apis/diff.example.com/v1", until(200)),
		get("cr version 2", "/apis/diff.example.com/v2", until(200)),
		get("cr openapi", "/openapi/v3/apis/diff.example.com/v1", until(200)),
		get("cr list table empty", fish, accept(asTable)),
		post("cr create", fish, body("shark", "weight: 50, replicas: 2, teeth: 300")),
		post("cr create too small", fish, body("whale", "weight: 0")),
		post("cr create not in enum", fish, body("whale", "weight: 1, color: green")),
		post("cr create too many", fish, body("whale", "weight: 1, fins: [a, b, c, d]")),
		post("cr create wrong type", fish, body("whale", "weight: heavy")),
		post("cr create rule", fish, body("whale", "weight: 100")),
		post("cr create missing", fish, body("whale", "color: red")),
		post("cr create strict", fish+"?fieldValidation=Strict", body("whale", "weight: 1, teeth: 2")),
		post("cr create warn", fish+"?fieldValidation=Warn", body("tuna", "weight: 1, teeth: 2, color: red")),
		post("cr create again", fish, body("shark", "weight: 50")),
		put("cr update unnamed", fish, body("shark", "weight: 50")),
		patch("cr patch unnamed", mergePatch, fish, "{}"),
		post("cr create wrong kind", fish, configMap("x", "")),
		post("cr create wrong version", fish, strings.Replace(body("x", "weight: 1"), "/v1", "/v2", 1)),
		send("POST", "cr create yaml", fish, raw(asYAML, body("cod", "weight: 2"))),
		send("POST", "cr create protobuf", fish, raw(asProtobuf, "k8s\x00")),
		send("POST", "cr create bad json", fish, raw("application/json", "{")),
		get("cr get", shark),
		get("cr get yaml", shark, accept(asYAML)),
		get("cr get protobuf", shark, accept(asProtobuf)),
		get("cr get cbor", shark, accept(asCBOR)),
		get("cr get table", shark, accept(asTable)),
		get("cr get metadata", shark, accept(asMetadata)),
		get("cr get metadata protobuf", shark, accept("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")),
		get("cr get v2", strings.Replace(shark, "/v1/", "/v2/", 1)),
		get("cr get v3", strings.Replace(shark, "/v1/", "/v3/", 1)),
		get("cr get nobody", fish+"/nobody"),
		get("cr list all", fish),
		get("cr list table", fish, accept(asTable)),
		get("cr list metadata", fish, accept(asMetadatas)),
		get("cr list page", fish+"?limit=1", keep("fishPage", "metadata.continue")),
		get("cr list page 2", fish+"?limit=1&continue=${fishPage}"),
		get("cr list field", fish+"?fieldSelector=spec.color%3Dred"),
		get("cr list field unknown", fish+"?fieldSelector=spec.weight%3D1"),
		get("cr list label", fish+"?labelSelector=a%3Db"),
		get("cr list rv", fish+"?resourceVersion=0"),
		get("cr list exact", fish+"?resourceVersion=0&resourceVersionMatch=Exact"),
		get("cr list everywhere", "/apis/diff.example.com/v1/fishes"),
		watch("cr watch", fish+"?watch=1&timeoutSeconds=1"),
		watch("cr watch initial", fish+"?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"),
		watch("cr watch table", fish+"?watch=1&timeoutSeconds=1", accept(asTable)),
		watch("cr watch field", fish+"?watch=1&timeoutSeconds=1&fieldSelector=spec.color%3Dred"),
		put("cr update", shark, strings.Replace(body("shark", "weight: 60, replicas: 3"), "name: shark", "name: shark, labels: {a: b}", 1)),
		put("cr update no rv", shark, body("shark", "weight: 61")),
		put("cr update status ignored", shark, strings.Replace(body("shark", "weight: 62"), "spec:", "status: {phase: x}, spec:", 1)),
		put("cr status", shark+"/status", strings.Replace(body("shark", "weight: 99"), "spec:", "status: {phase: swims, replicas: 1}, spec:", 1)),
		get("cr scale", shark+"/scale"),
		patch("cr scale patch", mergePatch, shark+"/scale", "{spec: {replicas: 7}}"),
		patch("cr merge", mergePatch, shark, "{spec: {color: red}}"),
		patch("cr json", jsonPatch, shark, "[{op: replace, path: /spec/weight, value: 5}]"),
		patch("cr strategic", strategicPatch, shark, "{spec: {weight: 3}}"),
		patch("cr merge invalid", mergePatch, shark, "{spec: {weight: -1}}"),
		patch("cr apply", applyPatch, shark+"?fieldManager=one", body("shark", "weight: 5, color: blue")),
		patch("cr apply force", applyPatch, shark+"?fieldManager=one&force=true", body("shark", "weight: 5, color: blue, fins: [l, r]")),
		patch("cr apply new", applyPatch, fish+"/ray?fieldManager=one", body("ray", "weight: 5")),
		patch("cr apply unknown", applyPatch, fish+"/ray?fieldManager=one&fieldValidation=Strict", body("ray", "weight: 5, x: y")),
		patch("cr apply wrong type", applyPatch, fish+"/ray?fieldManager=one", body("ray", "weight: heavy")),
		del("cr delete dry", shark+"?dryRun=All"),
		del("cr delete", shark),
		del("cr delete collection", fish+"?fieldSelector=spec.color%3Dred"),
		get("cr left", fish),
		put("crd status", crds+"/fishes.diff.example.com/status", definition),
		del("cr put on list", "/apis/diff.example.com/v1/fishes/x"),
		get("cr sub unknown", fish+"/ray/fish"),
		get("crd instances as nobody", fish, as("nobody")),
		del("crd delete", crds+"/fishes.diff.example.com"),
		get("cr gone", fish, until(404)),
	}
}
