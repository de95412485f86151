package placement

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutter-project/rutter/scheduler/internal/cluster"
)

type nodeOption func(*corev1.Node)

func node(name string, options ...nodeOption) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi"), "pods": resource.MustParse("110")}
	for _, o := range options {
		o(n)
	}
	return n
}

func label(key, value string) nodeOption {
	return func(n *corev1.Node) { n.Labels[key] = value }
}

func zone(z string) nodeOption { return label(corev1.LabelTopologyZone, z) }

func tainted(effect corev1.TaintEffect) nodeOption {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "k", Value: "v", Effect: effect})
	}
}

func cordoned(n *corev1.Node) { n.Spec.Unschedulable = true }

func image(name string, size int64) nodeOption {
	return func(n *corev1.Node) {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{name}, SizeBytes: size})
	}
}

type podOption func(*corev1.Pod)

func pod(uid string, options ...podOption) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: uid, Namespace: "default", UID: types.UID(uid), Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "web"}}}}
	for _, o := range options {
		o(p)
	}
	return p
}

func on(node string) podOption { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func requests(cpu, memory string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}
	}
}

func hostPort(ip string, port int32) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: port, HostIP: ip}}
	}
}

func tolerates(t corev1.Toleration) podOption {
	return func(p *corev1.Pod) { p.Spec.Tolerations = append(p.Spec.Tolerations, t) }
}

func podLabels(kv ...string) podOption {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			p.Labels[kv[i]] = kv[i+1]
		}
	}
}

func spreads(c corev1.TopologySpreadConstraint) podOption {
	return func(p *corev1.Pod) {
		if c.LabelSelector == nil {
			c.LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
		}
		if c.MaxSkew == 0 {
			c.MaxSkew = 1
		}
		if c.WhenUnsatisfiable == "" {
			c.WhenUnsatisfiable = corev1.DoNotSchedule
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
}

func snapshot(objects ...any) cluster.Snapshot {
	c := cluster.New()
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Node:
			c.SetNode(o)
		case *corev1.Pod:
			c.SetPod(o)
		}
	}
	return c.Snapshot()
}

func wantsZone(z string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{z}}}}}}}}
	}
}

// selects is a nodeSelector.
func selects(key, value string) podOption {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{key: value} }
}

func TestFilters(t *testing.T) {
	exists := corev1.Toleration{Operator: corev1.TolerationOpExists}
	for _, tc := range []struct {
		name string
		node *corev1.Node
		with []any
		pod  *corev1.Pod
		by   string // the filter that rejects; "" fits
		why  string
	}{
		{"cordoned", node("n", cordoned), nil, pod("p"), "NodeUnschedulable", "node(s) were unschedulable"},
		{"cordoned, tolerated", node("n", cordoned), nil, pod("p", tolerates(exists)), "", ""},
		{"another node asked for", node("n"), nil, pod("p", on("m")), "NodeName", "node(s) didn't match the requested node name"},
		{"this node asked for", node("n"), nil, pod("p", on("n")), "", ""},
		{"taint", node("n", tainted(corev1.TaintEffectNoSchedule)), nil, pod("p"), "TaintToleration", "node(s) had untolerated taint {k: v}"},
		{"taint that evicts", node("n", tainted(corev1.TaintEffectNoExecute)), nil, pod("p"), "TaintToleration", "node(s) had untolerated taint {k: v}"},
		{"taint that only discourages", node("n", tainted(corev1.TaintEffectPreferNoSchedule)), nil, pod("p"), "", ""},
		{"taint, tolerated", node("n", tainted(corev1.TaintEffectNoSchedule)), nil, pod("p", tolerates(corev1.Toleration{Key: "k", Value: "v"})), "", ""},
		{"taint, another value tolerated", node("n", tainted(corev1.TaintEffectNoSchedule)), nil, pod("p", tolerates(corev1.Toleration{Key: "k", Value: "w"})), "TaintToleration", "node(s) had untolerated taint {k: v}"},
		{"affinity", node("n", zone("a")), nil, pod("p", wantsZone("b")), "NodeAffinity", "node(s) didn't match Pod's node affinity/selector"},
		{"affinity met", node("n", zone("b")), nil, pod("p", wantsZone("b")), "", ""},
		{"selector", node("n"), nil, pod("p", selects("disk", "ssd")), "NodeAffinity", "node(s) didn't match Pod's node affinity/selector"},
		{"selector met", node("n", label("disk", "ssd")), nil, pod("p", selects("disk", "ssd")), "", ""},
		{"port taken", node("n"), []any{pod("q", on("n"), hostPort("", 80))}, pod("p", hostPort("10.0.0.1", 80)), "NodePorts", "node(s) didn't have free ports for the requested pod ports"},
		{"port taken on all addresses", node("n"), []any{pod("q", on("n"), hostPort("10.0.0.1", 80))}, pod("p", hostPort("0.0.0.0", 80)), "NodePorts", "node(s) didn't have free ports for the requested pod ports"},
		{"port on another address", node("n"), []any{pod("q", on("n"), hostPort("10.0.0.2", 80))}, pod("p", hostPort("10.0.0.1", 80)), "", ""},
		{"another port", node("n"), []any{pod("q", on("n"), hostPort("", 81))}, pod("p", hostPort("", 80)), "", ""},
		{"cpu", node("n"), []any{pod("q", on("n"), requests("3", "1Gi"))}, pod("p", requests("2", "1Gi")), "NodeResourcesFit", "Insufficient cpu"},
		{"memory", node("n"), nil, pod("p", requests("1", "9Gi")), "NodeResourcesFit", "Insufficient memory"},
		{"fits exactly", node("n"), nil, pod("p", requests("4", "8Gi")), "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := Place(snapshot(append(tc.with, tc.node)...), tc.pod)
			if tc.by == "" {
				require.Equal(t, tc.node.Name, d.Node, d.Message())
				return
			}
			require.Empty(t, d.Node)
			require.Equal(t, map[string]int{tc.by: 1}, d.By)
			require.Equal(t, map[string]int{tc.why: 1}, d.Rejected)
		})
	}
}

func TestMessage(t *testing.T) {
	require.Equal(t, "no nodes available to schedule pods", Place(snapshot(), pod("p")).Message())
	d := Place(snapshot(node("a", cordoned), node("b"), node("c")), pod("p", requests("9", "9Gi")))
	require.Equal(t, "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu, 2 Insufficient memory.", d.Message())
}

func TestSpread(t *testing.T) {
	three, honor, ignore := int32(3), corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore
	byZone := corev1.TopologySpreadConstraint{TopologyKey: corev1.LabelTopologyZone}
	with := func(change func(*corev1.TopologySpreadConstraint)) corev1.TopologySpreadConstraint {
		c := byZone
		change(&c)
		return c
	}
	ending := pod("ending", on("b1"))
	ending.DeletionTimestamp = &metav1.Time{}
	twoZones := []any{node("a1", zone("a")), node("b1", zone("b")), pod("1", on("a1"))}
	for _, tc := range []struct {
		name    string
		objects []any
		pod     *corev1.Pod
		want    []string // nodes that pass, any of them
	}{
		{"to the emptier zone", twoZones, pod("p", spreads(byZone)), []string{"b1"}},
		{"a larger skew allows both", twoZones, pod("p", spreads(with(func(c *corev1.TopologySpreadConstraint) { c.MaxSkew = 2 }))), []string{"a1", "b1"}},
		{"a pod that does not count itself", twoZones, pod("p", podLabels("app", "other"), spreads(byZone)), []string{"a1", "b1"}},
		{"pods that end do not count", append(twoZones, ending, pod("2", on("b1"))), pod("p", spreads(byZone)), []string{"a1", "b1"}},
		{"fewer domains than minDomains", twoZones, pod("p", spreads(with(func(c *corev1.TopologySpreadConstraint) { c.MinDomains = &three }))), []string{"b1"}},
		{"fewer domains than minDomains, all taken", append(twoZones, pod("2", on("b1"))), pod("p", spreads(with(func(c *corev1.TopologySpreadConstraint) { c.MinDomains = &three }))), nil},
		{"matchLabelKeys count one revision", []any{node("a1", zone("a")), node("b1", zone("b")), pod("1", on("a1"), podLabels("app", "web", "rev", "1")), pod("2", on("b1"), podLabels("app", "web", "rev", "2"))},
			pod("p", podLabels("app", "web", "rev", "2"), spreads(with(func(c *corev1.TopologySpreadConstraint) { c.MatchLabelKeys = []string{"rev"} }))), []string{"a1"}},
		{"nodes without the label are out", []any{node("x"), node("a1", zone("a"))}, pod("p", spreads(byZone)), []string{"a1"}},
		{"zones that affinity excludes do not count", append(twoZones, node("c1", zone("c"), label("x", "y"))), pod("p", selects("x", "y"), spreads(byZone)), []string{"c1"}},
		{"zones that affinity excludes count if told so", []any{node("a1", zone("a")), node("c1", zone("c"), label("x", "y")), pod("1", on("c1"))},
			pod("p", selects("x", "y"), spreads(with(func(c *corev1.TopologySpreadConstraint) { c.NodeAffinityPolicy = &ignore }))), nil},
		{"tainted zones count", []any{node("a1", zone("a"), tainted(corev1.TaintEffectNoSchedule)), node("b1", zone("b")), pod("1", on("b1"))}, pod("p", spreads(byZone)), nil},
		{"tainted zones do not count if told so", []any{node("a1", zone("a"), tainted(corev1.TaintEffectNoSchedule)), node("b1", zone("b")), pod("1", on("b1"))},
			pod("p", spreads(with(func(c *corev1.TopologySpreadConstraint) { c.NodeTaintsPolicy = &honor }))), []string{"b1"}},
		{"two constraints count only nodes with both labels", []any{node("a1", zone("a")), node("b1", zone("b"), label("rack", "r")), pod("1", on("b1"))},
			pod("p", spreads(byZone), spreads(with(func(c *corev1.TopologySpreadConstraint) { c.TopologyKey = "rack" }))), []string{"b1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			seen := map[string]bool{}
			for i := range 40 {
				p := tc.pod.DeepCopy()
				p.UID = types.UID(fmt.Sprint("uid-", i))
				d := Place(snapshot(tc.objects...), p)
				require.Equal(t, len(tc.want), d.Feasible, d.Message())
				seen[d.Node] = true
			}
			delete(seen, "")
			for name := range seen {
				require.Contains(t, tc.want, name)
			}
		})
	}
}

func TestScores(t *testing.T) {
	prefers := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
			{Weight: 5, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"ssd"}}}}}}}}
	}
	controlled := func(p *corev1.Pod) {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{UID: "rs", Controller: &yes}}
	}
	anyway := corev1.TopologySpreadConstraint{TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.ScheduleAnyway}
	for _, tc := range []struct {
		name    string
		objects []any
		pod     *corev1.Pod
	}{
		{"away from taints that discourage", []any{node("bad", tainted(corev1.TaintEffectPreferNoSchedule)), node("good")}, pod("p")},
		{"to preferred nodes", []any{node("bad"), node("good", label("disk", "ssd"))}, pod("p", prefers)},
		{"to nodes with more left", []any{node("bad"), node("good"), pod("q", on("bad"), requests("2", "4Gi"))}, pod("p", requests("1", "2Gi"))},
		{"to nodes that it balances", []any{node("bad"), node("good"), pod("q", on("bad"), requests("2", "1Gi")), pod("r", on("good"), requests("1", "3Gi"))}, pod("p", requests("1", "1Mi"))},
		{"to nodes that have the image", []any{node("bad"), node("good", image("web:latest", 900<<20))}, pod("p")},
		{"away from siblings", []any{node("bad"), node("good"), pod("q", on("bad"), controlled), pod("r", on("good"))}, pod("p", controlled)},
		{"to the emptier zone", []any{node("bad", zone("a")), node("good", zone("b")), pod("q", on("bad")), pod("r", on("good"), podLabels("app", "other"))}, pod("p", spreads(anyway))},
		// A node that lacks the label was the emptiest of all.
		{"not to a node without the zone label", []any{node("bad"), node("good", zone("b")), pod("q", on("good"))}, pod("p", spreads(anyway))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for i := range 20 {
				p := tc.pod.DeepCopy()
				p.UID = types.UID(fmt.Sprint("uid-", i))
				d := Place(snapshot(tc.objects...), p)
				require.Equal(t, "good", d.Node, "%+v", d)
				require.Contains(t, d.RunnersUp, "bad")
			}
		})
	}
}

// Two containers of one image counted its nodes twice.
func TestSharedImageCountsNodesOnce(t *testing.T) {
	p := pod("p")
	p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[0])
	s := snapshot(node("a", image("web:latest", 500<<20)), node("b"))
	rate := imageLocality(p, s, s.Nodes)
	one := imageLocality(pod("p"), s, s.Nodes)
	require.InDelta(t, one(s.Nodes[0]), rate(s.Nodes[0]), 2)
	require.Nil(t, imageLocality(pod("p"), snapshot(node("a")), nil), "no image anywhere, no score")
}

func TestTagged(t *testing.T) {
	for in, want := range map[string]string{"web": "web:latest", "web:1": "web:1", "host:5000/web": "host:5000/web:latest", "host:5000/web:1": "host:5000/web:1"} {
		require.Equal(t, want, tagged(in))
	}
}

func TestSameInputSameDecision(t *testing.T) {
	var objects []any
	for i := range 50 {
		objects = append(objects, node(fmt.Sprint("n", i), zone(fmt.Sprint("z", i%3))))
	}
	chosen := map[string]bool{}
	for i := range 30 {
		p := pod(fmt.Sprint("uid-", i))
		first := Place(snapshot(objects...), p)
		for range 5 {
			require.Equal(t, first, Place(snapshot(objects...), p))
		}
		chosen[first.Node] = true
		require.Len(t, first.RunnersUp, runnersUp)
		require.Equal(t, 50, first.Feasible)
	}
	require.Greater(t, len(chosen), 10, "equal nodes are chosen by the pod's UID")
}

// Run with: go test -run xxx -bench . -count=10 ./scheduler/internal/placement | benchstat -
func BenchmarkPlace5000Nodes(b *testing.B) {
	for _, tc := range []struct {
		name string
		pod  func(i int) *corev1.Pod
	}{
		{"plain", func(i int) *corev1.Pod { return pod(fmt.Sprint("new-", i), requests("10m", "8Mi")) }},
		{"affinity", func(i int) *corev1.Pod {
			return pod(fmt.Sprint("new-", i), requests("10m", "8Mi"), wantsZone("z1"))
		}},
		{"spread", func(i int) *corev1.Pod {
			return pod(fmt.Sprint("new-", i), requests("10m", "8Mi"), spreads(corev1.TopologySpreadConstraint{TopologyKey: corev1.LabelTopologyZone}))
		}},
	} {
		b.Run(tc.name, func(b *testing.B) {
			c := cluster.New()
			for i := range 5000 {
				c.SetNode(node(fmt.Sprint("n", i), zone(fmt.Sprint("z", i%10))))
				for j := range 4 {
					c.SetPod(pod(fmt.Sprint("p-", i, "-", j), on(fmt.Sprint("n", i)), requests("100m", "64Mi"), podLabels("app", "other")))
				}
			}
			i := 0
			for b.Loop() {
				p := tc.pod(i)
				d := Place(c.Snapshot(), p)
				if d.Node == "" {
					b.Fatal(d.Message())
				}
				c.Assume(p, d.Node)
				i++
			}
			b.ReportMetric(float64(i)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}
