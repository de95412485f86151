package quota

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	resourcehelper "k8s.io/component-helpers/resource"
)

// countPrefix begins the quota names that count objects: "count/deployments.apps".
const countPrefix = "count/"

// byClass stands in quota names between a storage class and what is counted of it.
const byClass = ".storageclass.storage.k8s.io/"

// counted are the quota names, older than count/, that count objects of the core group.
var counted = []corev1.ResourceName{
	corev1.ResourcePods, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceQuotas,
	corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
}

// resourceOf is whose objects a quota name speaks of.
func resourceOf(name corev1.ResourceName) schema.GroupResource {
	text := string(name)
	if rest, ok := strings.CutPrefix(text, countPrefix); ok {
		return schema.ParseGroupResource(rest)
	}
	switch {
	case slices.Contains(counted, name):
		return schema.GroupResource{Resource: text}
	case strings.HasPrefix(text, "services."):
		return schema.GroupResource{Resource: "services"}
	case name == corev1.ResourceRequestsStorage, strings.Contains(text, byClass):
		return schema.GroupResource{Resource: "persistentvolumeclaims"}
	default:
		return schema.GroupResource{Resource: "pods"} // compute resources, extended ones included
	}
}

// usageOf is what one object counts for, by quota name. Its own count/ name is not
// among them: it needs no knowledge of the kind.
func usageOf(obj any, now time.Time) corev1.ResourceList {
	switch o := obj.(type) {
	case *corev1.Pod:
		return podUsage(o, now)
	case *corev1.Service:
		return serviceUsage(o)
	case *corev1.PersistentVolumeClaim:
		return claimUsage(o)
	default:
		return nil
	}
}

func count(n int) resource.Quantity { return *resource.NewQuantity(int64(n), resource.DecimalSI) }

// occupies tells whether a pod holds what it asked for: it does not once it has
// finished, or should be gone by its grace period. until is how long this stays so by
// the clock alone, 0 for ever.
func occupies(p *corev1.Pod, now time.Time) (yes bool, until time.Duration) {
	if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return false, 0
	}
	if p.DeletionTimestamp == nil || p.DeletionGracePeriodSeconds == nil {
		return true, 0
	}
	// The deletion timestamp has the grace period in it; upstream waits it out twice.
	left := p.DeletionTimestamp.Add(time.Duration(*p.DeletionGracePeriodSeconds) * time.Second).Sub(now)
	return left >= 0, max(left, 0)
}

func podUsage(p *corev1.Pod, now time.Time) corev1.ResourceList {
	if yes, _ := occupies(p, now); !yes {
		return nil
	}
	used := corev1.ResourceList{corev1.ResourcePods: count(1)}
	for name, q := range resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{UseStatusResources: true}) {
		requests := corev1.ResourceName(corev1.DefaultResourceRequestsPrefix + string(name))
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage,
			strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			used[name], used[requests] = q, q
		default:
			used[requests] = q
		}
	}
	for name, q := range resourcehelper.PodLimits(p, resourcehelper.PodResourcesOptions{UseStatusResources: true}) {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			used[corev1.ResourceName("limits."+string(name))] = q
		}
	}
	return used
}

func serviceUsage(s *corev1.Service) corev1.ResourceList {
	used := corev1.ResourceList{corev1.ResourceServices: count(1), corev1.ResourceServicesNodePorts: count(0), corev1.ResourceServicesLoadBalancers: count(0)}
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		used[corev1.ResourceServicesNodePorts] = count(len(s.Spec.Ports))
	case corev1.ServiceTypeLoadBalancer:
		used[corev1.ResourceServicesLoadBalancers] = count(1)
		used[corev1.ResourceServicesNodePorts] = count(nodePorts(s))
	}
	return used
}

// nodePorts counts those a load balancer has, which may have been turned down.
func nodePorts(s *corev1.Service) int {
	if allocate := s.Spec.AllocateLoadBalancerNodePorts; allocate == nil || *allocate {
		return len(s.Spec.Ports)
	}
	n := 0
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			n++
		}
	}
	return n
}

func claimUsage(c *corev1.PersistentVolumeClaim) corev1.ResourceList {
	used := corev1.ResourceList{corev1.ResourcePersistentVolumeClaims: count(1)}
	storage, asked := c.Spec.Resources.Requests[corev1.ResourceStorage]
	if asked {
		if allocated, ok := c.Status.AllocatedResources[corev1.ResourceStorage]; ok && allocated.Cmp(storage) > 0 {
			storage = allocated
		}
		storage.RoundUp(0)
		used[corev1.ResourceRequestsStorage] = storage
	}
	if class := classOf(c); class != "" {
		used[corev1.ResourceName(class+byClass+string(corev1.ResourcePersistentVolumeClaims))] = count(1)
		if asked {
			used[corev1.ResourceName(class+byClass+string(corev1.ResourceRequestsStorage))] = storage
		}
	}
	return used
}

func classOf(c *corev1.PersistentVolumeClaim) string {
	if class, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	if c.Spec.StorageClassName != nil {
		return *c.Spec.StorageClassName
	}
	return ""
}

// scopesOf joins the two ways in which a quota can be narrowed.
func scopesOf(q *corev1.ResourceQuota) []corev1.ScopedResourceSelectorRequirement {
	var all []corev1.ScopedResourceSelectorRequirement
	for _, scope := range q.Spec.Scopes {
		all = append(all, corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: corev1.ScopeSelectorOpExists})
	}
	if q.Spec.ScopeSelector != nil {
		all = append(all, q.Spec.ScopeSelector.MatchExpressions...)
	}
	return all
}

// inScopes tells whether an object is in all scopes. Only pods and claims have any.
func inScopes(scopes []corev1.ScopedResourceSelectorRequirement, obj any) bool {
	for _, scope := range scopes {
		var in bool
		switch o := obj.(type) {
		case *corev1.Pod:
			in = podInScope(scope, o)
		case *corev1.PersistentVolumeClaim:
			in = claimInScope(scope, o)
		}
		if !in {
			return false
		}
	}
	return true
}

func podInScope(scope corev1.ScopedResourceSelectorRequirement, p *corev1.Pod) bool {
	deadline := p.Spec.ActiveDeadlineSeconds != nil && *p.Spec.ActiveDeadlineSeconds >= 0
	switch scope.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return deadline
	case corev1.ResourceQuotaScopeNotTerminating:
		return !deadline
	case corev1.ResourceQuotaScopeBestEffort:
		return p.Status.QOSClass == corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopeNotBestEffort:
		return p.Status.QOSClass != corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopePriorityClass:
		return selects(scope, p.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossesNamespaces(p.Spec.Affinity)
	default:
		return false
	}
}

func claimInScope(scope corev1.ScopedResourceSelectorRequirement, c *corev1.PersistentVolumeClaim) bool {
	if scope.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
		return false
	}
	names := attributeClasses(c)
	if len(names) == 0 {
		return selects(scope, "")
	}
	return slices.ContainsFunc(names, func(name string) bool { return selects(scope, name) })
}

// attributeClasses are the classes a claim has, is being given, and asks for: while it
// changes, it counts for all of them.
func attributeClasses(c *corev1.PersistentVolumeClaim) []string {
	var names []string
	add := func(name *string) {
		if name != nil && *name != "" && !slices.Contains(names, *name) {
			names = append(names, *name)
		}
	}
	add(c.Spec.VolumeAttributesClassName)
	add(c.Status.CurrentVolumeAttributesClassName)
	if s := c.Status.ModifyVolumeStatus; s != nil {
		add(&s.TargetVolumeAttributesClassName)
	}
	return names
}

// selects applies the scope's operator to the name that an object has, "" for none.
func selects(scope corev1.ScopedResourceSelectorRequirement, name string) bool {
	if scope.Operator == corev1.ScopeSelectorOpExists {
		return name != ""
	}
	operator, ok := map[corev1.ScopeSelectorOperator]selection.Operator{
		corev1.ScopeSelectorOpIn: selection.In, corev1.ScopeSelectorOpNotIn: selection.NotIn, corev1.ScopeSelectorOpDoesNotExist: selection.DoesNotExist,
	}[scope.Operator]
	if !ok {
		return false
	}
	requirement, err := labels.NewRequirement(string(scope.ScopeName), operator, scope.Values)
	if err != nil {
		return false // validation lets none of these through
	}
	set := labels.Set{}
	if name != "" {
		set[string(scope.ScopeName)] = name
	}
	return requirement.Matches(set)
}

// crossesNamespaces: some term of the affinity looks at other namespaces than the pod's.
func crossesNamespaces(a *corev1.Affinity) bool {
	if a == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	weighted := func(all []corev1.WeightedPodAffinityTerm) {
		for _, w := range all {
			terms = append(terms, w.PodAffinityTerm)
		}
	}
	if p := a.PodAffinity; p != nil {
		terms = append(terms, p.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted(p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		terms = append(terms, p.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted(p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}
