package placement

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/rutter-project/rutter/scheduler/internal/cluster"
)

func nodeUnschedulable(p *corev1.Pod, _ cluster.Snapshot) func(*cluster.Node) []string {
	cordon := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if corev1helpers.TolerationsTolerateTaint(klog.Background(), p.Spec.Tolerations, &cordon, true) {
		return nil
	}
	return func(n *cluster.Node) []string {
		if n.Node.Spec.Unschedulable {
			return []string{"node(s) were unschedulable"}
		}
		return nil
	}
}

func nodeName(p *corev1.Pod, _ cluster.Snapshot) func(*cluster.Node) []string {
	if p.Spec.NodeName == "" {
		return nil
	}
	return func(n *cluster.Node) []string {
		if n.Node.Name != p.Spec.NodeName {
			return []string{"node(s) didn't match the requested node name"}
		}
		return nil
	}
}

func taints(p *corev1.Pod, _ cluster.Snapshot) func(*cluster.Node) []string {
	hard := func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}
	return func(n *cluster.Node) []string {
		t, found := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), n.Node.Spec.Taints, p.Spec.Tolerations, hard, true)
		if !found {
			return nil
		}
		return []string{fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value)}
	}
}

func nodeAffinity(p *corev1.Pod, _ cluster.Snapshot) func(*cluster.Node) []string {
	required := nodeaffinity.GetRequiredNodeAffinity(p)
	return func(n *cluster.Node) []string {
		if ok, err := required.Match(n.Node); err != nil || !ok {
			return []string{"node(s) didn't match Pod's node affinity/selector"}
		}
		return nil
	}
}

func nodePorts(p *corev1.Pod, _ cluster.Snapshot) func(*cluster.Node) []string {
	want := cluster.PortsOf(p)
	if len(want) == 0 {
		return nil
	}
	return func(n *cluster.Node) []string {
		for used := range n.Ports {
			for _, w := range want {
				if w.Port == used.Port && w.Protocol == used.Protocol && (w.IP == used.IP || w.IP == "" || used.IP == "") {
					return []string{"node(s) didn't have free ports for the requested pod ports"}
				}
			}
		}
		return nil
	}
}

func fit(p *corev1.Pod, _ cluster.Snapshot) func(*cluster.Node) []string {
	want := cluster.Requests(p)
	return func(n *cluster.Node) []string { return cluster.Short(want, n.Requested, n.Allocatable) }
}
