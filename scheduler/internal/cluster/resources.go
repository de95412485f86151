package cluster

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
)

// Resources are amounts: CPU in millicores, memory and ephemeral storage in bytes,
// others in their unit.
type Resources struct {
	MilliCPU, Memory, Storage int64
	Pods                      int64
	Other                     map[corev1.ResourceName]int64
}

// Defaults for the scores of pods that request nothing, kube-scheduler's.
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

func resourcesOf(list corev1.ResourceList) Resources {
	var r Resources
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			r.MilliCPU = q.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.Storage = q.Value()
		case corev1.ResourcePods:
			r.Pods = q.Value()
		default:
			if r.Other == nil {
				r.Other = map[corev1.ResourceName]int64{}
			}
			r.Other[name] = q.Value()
		}
	}
	return r
}

// Requests is what the pod asks for, init containers, sidecars and overhead
// included; of a pod being resized, what it asks for or holds, whichever is more.
func Requests(p *corev1.Pod) Resources {
	r := resourcesOf(resource.PodRequests(p, resource.PodResourcesOptions{UseStatusResources: true}))
	r.Pods = 1
	return r
}

// ForScore is Requests with kube-scheduler's assumption for what is not requested.
func (r Resources) ForScore() Resources {
	if r.MilliCPU == 0 {
		r.MilliCPU = defaultMilliCPU
	}
	if r.Memory == 0 {
		r.Memory = defaultMemory
	}
	return r
}

func (r *Resources) add(o Resources, sign int64) {
	r.MilliCPU += sign * o.MilliCPU
	r.Memory += sign * o.Memory
	r.Storage += sign * o.Storage
	r.Pods += sign * o.Pods
	for name, n := range o.Other {
		if r.Other == nil {
			r.Other = map[corev1.ResourceName]int64{}
		}
		if r.Other[name] += sign * n; r.Other[name] == 0 {
			delete(r.Other, name)
		}
	}
}

func (r Resources) clone() Resources {
	r.Other = maps.Clone(r.Other)
	return r
}

// Short names the resources of which want exceeds what is left of allocatable.
func Short(want, requested, allocatable Resources) []string {
	var short []string
	check := func(name string, want, have, limit int64) {
		if want > 0 && want > limit-have {
			short = append(short, name)
		}
	}
	if want.Pods > allocatable.Pods-requested.Pods {
		short = append(short, "Too many pods")
	}
	check("Insufficient cpu", want.MilliCPU, requested.MilliCPU, allocatable.MilliCPU)
	check("Insufficient memory", want.Memory, requested.Memory, allocatable.Memory)
	check("Insufficient ephemeral-storage", want.Storage, requested.Storage, allocatable.Storage)
	for _, name := range slices.Sorted(maps.Keys(want.Other)) {
		check(fmt.Sprintf("Insufficient %s", name), want.Other[name], requested.Other[name], allocatable.Other[name])
	}
	return short
}
