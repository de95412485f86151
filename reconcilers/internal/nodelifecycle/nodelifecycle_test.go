package nodelifecycle

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func node(status corev1.ConditionStatus, more ...corev1.NodeCondition) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{
		Conditions: append([]corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}, more...)}}
}

func keys(taints []corev1.Taint) (out []string) {
	for _, t := range taints {
		out = append(out, t.Key+":"+string(t.Effect))
	}
	return out
}

func TestWantedTaints(t *testing.T) {
	cordoned := node(corev1.ConditionTrue)
	cordoned.Spec.Unschedulable = true
	users := node(corev1.ConditionTrue)
	users.Spec.Taints = []corev1.Taint{{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}, {Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute}}
	for _, tc := range []struct {
		name string
		node *corev1.Node
		want []string
	}{
		{"ready", node(corev1.ConditionTrue), nil},
		{"not ready", node(corev1.ConditionFalse), []string{corev1.TaintNodeNotReady + ":NoSchedule", corev1.TaintNodeNotReady + ":NoExecute"}},
		{"unknown", node(corev1.ConditionUnknown), []string{corev1.TaintNodeUnreachable + ":NoSchedule", corev1.TaintNodeUnreachable + ":NoExecute"}},
		{"never said", &corev1.Node{}, []string{corev1.TaintNodeNotReady + ":NoSchedule", corev1.TaintNodeNotReady + ":NoExecute"}},
		{"pressure", node(corev1.ConditionTrue, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue}), []string{corev1.TaintNodeDiskPressure + ":NoSchedule"}},
		{"pressure unknown", node(corev1.ConditionTrue, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionUnknown}), nil},
		{"cordoned", cordoned, []string{corev1.TaintNodeUnschedulable + ":NoSchedule"}},
		{"others stay, ours go", users, []string{"gpu:NoSchedule"}},
	} {
		t.Run(tc.name, func(t *testing.T) { require.Equal(t, tc.want, keys(wanted(tc.node, now))) })
	}
	n := node(corev1.ConditionFalse)
	n.Spec.Taints = wanted(n, now)
	require.Equal(t, n.Spec.Taints, wanted(n, now.Add(time.Hour)), "a taint keeps the time it began")
}

func tolerating(key string, seconds int64) corev1.Toleration {
	t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
	if seconds >= 0 {
		t.TolerationSeconds = &seconds
	}
	return t
}

func TestTolerated(t *testing.T) {
	began := metav1.NewTime(now.Add(-10 * time.Second))
	taint := func(key string) corev1.Taint {
		return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute, TimeAdded: &began}
	}
	for _, tc := range []struct {
		name        string
		tolerations []corev1.Toleration
		taints      []corev1.Taint
		born        time.Duration // before now
		wait        time.Duration
		forever     bool
	}{
		{"no taints", nil, nil, time.Hour, 0, true},
		{"not one that evicts", nil, []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoSchedule}}, time.Hour, 0, true},
		{"not tolerated", nil, []corev1.Taint{taint("a")}, time.Hour, 0, false},
		{"for ever", []corev1.Toleration{tolerating("a", -1)}, []corev1.Taint{taint("a")}, time.Hour, 0, true},
		{"for a while", []corev1.Toleration{tolerating("a", 30)}, []corev1.Taint{taint("a")}, time.Hour, 20 * time.Second, false},
		{"time is up", []corev1.Toleration{tolerating("a", 10)}, []corev1.Taint{taint("a")}, time.Hour, 0, false},
		{"the shortest of two taints", []corev1.Toleration{tolerating("a", 60), tolerating("b", 30)}, []corev1.Taint{taint("a"), taint("b")}, time.Hour, 20 * time.Second, false},
		{"one of two not tolerated", []corev1.Toleration{tolerating("a", 60)}, []corev1.Taint{taint("a"), taint("b")}, time.Hour, 0, false},
		{"the first toleration that matches counts", []corev1.Toleration{tolerating("a", 30), tolerating("", 90)}, []corev1.Taint{taint("a")}, time.Hour, 20 * time.Second, false},
		{"a pod younger than the taint", []corev1.Toleration{tolerating("a", 30)}, []corev1.Taint{taint("a")}, time.Second, 29 * time.Second, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-tc.born))}, Spec: corev1.PodSpec{Tolerations: tc.tolerations}}
			wait, forever := tolerated(p, tc.taints, now)
			require.Equal(t, tc.forever, forever)
			if !forever {
				require.Equal(t, tc.wait, wait)
			}
		})
	}
}

func TestMatches(t *testing.T) {
	taint := &corev1.Taint{Key: "k", Value: "v", Effect: corev1.TaintEffectNoExecute}
	for _, tc := range []struct {
		t    corev1.Toleration
		want bool
	}{
		{corev1.Toleration{Key: "k", Value: "v"}, true},
		{corev1.Toleration{Key: "k", Value: "w"}, false},
		{corev1.Toleration{Key: "x", Operator: corev1.TolerationOpExists}, false},
		{corev1.Toleration{Operator: corev1.TolerationOpExists}, true},
		{corev1.Toleration{Value: "v"}, false},
		{corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}, false},
		{corev1.Toleration{Key: "k", Operator: "Near"}, false},
	} {
		require.Equal(t, tc.want, matches(&tc.t, taint), "%+v", tc.t)
	}
}

func start(t *testing.T, s *fakeapi.Server) {
	t.Helper()
	c, err := New(s.Client(), GracePeriod, s, zerolog.Nop())
	require.NoError(t, err)
	fakeapi.Start(t, s, c)
}

func beat(s *fakeapi.Server) {
	renew := metav1.NewMicroTime(time.Now())
	fakeapi.Put(s, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "n"}, Spec: coordinationv1.LeaseSpec{RenewTime: &renew}})
	fakeapi.Settle()
}

func state(s *fakeapi.Server) corev1.ConditionStatus {
	return ready(fakeapi.Get[*corev1.Node](s, "", "n"))
}

func TestSilentNodeIsMarkedTaintedAndEmptied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, node(corev1.ConditionTrue))
		for name, tolerations := range map[string][]corev1.Toleration{"now": nil, "later": {tolerating(corev1.TaintNodeUnreachable, 300)}, "never": {tolerating("", -1)}} {
			fakeapi.Put(s, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: "n", Tolerations: tolerations}})
		}
		start(t, s)
		for range 12 {
			beat(s)
			time.Sleep(10 * time.Second)
		}
		require.Equal(t, corev1.ConditionTrue, state(s))
		time.Sleep(GracePeriod)
		synctest.Wait()
		require.Equal(t, corev1.ConditionUnknown, state(s))
		ending := func(name string) bool { return fakeapi.Get[*corev1.Pod](s, "default", name).DeletionTimestamp != nil }
		require.True(t, ending("now"))
		require.False(t, ending("later"))
		time.Sleep(300 * time.Second)
		synctest.Wait()
		require.True(t, ending("later"))
		require.False(t, ending("never"))
		for _, name := range []string{"now", "later"} {
			conditions := fakeapi.Get[*corev1.Pod](s, "default", name).Status.Conditions
			require.Len(t, conditions, 1)
			require.Equal(t, "DeletionByTaintManager", conditions[0].Reason)
		}
		tainted := fakeapi.Get[*corev1.Node](s, "", "n").ResourceVersion
		for _, w := range s.Writes() {
			if w.Resource == "pods" {
				require.Contains(t, w.Cause, tainted, "%s of %s names the node that was lost", w.Verb, w.Name)
			}
		}
		n := fakeapi.Get[*corev1.Node](s, "", "n")
		n.Status = node(corev1.ConditionTrue).Status
		fakeapi.Put(s, n)
		fakeapi.Settle() // the status came before the Lease, and was overwritten once
		beat(s)
		require.Equal(t, corev1.ConditionTrue, state(s))
		require.Empty(t, fakeapi.Get[*corev1.Node](s, "", "n").Spec.Taints)
	})
}

// A node that joined long after the controller had started counted as lost at once,
// until its first heartbeat.
func TestNewNodeHasAGracePeriodOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		start(t, s)
		time.Sleep(time.Hour)
		fakeapi.Put(s, node(corev1.ConditionTrue))
		fakeapi.Settle()
		require.Equal(t, corev1.ConditionTrue, state(s))
		time.Sleep(2 * GracePeriod)
		synctest.Wait()
		require.Equal(t, corev1.ConditionUnknown, state(s))
	})
}
