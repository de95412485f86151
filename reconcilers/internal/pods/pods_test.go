package pods

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// ago is the time d before now.
func ago(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

func running(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: ago(time.Hour)}, Spec: corev1.PodSpec{NodeName: "n"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: ago(time.Hour)}}}}
	for _, f := range change {
		f(p)
	}
	return p
}

func TestToDeleteRanks(t *testing.T) {
	cost := func(c string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: c} }
	}
	on := func(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }
	phase := func(ph corev1.PodPhase) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Status.Phase = ph } }
	readySince := func(d time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = ago(d) }
	}
	created := func(d time.Duration) func(*corev1.Pod) { return func(p *corev1.Pod) { p.CreationTimestamp = ago(d) } }
	for _, tc := range []struct {
		name        string
		first, last *corev1.Pod
		more        []*corev1.Pod
	}{
		{"not scheduled before scheduled", running("z", on("")), running("a"), nil},
		{"pending before unknown", running("z", phase(corev1.PodPending)), running("a", phase(corev1.PodUnknown)), nil},
		{"unknown before running", running("z", phase(corev1.PodUnknown)), running("a"), nil},
		{"not ready before ready", running("z", func(p *corev1.Pod) { p.Status.Conditions = nil }), running("a", cost("-9")), nil},
		{"low cost before high", running("z", cost("-1")), running("a"), nil},
		{"a cost that is no number counts as 0", running("z", cost("-1")), running("a", cost("-9x")), nil},
		{"crowded node before empty", running("z", on("full")), running("a", on("alone")), []*corev1.Pod{running("zz", on("full"))}},
		{"ready for a short time before long", running("z", readySince(time.Minute)), running("a"), nil},
		{"of one magnitude of readiness, more restarts first", running("z", readySince(59*time.Minute), func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 3}}
		}), running("a", readySince(58*time.Minute)), nil},
		{"young before old", running("z", created(time.Minute)), running("a"), nil},
		{"of one magnitude of age, the UID decides", running("a"), running("z", created(59*time.Minute)), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, in := range [][]*corev1.Pod{{tc.first, tc.last}, {tc.last, tc.first}} {
				all := append(in, tc.more...)
				require.Equal(t, tc.first.Name, ToDelete(all, 1, now)[0].Name)
				require.Equal(t, tc.last.Name, ToDelete(all, 9, now)[len(all)-1].Name)
			}
		})
	}
}

func TestToDeleteKeepsItsInput(t *testing.T) {
	in := []*corev1.Pod{running("b"), running("a")}
	require.Len(t, ToDelete(in, 1, now), 1)
	require.Equal(t, "b", in[0].Name)
	require.Empty(t, ToDelete(nil, 3, now))
}

func TestAvailable(t *testing.T) {
	p := running("p")
	p.Status.Conditions[0].LastTransitionTime = ago(10 * time.Second)
	notReady := running("q", func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse })
	for _, tc := range []struct {
		name     string
		pod      *corev1.Pod
		minReady int32
		want     bool
		wait     time.Duration
	}{
		{"ready, nothing asked", p, 0, true, 0},
		{"not ready", notReady, 0, false, 0},
		{"no condition", &corev1.Pod{}, 5, false, 0},
		{"ready long enough", p, 10, true, 0},
		{"not yet", p, 25, false, 15 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			require.Equal(t, tc.want, Available(tc.pod, tc.minReady, now))
			require.Equal(t, tc.wait, UntilAvailable([]*corev1.Pod{notReady, tc.pod}, tc.minReady, now))
		})
	}
}

func TestActiveAndTerminating(t *testing.T) {
	gone := func(p *corev1.Pod) { d := ago(0); p.DeletionTimestamp = &d }
	failed := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	all := []*corev1.Pod{running("a"), running("b", gone), running("c", failed), running("d", failed, gone)}
	require.Equal(t, []*corev1.Pod{all[0]}, Active(all))
	require.EqualValues(t, 1, Terminating(all))
}

func TestFromTemplate(t *testing.T) {
	template := &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}, Finalizers: []string{"e/f"}},
		Spec: corev1.PodSpec{NodeSelector: map[string]string{"g": "h"}}}
	owner := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "u"}}
	p := FromTemplate(template, owner, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))
	require.Equal(t, "web-", p.GenerateName)
	require.Equal(t, "ns", p.Namespace)
	require.Equal(t, types.UID("u"), metav1.GetControllerOf(p).UID)
	require.Equal(t, template.Finalizers, p.Finalizers)
	p.Labels["a"], p.Spec.NodeSelector["g"] = "x", "x"
	require.Equal(t, "b", template.Labels["a"], "the template is not shared")
	require.Equal(t, "h", template.Spec.NodeSelector["g"])
}
