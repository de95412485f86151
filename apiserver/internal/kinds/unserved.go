package kinds

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/warning"
)

// unserved are kinds that are stored, validated and watched like all others, but that
// no part of Rutter acts upon yet. Whoever creates one is told, rather than left to
// wonder.
var unserved = map[schema.GroupResource]string{
	{Group: "networking.k8s.io", Resource: "networkpolicies"}:    "it is not enforced: all traffic is allowed",
	{Group: "apps", Resource: "daemonsets"}:                      "no pods are made for it",
	{Group: "apps", Resource: "statefulsets"}:                    "no pods are made for it",
	{Group: "batch", Resource: "jobs"}:                           "no pods are made for it",
	{Group: "batch", Resource: "cronjobs"}:                       "no jobs are made for it",
	{Group: "autoscaling", Resource: "horizontalpodautoscalers"}: "nothing is scaled by it",
	{Resource: "persistentvolumeclaims"}:                         "it is not bound to a volume",
	{Group: "policy", Resource: "poddisruptionbudgets"}:          "its status is not kept, so evictions of its pods are refused",
	{Group: "resource.k8s.io", Resource: "resourceclaims"}:       "no device is allocated for it",
}

// unservedWarning is an admission plugin that refuses nothing and warns of unserved
// kinds.
type unservedWarning struct{}

var _ admission.ValidationInterface = unservedWarning{}

func (unservedWarning) Handles(op admission.Operation) bool { return op == admission.Create }

func (unservedWarning) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if what, ok := unserved[a.GetResource().GroupResource()]; ok && a.GetSubresource() == "" {
		warning.AddWarning(ctx, "", fmt.Sprintf("Rutter stores this %s, but %s in this version", a.GetKind().Kind, what))
	}
	return nil
}
