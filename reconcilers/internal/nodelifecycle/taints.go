package nodelifecycle

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// conditionTaints is which condition in which state means which taint
// (KEP: TaintNodesByCondition).
var conditionTaints = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	key       string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
}

// wanted are the node's taints with those of its conditions as they should be and all
// others as they are. NoExecute taints carry the time they began.
func wanted(n *corev1.Node, now time.Time) []corev1.Taint {
	var out []corev1.Taint
	for _, t := range n.Spec.Taints {
		if !managed(t) {
			out = append(out, t)
		}
	}
	if n.Spec.Unschedulable {
		out = append(out, keep(n, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}, now))
	}
	status := map[corev1.NodeConditionType]corev1.ConditionStatus{}
	for _, c := range n.Status.Conditions {
		status[c.Type] = c.Status
	}
	if _, ok := status[corev1.NodeReady]; !ok {
		status[corev1.NodeReady] = corev1.ConditionFalse // registered, has not said yet
	}
	for _, ct := range conditionTaints {
		if status[ct.condition] != ct.status {
			continue
		}
		out = append(out, keep(n, corev1.Taint{Key: ct.key, Effect: corev1.TaintEffectNoSchedule}, now))
		if ct.condition == corev1.NodeReady {
			out = append(out, keep(n, corev1.Taint{Key: ct.key, Effect: corev1.TaintEffectNoExecute}, now))
		}
	}
	return out
}

func managed(t corev1.Taint) bool {
	if t.Key == corev1.TaintNodeUnschedulable {
		return true
	}
	for _, ct := range conditionTaints {
		if ct.key == t.Key {
			return true
		}
	}
	return false
}

// keep returns the taint as the node has it, or begins it now.
func keep(n *corev1.Node, t corev1.Taint, now time.Time) corev1.Taint {
	i := slices.IndexFunc(n.Spec.Taints, func(have corev1.Taint) bool { return have.Key == t.Key && have.Effect == t.Effect })
	if i >= 0 {
		return n.Spec.Taints[i]
	}
	began := metav1.NewTime(now.Truncate(time.Second))
	t.TimeAdded = &began
	return t
}

func noExecute(t corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute }

func ready(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}

// tolerated tells how long the pod may stay among the taints: forever, or for wait,
// which is not positive when its time is up.
func tolerated(p *corev1.Pod, taints []corev1.Taint, now time.Time) (wait time.Duration, forever bool) {
	forever = true
	for i := range taints {
		t := &taints[i]
		if !noExecute(*t) {
			continue
		}
		limit, ok := tolerance(p, t)
		if !ok {
			return 0, false
		}
		if limit == nil {
			continue
		}
		began := now
		if t.TimeAdded != nil {
			began = t.TimeAdded.Time
		}
		if p.CreationTimestamp.After(began) {
			began = p.CreationTimestamp.Time // it came later than the taint
		}
		left := began.Add(time.Duration(*limit) * time.Second).Sub(now)
		if forever || left < wait {
			wait, forever = left, false
		}
	}
	return wait, forever
}

// tolerance is how long the pod tolerates the taint, nil for always, by the first
// toleration that matches; ok is false if none does.
func tolerance(p *corev1.Pod, t *corev1.Taint) (limit *int64, ok bool) {
	for i := range p.Spec.Tolerations {
		if matches(&p.Spec.Tolerations[i], t) {
			return p.Spec.Tolerations[i].TolerationSeconds, true
		}
	}
	return nil, false
}

func matches(toleration *corev1.Toleration, t *corev1.Taint) bool {
	if toleration.Effect != "" && toleration.Effect != t.Effect {
		return false
	}
	if toleration.Key != "" && toleration.Key != t.Key {
		return false
	}
	switch toleration.Operator {
	case "", corev1.TolerationOpEqual:
		return toleration.Value == t.Value && toleration.Key != ""
	case corev1.TolerationOpExists:
		return true
	default:
		return false
	}
}
