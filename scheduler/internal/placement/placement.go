// Package placement decides where a pod goes. Everything here is pure: the same
// snapshot, pod and configuration give the same decision.
//
// Filters and scores bear the names and meanings of kube-scheduler's plugins.
package placement

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/scheduler/internal/cluster"
)

// maxScore is the best a node can get from one score, before its weight.
const maxScore = 100

// Decision is where a pod goes and why. Node is empty if it fits nowhere.
type Decision struct {
	Node string `json:"node,omitempty"`
	// Rev is the revision of the snapshot that was decided on.
	Rev int64 `json:"rev"`
	// Nodes is how many nodes there were, Feasible how many passed all filters.
	Nodes    int `json:"nodes"`
	Feasible int `json:"feasible"`
	// Rejected counts nodes by the reason they were filtered out for.
	Rejected map[string]int `json:"rejected,omitempty"`
	// By counts nodes by the filter that rejected them.
	By map[string]int `json:"by,omitempty"`
	// Scores are the weighted points of the chosen node, by score.
	Scores map[string]int64 `json:"scores,omitempty"`
	// RunnersUp are the total points of the next best nodes.
	RunnersUp map[string]int64 `json:"runnersUp,omitempty"`
}

// runnersUp is how many other nodes a decision names.
const runnersUp = 3

// Message explains a pod that fits nowhere, in kube-scheduler's words.
func (d Decision) Message() string {
	if d.Nodes == 0 {
		return "no nodes available to schedule pods"
	}
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(d.Rejected)) {
		parts = append(parts, fmt.Sprintf("%d %s", d.Rejected[reason], reason))
	}
	return fmt.Sprintf("0/%d nodes are available: %s.", d.Nodes, strings.Join(parts, ", "))
}

// Filter rejects nodes. An empty reason accepts.
type filter struct {
	name string
	// prepare looks at the pod and the cluster once; a nil result skips the filter.
	prepare func(p *corev1.Pod, s cluster.Snapshot) func(n *cluster.Node) (reasons []string)
}

// score rates feasible nodes from 0 to maxScore, times weight.
type score struct {
	name    string
	weight  int64
	prepare func(p *corev1.Pod, s cluster.Snapshot, feasible []*cluster.Node) func(n *cluster.Node) int64
}

var filters = []filter{
	{"NodeUnschedulable", nodeUnschedulable},
	{"NodeName", nodeName},
	{"TaintToleration", taints},
	{"NodeAffinity", nodeAffinity},
	{"NodePorts", nodePorts},
	{"NodeResourcesFit", fit},
	{"PodTopologySpread", spread},
}

// The weights are kube-scheduler's.
var scores = []score{
	{"TaintToleration", 3, taintScore},
	{"NodeAffinity", 2, affinityScore},
	{"NodeResourcesFit", 1, leastAllocated},
	{"PodTopologySpread", 2, spreadScore},
	{"NodeResourcesBalancedAllocation", 1, balanced},
	{"ImageLocality", 1, imageLocality},
}

// Place decides on one pod.
func Place(s cluster.Snapshot, p *corev1.Pod) Decision {
	d := Decision{Rev: s.Rev, Nodes: len(s.Nodes), Rejected: map[string]int{}, By: map[string]int{}}
	feasible := d.filter(s, p)
	d.Feasible = len(feasible)
	if len(feasible) == 0 {
		return d
	}
	totals := make([]ranked, len(feasible))
	for i, n := range feasible {
		totals[i] = ranked{node: n, scores: map[string]int64{}, tie: tie(p, n)}
	}
	if len(feasible) > 1 {
		rate(s, p, feasible, totals)
	}
	slices.SortFunc(totals, func(a, b ranked) int {
		return cmp.Or(-cmp.Compare(a.total, b.total), cmp.Compare(a.tie, b.tie), cmp.Compare(a.node.Node.Name, b.node.Node.Name))
	})
	d.Node, d.Scores = totals[0].node.Node.Name, totals[0].scores
	for _, r := range totals[1:min(len(totals), 1+runnersUp)] {
		if d.RunnersUp == nil {
			d.RunnersUp = map[string]int64{}
		}
		d.RunnersUp[r.node.Node.Name] = r.total
	}
	return d
}

type ranked struct {
	node   *cluster.Node
	scores map[string]int64
	total  int64
	tie    uint64
}

func (d *Decision) filter(s cluster.Snapshot, p *corev1.Pod) []*cluster.Node {
	type check struct {
		name string
		run  func(*cluster.Node) []string
	}
	var checks []check
	for _, f := range filters {
		if run := f.prepare(p, s); run != nil {
			checks = append(checks, check{f.name, run})
		}
	}
	var feasible []*cluster.Node
nodes:
	for _, n := range s.Nodes {
		for _, c := range checks {
			if reasons := c.run(n); len(reasons) > 0 {
				for _, r := range reasons {
					d.Rejected[r]++
				}
				d.By[c.name]++
				continue nodes
			}
		}
		feasible = append(feasible, n)
	}
	return feasible
}

func rate(s cluster.Snapshot, p *corev1.Pod, feasible []*cluster.Node, totals []ranked) {
	for _, sc := range scores {
		run := sc.prepare(p, s, feasible)
		if run == nil {
			continue
		}
		for i := range totals {
			points := run(totals[i].node) * sc.weight
			totals[i].scores[sc.name] = points
			totals[i].total += points
		}
	}
}

// tie orders equal nodes differently for every pod, and always alike for one.
func tie(p *corev1.Pod, n *cluster.Node) uint64 {
	h := fnv.New64a()
	h.Write([]byte(p.UID))
	h.Write([]byte(n.Node.Name))
	return h.Sum64()
}

// normalize scales raw values so that the greatest becomes maxScore; reverse turns the
// order round.
func normalize(raw map[*cluster.Node]int64, reverse bool) func(*cluster.Node) int64 {
	var top int64
	for _, v := range raw {
		top = max(top, v)
	}
	return func(n *cluster.Node) int64 {
		points := int64(0)
		if top > 0 {
			points = raw[n] * maxScore / top
		}
		if reverse {
			return maxScore - points
		}
		return points
	}
}
