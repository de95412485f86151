package placement

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/rutter-project/rutter/scheduler/internal/cluster"
)

// constraint is one topologySpreadConstraint and how many matching pods each domain of
// its topology has.
type constraint struct {
	key        string
	maxSkew    int
	minDomains int
	selector   labels.Selector
	counts     map[string]int
	self       int // 1 if the pod counts itself
}

// constraints are those of one kind, hard or soft, with the count of pods of each
// domain over the nodes that may take part: they have the labels of all of them.
func constraints(p *corev1.Pod, s cluster.Snapshot, kind corev1.UnsatisfiableConstraintAction) []*constraint {
	var out []*constraint
	var ofKind []corev1.TopologySpreadConstraint
	for _, c := range p.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == kind {
			ofKind = append(ofKind, c)
		}
	}
	for _, c := range ofKind {
		selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil {
			continue // validation does not let this through
		}
		selector = withLabelKeys(selector, c.MatchLabelKeys, p.Labels)
		k := &constraint{key: c.TopologyKey, maxSkew: int(c.MaxSkew), minDomains: 1, selector: selector, counts: map[string]int{}}
		if c.MinDomains != nil {
			k.minDomains = int(*c.MinDomains)
		}
		if selector.Matches(labels.Set(p.Labels)) {
			k.self = 1
		}
		takesPart := participation(p, &c)
		for _, n := range s.Nodes {
			domain, ok := n.Node.Labels[c.TopologyKey]
			if !ok || !labelled(n, ofKind) || !takesPart(n) {
				continue
			}
			k.counts[domain] += matching(n, p.Namespace, selector)
		}
		out = append(out, k)
	}
	return out
}

func labelled(n *cluster.Node, all []corev1.TopologySpreadConstraint) bool {
	for i := range all {
		if _, ok := n.Node.Labels[all[i].TopologyKey]; !ok {
			return false
		}
	}
	return true
}

func withLabelKeys(selector labels.Selector, keys []string, own labels.Set) labels.Selector {
	for _, key := range keys {
		value, ok := own[key]
		if !ok {
			continue
		}
		if r, err := labels.NewRequirement(key, "in", []string{value}); err == nil {
			selector = selector.Add(*r)
		}
	}
	return selector
}

// participation is the node inclusion policy (KEP-3094).
func participation(p *corev1.Pod, c *corev1.TopologySpreadConstraint) func(*cluster.Node) bool {
	required := nodeaffinity.GetRequiredNodeAffinity(p)
	honorAffinity := c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor
	honorTaints := c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
	return func(n *cluster.Node) bool {
		if honorAffinity {
			if ok, err := required.Match(n.Node); err != nil || !ok {
				return false
			}
		}
		if !honorTaints {
			return true
		}
		_, found := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), n.Node.Spec.Taints, p.Spec.Tolerations, func(t *corev1.Taint) bool {
			return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
		}, true)
		return !found
	}
}

func matching(n *cluster.Node, namespace string, selector labels.Selector) int {
	count := 0
	for _, p := range n.Pods {
		if p.Namespace == namespace && p.DeletionTimestamp == nil && selector.Matches(labels.Set(p.Labels)) {
			count++
		}
	}
	return count
}

// spread rejects nodes whose domain would become too much fuller than the emptiest.
func spread(p *corev1.Pod, s cluster.Snapshot) func(*cluster.Node) []string {
	hard := constraints(p, s, corev1.DoNotSchedule)
	if len(hard) == 0 {
		return nil
	}
	return func(n *cluster.Node) []string {
		for _, c := range hard {
			domain, ok := n.Node.Labels[c.key]
			if !ok {
				return []string{"node(s) didn't match pod topology spread constraints (missing required label)"}
			}
			if c.counts[domain]+c.self-c.least() > c.maxSkew {
				return []string{"node(s) didn't match pod topology spread constraints"}
			}
		}
		return nil
	}
}

// least is the count of the emptiest domain, 0 while there are fewer than minDomains.
func (c *constraint) least() int {
	if len(c.counts) < c.minDomains {
		return 0
	}
	least := math.MaxInt
	for _, n := range c.counts {
		least = min(least, n)
	}
	return least
}

// Default spreading of kube-scheduler, for pods of a controller without constraints of
// their own.
var defaultSpread = []struct {
	key  string
	skew int
}{{corev1.LabelHostname, 3}, {corev1.LabelTopologyZone, 5}}

// spreadScore prefers emptier domains. A node that lacks a label of the pod's own
// constraints gets nothing.
func spreadScore(p *corev1.Pod, s cluster.Snapshot, feasible []*cluster.Node) func(*cluster.Node) int64 {
	own := len(p.Spec.TopologySpreadConstraints) > 0
	soft := constraints(p, s, corev1.ScheduleAnyway)
	if !own {
		soft = defaults(p, s)
	}
	if len(soft) == 0 {
		return nil
	}
	raw := map[*cluster.Node]int64{}
	least, most := int64(math.MaxInt64), int64(0)
nodes:
	for _, n := range feasible {
		sum := 0.0
		for _, c := range soft {
			domain, ok := n.Node.Labels[c.key]
			if ok {
				sum += float64(c.counts[domain])*math.Log(float64(len(c.counts)+2)) + float64(c.maxSkew-1)
			} else if own {
				continue nodes
			}
		}
		raw[n] = int64(math.Round(sum))
		least, most = min(least, raw[n]), max(most, raw[n])
	}
	return func(n *cluster.Node) int64 {
		points, ok := raw[n]
		switch {
		case !ok:
			return 0
		case most == 0:
			return maxScore
		default:
			return maxScore * (most + least - points) / most
		}
	}
}

func defaults(p *corev1.Pod, s cluster.Snapshot) []*constraint {
	owner := metav1.GetControllerOfNoCopy(p)
	if owner == nil || len(p.Labels) == 0 {
		return nil
	}
	var out []*constraint
	for _, d := range defaultSpread {
		c := &constraint{key: d.key, maxSkew: d.skew, counts: map[string]int{}}
		for _, n := range s.Nodes {
			domain, ok := n.Node.Labels[d.key]
			if !ok {
				continue
			}
			c.counts[domain] += siblings(n, p.Namespace, owner)
		}
		out = append(out, c)
	}
	return out
}

// siblings counts the node's pods of the same controller.
func siblings(n *cluster.Node, namespace string, owner *metav1.OwnerReference) int {
	count := 0
	for _, p := range n.Pods {
		if p.Namespace != namespace || p.DeletionTimestamp != nil {
			continue
		}
		if ref := metav1.GetControllerOfNoCopy(p); ref != nil && ref.UID == owner.UID {
			count++
		}
	}
	return count
}
