package main

import (
	"fmt"
	"strings"
)

// resourceName is a resource as it stands in subjects.
type resourceName struct{ group, resource string }

// shortNames are kubectl's names for the resources that are asked for most. Others are
// given as resource.group, in the plural.
var shortNames = map[string]resourceName{
	"po": {"", "pods"}, "pod": {"", "pods"}, "pods": {"", "pods"},
	"svc": {"", "services"}, "service": {"", "services"}, "services": {"", "services"},
	"cm": {"", "configmaps"}, "configmap": {"", "configmaps"}, "configmaps": {"", "configmaps"},
	"secret": {"", "secrets"}, "secrets": {"", "secrets"},
	"ns": {"", "namespaces"}, "namespace": {"", "namespaces"}, "namespaces": {"", "namespaces"},
	"no": {"", "nodes"}, "node": {"", "nodes"}, "nodes": {"", "nodes"},
	"sa": {"", "serviceaccounts"}, "serviceaccount": {"", "serviceaccounts"}, "serviceaccounts": {"", "serviceaccounts"},
	"ev": {"", "events"}, "event": {"", "events"}, "events": {"", "events"},
	"ep": {"", "endpoints"}, "endpoints": {"", "endpoints"},
	"deploy": {"apps", "deployments"}, "deployment": {"apps", "deployments"}, "deployments": {"apps", "deployments"},
	"rs": {"apps", "replicasets"}, "replicaset": {"apps", "replicasets"}, "replicasets": {"apps", "replicasets"},
	"ds": {"apps", "daemonsets"}, "daemonset": {"apps", "daemonsets"}, "daemonsets": {"apps", "daemonsets"},
	"sts": {"apps", "statefulsets"}, "statefulset": {"apps", "statefulsets"}, "statefulsets": {"apps", "statefulsets"},
	"job": {"batch", "jobs"}, "jobs": {"batch", "jobs"}, "cronjobs": {"batch", "cronjobs"}, "cj": {"batch", "cronjobs"},
	"endpointslice": {"discovery.k8s.io", "endpointslices"}, "endpointslices": {"discovery.k8s.io", "endpointslices"},
	"lease": {"coordination.k8s.io", "leases"}, "leases": {"coordination.k8s.io", "leases"},
	"ing": {"networking.k8s.io", "ingresses"}, "ingress": {"networking.k8s.io", "ingresses"},
	"netpol": {"networking.k8s.io", "networkpolicies"},
}

// clusterScoped are the built-in resources without a namespace.
var clusterScoped = map[resourceName]bool{
	{"", "nodes"}: true, {"", "namespaces"}: true,
	{"rbac.authorization.k8s.io", "clusterroles"}: true, {"rbac.authorization.k8s.io", "clusterrolebindings"}: true,
	{"storage.k8s.io", "storageclasses"}: true, {"storage.k8s.io", "csidrivers"}: true, {"storage.k8s.io", "csinodes"}: true,
	{"storage.k8s.io", "volumeattachments"}: true, {"storage.k8s.io", "volumeattributesclasses"}: true,
	{"scheduling.k8s.io", "priorityclasses"}: true, {"node.k8s.io", "runtimeclasses"}: true,
	{"certificates.k8s.io", "certificatesigningrequests"}: true,
	{"networking.k8s.io", "ingressclasses"}:               true, {"networking.k8s.io", "ipaddresses"}: true, {"networking.k8s.io", "servicecidrs"}: true,
	{"flowcontrol.apiserver.k8s.io", "flowschemas"}: true, {"flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"}: true,
	{"admissionregistration.k8s.io", "validatingwebhookconfigurations"}: true, {"admissionregistration.k8s.io", "mutatingwebhookconfigurations"}: true,
	{"admissionregistration.k8s.io", "validatingadmissionpolicies"}: true, {"admissionregistration.k8s.io", "validatingadmissionpolicybindings"}: true,
	{"admissionregistration.k8s.io", "mutatingadmissionpolicies"}: true, {"admissionregistration.k8s.io", "mutatingadmissionpolicybindings"}: true,
}

// parseResource reads "deploy", "pods" or "widgets.example.com".
func parseResource(s string) (resourceName, error) {
	if r, ok := shortNames[strings.ToLower(s)]; ok {
		return r, nil
	}
	resource, group, ok := strings.Cut(strings.ToLower(s), ".")
	if !ok || resource == "" || group == "" {
		return resourceName{}, fmt.Errorf("resource %q is not known by that name; give it in the plural with its group, such as widgets.example.com", s)
	}
	return resourceName{group: group, resource: resource}, nil
}
