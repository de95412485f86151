// Package placement decides where a pod goes. Everything here is pure: the same
// snapshot, pod and configuration give the same decision.
//
// Filters and scores bear the names and meanings of kube-scheduler's plugins.
package placement

import (
	"cmp"
	"fmt"
	"hash/fnv"
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
	for reason, nodes := range d.Rejected {
		parts = append(parts, fmt.Sprintf("%d %s", nodes, reason))
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", d.Nodes, strings.Join(parts, ", "))
}

// filter rejects nodes. An empty reason accepts.
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
	best := rank(s, p, feasible)
	d.Node = best[0].node.Node.Name
	d.Scores = map[string]int64{}
	for _, pt := range best[0].parts {
		d.Scores[pt.score] = pt.points
	}
	for _, r := range best[1:] {
		if d.RunnersUp == nil {
			d.RunnersUp = map[string]int64{}
		}
		d.RunnersUp[r.node.Node.Name] = r.total
	}
	return d
}

// ranked is a node and its points.
type ranked struct {
	node  *cluster.Node
	total int64
	tie   uint64
	parts []part // of the chosen node only
}

// part is the weighted points of one score.
type part struct {
	score  string
	points int64
}

// before orders nodes, the best first.
func (r ranked) before(o ranked) int {
	return cmp.Or(-cmp.Compare(r.total, o.total), cmp.Compare(r.tie, o.tie), cmp.Compare(r.node.Node.Name, o.node.Node.Name))
}

// rank returns the best node, with its parts, and its runners-up.
func rank(s cluster.Snapshot, p *corev1.Pod, feasible []*cluster.Node) []ranked {
	type run struct {
		score
		rate func(*cluster.Node) int64
	}
	var runs []run
	if len(feasible) > 1 {
		for _, sc := range scores {
			if rate := sc.prepare(p, s, feasible); rate != nil {
				runs = append(runs, run{sc, rate})
			}
		}
	}
	best := make([]ranked, 0, 2+runnersUp)
	seed := seedOf(p)
	for _, n := range feasible {
		r := ranked{node: n}
		for _, sc := range runs {
			r.total += sc.rate(n) * sc.weight
		}
		full := len(best) == 1+runnersUp
		if full && r.total < best[len(best)-1].total {
			continue
		}
		r.tie = tie(seed, n)
		if full && best[len(best)-1].before(r) < 0 {
			continue
		}
		i, _ := slices.BinarySearchFunc(best, r, ranked.before)
		best = slices.Insert(best, i, r)
		best = best[:min(len(best), 1+runnersUp)]
	}
	for _, sc := range runs {
		best[0].parts = append(best[0].parts, part{sc.name, sc.rate(best[0].node) * sc.weight})
	}
	return best
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

// seedOf is what makes ties fall differently for every pod, and always alike for one.
func seedOf(p *corev1.Pod) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(p.UID)) // a hash never fails
	return h.Sum64()
}

// tie places a node among its equals (FNV-1a, continued from the seed).
func tie(seed uint64, n *cluster.Node) uint64 {
	const prime = 1099511628211
	for i := range len(n.Node.Name) {
		seed = (seed ^ uint64(n.Node.Name[i])) * prime
	}
	return seed
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
