package placement

import (
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/rutter-project/rutter/scheduler/internal/cluster"
)

// taintScore prefers nodes with fewer PreferNoSchedule taints that are not tolerated.
func taintScore(p *corev1.Pod, _ cluster.Snapshot, feasible []*cluster.Node) func(*cluster.Node) int64 {
	raw := map[*cluster.Node]int64{}
	for _, n := range feasible {
		for i := range n.Node.Spec.Taints {
			t := &n.Node.Spec.Taints[i]
			if t.Effect == corev1.TaintEffectPreferNoSchedule && !corev1helpers.TolerationsTolerateTaint(klog.Background(), p.Spec.Tolerations, t, true) {
				raw[n]++
			}
		}
	}
	return normalize(raw, true)
}

// affinityScore adds up the weights of the preferred terms that a node matches.
func affinityScore(p *corev1.Pod, _ cluster.Snapshot, feasible []*cluster.Node) func(*cluster.Node) int64 {
	affinity := p.Spec.Affinity
	if affinity == nil || affinity.NodeAffinity == nil || len(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil // validation does not let this through
	}
	raw := map[*cluster.Node]int64{}
	for _, n := range feasible {
		raw[n] = terms.Score(n.Node)
	}
	return normalize(raw, false)
}

// leastAllocated prefers nodes with more left of CPU and memory.
func leastAllocated(p *corev1.Pod, _ cluster.Snapshot, _ []*cluster.Node) func(*cluster.Node) int64 {
	want := cluster.Requests(p).ForScore()
	return func(n *cluster.Node) int64 {
		cpu := free(want.MilliCPU+n.ForScore.MilliCPU, n.Allocatable.MilliCPU)
		memory := free(want.Memory+n.ForScore.Memory, n.Allocatable.Memory)
		return (cpu + memory) / 2
	}
}

func free(used, total int64) int64 {
	if total == 0 || used > total {
		return 0
	}
	return (total - used) * maxScore / total
}

// balanced prefers nodes whose CPU and memory would be used alike.
func balanced(p *corev1.Pod, _ cluster.Snapshot, _ []*cluster.Node) func(*cluster.Node) int64 {
	want := cluster.Requests(p)
	return func(n *cluster.Node) int64 {
		cpu := fraction(want.MilliCPU+n.Requested.MilliCPU, n.Allocatable.MilliCPU)
		memory := fraction(want.Memory+n.Requested.Memory, n.Allocatable.Memory)
		return int64((1 - math.Abs(cpu-memory)/2) * maxScore)
	}
}

func fraction(used, total int64) float64 {
	if total == 0 {
		return 1
	}
	return min(float64(used)/float64(total), 1)
}

// Bounds of image sizes that matter, kube-scheduler's.
const (
	smallImage = 23 << 20
	largeImage = 1000 << 20
)

// imageLocality prefers nodes that have large images of the pod already, scaled by how
// many nodes have them so that not all pods flock to one.
func imageLocality(p *corev1.Pod, s cluster.Snapshot, _ []*cluster.Node) func(*cluster.Node) int64 {
	names := make([]string, 0, len(p.Spec.InitContainers)+len(p.Spec.Containers))
	for _, containers := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range containers {
			names = append(names, tagged(containers[i].Image))
		}
	}
	if !slices.ContainsFunc(names, func(name string) bool { return s.Images[name] > 0 }) {
		return nil // nobody has any
	}
	return func(n *cluster.Node) int64 {
		sum := int64(0)
		for _, name := range names {
			sum += n.Images[name] * int64(s.Images[name]) / int64(len(s.Nodes))
		}
		limit := int64(largeImage * len(names))
		sum = min(max(sum, smallImage), limit)
		return maxScore * (sum - smallImage) / (limit - smallImage)
	}
}

// tagged is the image's name with the tag that pulling it would use.
func tagged(image string) string {
	if strings.LastIndex(image, ":") <= strings.LastIndex(image, "/") {
		return image + ":latest"
	}
	return image
}
