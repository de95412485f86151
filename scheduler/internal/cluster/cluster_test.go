package cluster

import (
	"fmt"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func node(name string, cpu int, images ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.Allocatable = corev1.ResourceList{"cpu": *resource.NewQuantity(int64(cpu), resource.DecimalSI), "pods": resource.MustParse("10"), "example.com/gpu": resource.MustParse("2")}
	for _, image := range images {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{image}, SizeBytes: 1 << 30})
	}
	return n
}

func pod(uid, on string, cpu, port int) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: uid, UID: types.UID(uid)}, Spec: corev1.PodSpec{NodeName: on, Containers: []corev1.Container{{
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": *resource.NewMilliQuantity(int64(cpu), resource.DecimalSI)}}}}}}
	if port > 0 {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: int32(port)}}
	}
	if cpu%2 == 1 {
		p.Spec.Containers[0].Resources.Requests["example.com/gpu"] = resource.MustParse("1")
	}
	return p
}

// Whatever comes in whatever order, the picture equals one that is made from what is
// there now, and snapshots taken on the way stay as they were.
func TestIncrementalEqualsRebuild(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := New()
		nodes, placed := map[string]*corev1.Node{}, map[string]*corev1.Pod{}
		assumed := map[string]bool{}
		type kept struct{ snapshot, copied Snapshot }
		var old []kept
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			nodeName := fmt.Sprint("n", rapid.IntRange(0, 3).Draw(t, "node"))
			uid := fmt.Sprint("p", rapid.IntRange(0, 7).Draw(t, "pod"))
			p := pod(uid, nodeName, rapid.IntRange(0, 3).Draw(t, "cpu"), rapid.IntRange(0, 2).Draw(t, "port"))
			switch rapid.IntRange(0, 6).Draw(t, "act") {
			case 0:
				nodes[nodeName] = node(nodeName, rapid.IntRange(1, 9).Draw(t, "size"), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "image"))
				c.SetNode(nodes[nodeName])
			case 1:
				delete(nodes, nodeName)
				c.RemoveNode(nodeName)
			case 2:
				placed[uid] = p
				delete(assumed, uid)
				c.SetPod(p)
			case 3:
				placed[uid] = p
				assumed[uid] = true
				c.Assume(p, nodeName)
			case 4:
				if assumed[uid] {
					delete(placed, uid)
					delete(assumed, uid)
				}
				c.Forget(types.UID(uid))
			case 5:
				delete(placed, uid)
				delete(assumed, uid)
				c.RemovePod(types.UID(uid))
			default:
				s := c.Snapshot()
				old = append(old, kept{s, deepCopy(s)})
			}
		}
		rebuilt := New()
		for _, n := range nodes {
			rebuilt.SetNode(n)
		}
		for _, p := range placed {
			rebuilt.SetPod(p)
		}
		require.Equal(t, deepCopy(rebuilt.Snapshot()), deepCopy(c.Snapshot()))
		require.Len(t, c.nodes, len(rebuilt.nodes), "nothing that is gone is kept")
		for _, k := range old {
			require.Equal(t, k.copied, deepCopy(k.snapshot), "a snapshot changed")
		}
	})
}

// deepCopy copies all that a snapshot reaches; empty maps become nil.
func deepCopy(s Snapshot) Snapshot {
	out := Snapshot{Rev: s.Rev, Images: nonEmpty(s.Images)}
	for _, n := range s.Nodes {
		d := *n
		d.Requested.Other, d.ForScore.Other = nonEmpty(n.Requested.Other), nonEmpty(n.ForScore.Other)
		d.Pods, d.Ports, d.Images = nonEmpty(n.Pods), nonEmpty(n.Ports), nonEmpty(n.Images)
		out.Nodes = append(out.Nodes, &d)
	}
	return out
}

func nonEmpty[K comparable, V any](m map[K]V) map[K]V {
	if len(m) == 0 {
		return nil
	}
	return maps.Clone(m)
}

func TestSnapshotSharesWhatDidNotChange(t *testing.T) {
	c := New()
	c.SetNode(node("a", 1))
	c.SetNode(node("b", 1))
	c.Saw(7)
	c.Saw(5)
	first := c.Snapshot()
	require.EqualValues(t, 7, first.Rev)
	c.Assume(pod("p", "b", 1, 0), "b")
	second := c.Snapshot()
	require.Same(t, first.Nodes[0], second.Nodes[0])
	require.NotSame(t, first.Nodes[1], second.Nodes[1])
}

// Nodes that came and went stayed in memory for ever.
func TestGoneNodesAreForgotten(t *testing.T) {
	c := New()
	c.RemoveNode("never was")
	c.SetNode(node("a", 1))
	c.SetPod(pod("p", "a", 1, 0))
	c.RemoveNode("a")
	require.Len(t, c.nodes, 1, "its pod may still be there when it comes back")
	c.RemovePod("p")
	require.Empty(t, c.nodes)
}

func TestShort(t *testing.T) {
	have := Resources{MilliCPU: 1000, Memory: 100, Storage: 100, Pods: 2, Other: map[corev1.ResourceName]int64{"gpu": 1}}
	for _, tc := range []struct {
		name            string
		want, requested Resources
		short           []string
	}{
		{"fits exactly", Resources{MilliCPU: 1000, Memory: 100, Storage: 100, Pods: 1, Other: map[corev1.ResourceName]int64{"gpu": 1}}, Resources{Pods: 1}, nil},
		{"all short", Resources{MilliCPU: 1, Memory: 1, Storage: 1, Pods: 1, Other: map[corev1.ResourceName]int64{"gpu": 1, "fpga": 1}},
			Resources{MilliCPU: 1000, Memory: 100, Storage: 100, Pods: 2, Other: map[corev1.ResourceName]int64{"gpu": 1}},
			[]string{"Too many pods", "Insufficient cpu", "Insufficient memory", "Insufficient ephemeral-storage", "Insufficient fpga", "Insufficient gpu"}},
		{"what is not asked for is never short", Resources{Pods: 1}, Resources{MilliCPU: 9999, Memory: 9999}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) { require.Equal(t, tc.short, Short(tc.want, tc.requested, have)) })
	}
}

func TestPortsOf(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	port := func(p corev1.ContainerPort) []corev1.ContainerPort { return []corev1.ContainerPort{p} }
	p := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{
			{Ports: port(corev1.ContainerPort{HostPort: 1})},
			{Ports: port(corev1.ContainerPort{HostPort: 2}), RestartPolicy: &always},
		},
		Containers: []corev1.Container{
			{Ports: port(corev1.ContainerPort{HostPort: 3, HostIP: "0.0.0.0"})},
			{Ports: port(corev1.ContainerPort{HostPort: 4, HostIP: "10.0.0.1", Protocol: corev1.ProtocolUDP})},
			{Ports: port(corev1.ContainerPort{ContainerPort: 5})},
		}}}
	require.Equal(t, []Port{{"", "TCP", 3}, {"10.0.0.1", "UDP", 4}, {"", "TCP", 2}}, PortsOf(p), "sidecars count, other init containers do not")
}

func TestRequestsForScore(t *testing.T) {
	r := Requests(&corev1.Pod{})
	require.Equal(t, Resources{Pods: 1}, r)
	require.Equal(t, Resources{MilliCPU: 100, Memory: 200 << 20, Pods: 1}, r.ForScore())
}
