// Package pods holds what all controllers of pods share: who is active, ready and
// available, which to delete first, how a template becomes a pod, and who owns which.
package pods

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Active returns the pods that run or will: neither finished nor being deleted.
func Active(all []*corev1.Pod) []*corev1.Pod {
	var active []*corev1.Pod
	for _, p := range all {
		if !Finished(p) && p.DeletionTimestamp == nil {
			active = append(active, p)
		}
	}
	return active
}

// Terminating counts the pods that are being deleted but have not finished.
func Terminating(all []*corev1.Pod) int32 {
	var n int32
	for _, p := range all {
		if !Finished(p) && p.DeletionTimestamp != nil {
			n++
		}
	}
	return n
}

// Finished reports that the pod's containers will not run again.
func Finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Ready reports the pod's Ready condition.
func Ready(p *corev1.Pod) bool {
	c := condition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

func condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// Available reports that the pod has been ready for minReady seconds.
func Available(p *corev1.Pod, minReady int32, now time.Time) bool {
	return Ready(p) && untilAvailable(p, minReady, now) <= 0
}

func untilAvailable(p *corev1.Pod, minReady int32, now time.Time) time.Duration {
	if minReady == 0 {
		return 0
	}
	since := condition(p, corev1.PodReady).LastTransitionTime
	return since.Add(time.Duration(minReady) * time.Second).Sub(now)
}

// UntilAvailable is when the next ready pod becomes available, 0 if none will.
func UntilAvailable(active []*corev1.Pod, minReady int32, now time.Time) time.Duration {
	next := time.Duration(0)
	for _, p := range active {
		if !Ready(p) {
			continue
		}
		if wait := untilAvailable(p, minReady, now); wait > 0 && (next == 0 || wait < next) {
			next = wait
		}
	}
	return next
}

// ToDelete picks the n pods whose loss costs least: those not scheduled, not running
// or not ready before others, then by deletion cost (KEP-2255), then from nodes with
// many of them, then the youngest, by order of magnitude of their age (KEP-2185),
// and of those any: the UID decides.
func ToDelete(active []*corev1.Pod, n int, now time.Time) []*corev1.Pod {
	perNode := map[string]int{}
	for _, p := range active {
		perNode[p.Spec.NodeName]++
	}
	sorted := slices.Clone(active)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int {
		return cmp.Or(
			cmp.Compare(assigned(a), assigned(b)),
			cmp.Compare(phaseRank(a), phaseRank(b)),
			cmp.Compare(readyRank(a), readyRank(b)),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(perNode[b.Spec.NodeName], perNode[a.Spec.NodeName]),
			-cmp.Compare(magnitude(readySince(a), now), magnitude(readySince(b), now)),
			-cmp.Compare(restarts(a), restarts(b)),
			-cmp.Compare(magnitude(a.CreationTimestamp.Time, now), magnitude(b.CreationTimestamp.Time, now)),
			cmp.Compare(a.UID, b.UID),
		)
	})
	return sorted[:min(n, len(sorted))]
}

func assigned(p *corev1.Pod) int {
	if p.Spec.NodeName == "" {
		return 0
	}
	return 1
}

func phaseRank(p *corev1.Pod) int {
	switch p.Status.Phase {
	case corev1.PodPending:
		return 0
	case corev1.PodRunning:
		return 2
	default:
		return 1
	}
}

func readyRank(p *corev1.Pod) int {
	if Ready(p) {
		return 1
	}
	return 0
}

func deletionCost(p *corev1.Pod) int64 {
	cost, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return cost
}

func readySince(p *corev1.Pod) time.Time {
	if c := condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

// magnitude makes all ages of one order alike, so that the choice among them is left
// to the next rule. Younger is greater.
func magnitude(since, now time.Time) float64 {
	if since.IsZero() {
		return 1
	}
	age := now.Sub(since).Seconds()
	return -math.Floor(math.Log2(max(age, 1)))
}

func restarts(p *corev1.Pod) int32 {
	var n int32
	for _, s := range p.Status.ContainerStatuses {
		n = max(n, s.RestartCount)
	}
	return n
}

// FromTemplate is the pod that a controller creates, named by the server.
func FromTemplate(t *corev1.PodTemplateSpec, owner metav1.Object, kind schema.GroupVersionKind) *corev1.Pod {
	t = t.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: owner.GetName() + "-", Namespace: owner.GetNamespace(),
			Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Spec: t.Spec,
	}
}
