package deployment

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/rand"
)

// Annotations that kubectl rollout reads.
const (
	revisionAnnotation        = "deployment.kubernetes.io/revision"
	desiredReplicasAnnotation = "deployment.kubernetes.io/desired-replicas"
	maxReplicasAnnotation     = "deployment.kubernetes.io/max-replicas"
)

// sameTemplate compares pod templates without the hash label that the controller adds.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(a, b)
}

// templateHash names the ReplicaSet of a template. collisions makes another name when
// one is taken by a different template.
func templateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	encoded, err := json.Marshal(t)
	if err != nil {
		panic(fmt.Sprintf("a pod template that came from JSON does not encode: %v", err))
	}
	_, _ = h.Write(encoded) // a hash never fails
	if collisions != nil {
		_, _ = fmt.Fprintf(h, "/%d", *collisions)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// split finds the ReplicaSet of the present template (the oldest, if several match)
// and the others, oldest first.
func split(d *appsv1.Deployment, all []*appsv1.ReplicaSet) (current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for _, rs := range all {
		if current == nil && sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			current = rs
			continue
		}
		old = append(old, rs)
	}
	return current, old
}

// revision is the rollout's number of a ReplicaSet, 0 if it has none.
func revision(annotations map[string]string) int64 {
	n, err := strconv.ParseInt(annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func maxRevision(sets []*appsv1.ReplicaSet) int64 {
	var n int64
	for _, rs := range sets {
		n = max(n, revision(rs.Annotations))
	}
	return n
}

// limits are how many pods may be missing and how many may be extra.
func limits(d *appsv1.Deployment) (maxUnavailable, maxSurge int32) {
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || d.Spec.Strategy.RollingUpdate == nil {
		return 0, 0
	}
	replicas := int(*d.Spec.Replicas)
	scaled := func(v *intstr.IntOrString, up bool) int32 {
		n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, intstr.FromInt32(0)), replicas, up)
		if err != nil {
			return 0 // validation lets no other form through
		}
		return int32(n)
	}
	maxSurge = scaled(d.Spec.Strategy.RollingUpdate.MaxSurge, true)
	maxUnavailable = min(scaled(d.Spec.Strategy.RollingUpdate.MaxUnavailable, false), int32(replicas))
	if maxUnavailable == 0 && maxSurge == 0 {
		maxUnavailable = 1 // else nothing could ever move
	}
	return maxUnavailable, maxSurge
}

// scaling says how many replicas each ReplicaSet is to have, by name; those not named
// stay as they are.
type scaling map[string]int32

func replicasOf(sets ...*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		if rs != nil {
			n += *rs.Spec.Replicas
		}
	}
	return n
}

// rollingUpdate plans the next step: first up within maxSurge, then down as far as
// maxUnavailable allows.
func rollingUpdate(d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) scaling {
	plan := scaling{}
	maxUnavailable, maxSurge := limits(d)
	want := *d.Spec.Replicas
	have := *current.Spec.Replicas
	switch {
	case have > want:
		plan[current.Name] = want
		return plan
	case have < want:
		room := want + maxSurge - replicasOf(append(old, current)...)
		if room > 0 {
			plan[current.Name] = have + min(room, want-have)
			return plan
		}
	}
	down(plan, current, old, want-maxUnavailable)
	return plan
}

// down takes replicas from old ReplicaSets: the ones that are not available first, for
// their loss costs nothing, then available ones while at least floor stay available.
func down(plan scaling, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet, floor int32) {
	total := replicasOf(append(old, current)...)
	waiting := *current.Spec.Replicas - available(current)
	spare := total - floor - waiting
	if spare <= 0 {
		return
	}
	left := map[string]int32{}
	for _, rs := range old {
		left[rs.Name] = *rs.Spec.Replicas
		unavailable := *rs.Spec.Replicas - available(rs)
		n := min(spare, unavailable)
		if n > 0 {
			left[rs.Name] -= n
			spare -= n
			plan[rs.Name] = left[rs.Name]
		}
	}
	staying := available(current)
	for _, rs := range old {
		staying += available(rs)
	}
	loss := min(staying-floor, spare)
	for _, rs := range old {
		n := min(loss, left[rs.Name])
		if n > 0 {
			left[rs.Name] -= n
			loss -= n
			plan[rs.Name] = left[rs.Name]
		}
	}
}

// available is how many of the pods that the ReplicaSet is to keep are available; its
// status may still count some that it was told to delete.
func available(rs *appsv1.ReplicaSet) int32 {
	return min(rs.Status.AvailableReplicas, *rs.Spec.Replicas)
}

// proportional spreads a change of spec.replicas during a rollout over all active
// ReplicaSets by their share, the newest taking what rounding leaves.
func proportional(d *appsv1.Deployment, active []*appsv1.ReplicaSet) scaling {
	plan := scaling{}
	_, maxSurge := limits(d)
	allowed := int32(0)
	if *d.Spec.Replicas > 0 {
		allowed = *d.Spec.Replicas + maxSurge
	}
	total := replicasOf(active...)
	change := allowed - total
	sorted := slices.Clone(active)
	slices.SortFunc(sorted, func(a, b *appsv1.ReplicaSet) int {
		newest := b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
		if change < 0 {
			newest = -newest
		}
		return cmp.Or(cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas), newest)
	})
	given := int32(0)
	for _, rs := range sorted {
		n := share(rs, d, allowed, change-given)
		plan[rs.Name] = *rs.Spec.Replicas + n
		given += n
	}
	if len(sorted) > 0 {
		first := sorted[0]
		plan[first.Name] = max(plan[first.Name]+change-given, 0)
	}
	return plan
}

// share is one ReplicaSet's part of the change, never more than what is left of it.
func share(rs *appsv1.ReplicaSet, d *appsv1.Deployment, allowed, left int32) int32 {
	if left == 0 || *rs.Spec.Replicas == 0 {
		return 0
	}
	before := *d.Spec.Replicas
	if n, err := strconv.ParseInt(rs.Annotations[maxReplicasAnnotation], 10, 32); err == nil && n > 0 {
		before = int32(n)
	}
	part := int32(math.Round(float64(*rs.Spec.Replicas)*float64(allowed)/float64(max(before, 1)))) - *rs.Spec.Replicas
	if left > 0 {
		return max(min(part, left), 0)
	}
	return min(max(part, left), 0)
}

// surplus picks the finished old ReplicaSets beyond the history limit, oldest first.
func surplus(d *appsv1.Deployment, old []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	if d.Spec.RevisionHistoryLimit == nil || *d.Spec.RevisionHistoryLimit == math.MaxInt32 {
		return nil
	}
	var idle []*appsv1.ReplicaSet
	for _, rs := range old {
		if *rs.Spec.Replicas == 0 && rs.Status.Replicas == 0 && rs.Generation <= rs.Status.ObservedGeneration && rs.DeletionTimestamp == nil {
			idle = append(idle, rs)
		}
	}
	slices.SortFunc(idle, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(cmp.Compare(revision(a.Annotations), revision(b.Annotations)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time))
	})
	return idle[:max(0, len(idle)-int(*d.Spec.RevisionHistoryLimit))]
}
