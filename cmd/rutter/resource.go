package main

// shortResources are names of the resources that are asked for most, for completion: kubectl's
// short names, singular and plural.
var shortResources = []string{
	"cj", "cm", "configmap", "configmaps", "cronjobs", "daemonset", "daemonsets", "deploy", "deployment", "deployments", "ds", "endpoints",
	"endpointslice", "endpointslices", "ep", "ev", "event", "events", "ing", "ingress", "job", "jobs", "lease", "leases", "namespace", "namespaces",
	"netpol", "no", "node", "nodes", "ns", "po", "pod", "pods", "replicaset", "replicasets", "rs", "sa", "secret", "secrets", "service",
	"serviceaccount", "serviceaccounts", "services", "statefulset", "statefulsets", "sts", "svc",
}
