package nodestatus

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func report() Report {
	m := Machine{CPUs: 4, Memory: 8 << 30, Disk: 100 << 30}
	c := Capacity(m, 110)
	return Report{Name: "n", Machine: m, Capacity: c, Allocatable: c, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Port: 10250}
}

func conditionOf(s corev1.NodeStatus, kind corev1.NodeConditionType) corev1.NodeCondition {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.NodeCondition{}
}

func TestApply(t *testing.T) {
	s := corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse}}}
	require.True(t, Apply(&s, report(), t0))
	require.Equal(t, corev1.ConditionTrue, conditionOf(s, corev1.NodeReady).Status)
	require.Equal(t, corev1.ConditionFalse, conditionOf(s, corev1.NodeNetworkUnavailable).Status, "of another")
	require.False(t, Apply(&s, report(), t0.Add(time.Hour)), "the same report changes nothing")
	r := report()
	r.Pressure.Disk, r.Unready = true, "runtime is down"
	require.True(t, Apply(&s, r, t0.Add(2*time.Hour)))
	ready := conditionOf(s, corev1.NodeReady)
	require.Equal(t, corev1.ConditionFalse, ready.Status)
	require.Equal(t, "runtime is down", ready.Message)
	require.Equal(t, t0.Add(2*time.Hour), ready.LastTransitionTime.Time)
	require.Equal(t, t0, conditionOf(s, corev1.NodeMemoryPressure).LastTransitionTime.Time)
}

func TestImagesAreSortedAndBounded(t *testing.T) {
	r := report()
	for i := range 80 {
		r.Images = append(r.Images, corev1.ContainerImage{SizeBytes: int64(i)})
	}
	var s corev1.NodeStatus
	Apply(&s, r, t0)
	require.Len(t, s.Images, maxImages)
	require.Equal(t, int64(79), s.Images[0].SizeBytes)
}

func TestAddresses(t *testing.T) {
	given := []netip.Addr{netip.MustParseAddr("192.0.2.9")}
	require.Equal(t, given, Addresses(given, nil))
	if len(global()) == 0 {
		require.Equal(t, []netip.Addr{netip.MustParseAddr("10.244.3.1")}, Addresses(nil, []string{"10.244.3.0/24", "bad"}))
	}
}

func TestAllocatable(t *testing.T) {
	c := Capacity(Machine{CPUs: 2, Memory: 100}, 10)
	a := Allocatable(c, corev1.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("200"), "odd": resource.MustParse("1")})
	require.Equal(t, int64(1500), a.Cpu().MilliValue())
	require.Zero(t, a.Memory().Value(), "never below nothing")
	require.Equal(t, int64(2), c.Cpu().Value(), "the capacity stays")
}

func TestReadMachine(t *testing.T) {
	m, err := ReadMachine(t.TempDir())
	require.NoError(t, err)
	require.Positive(t, m.CPUs)
	require.Positive(t, m.Memory)
	require.NotEmpty(t, m.Info.KernelVersion)
	require.NotEmpty(t, m.Info.BootID)
	_, err = ReadPressure(t.TempDir())
	require.NoError(t, err)
}

func TestKeeperOutlivesTheAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var away atomic.Bool
		away.Store(true)
		client.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
			if away.Load() {
				return true, nil, apierrors.NewServiceUnavailable("away")
			}
			return false, nil, nil
		})
		k := New(Config{Name: "n", Labels: map[string]string{"x": "y"}, LeaseDuration: 40 * time.Second, RenewInterval: 10 * time.Second}, client,
			func(*corev1.Node) (Report, error) { return report(), nil }, zerolog.Nop())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Nil(t, k.Node())
		away.Store(false)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		node, err := client.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{})
		require.NoError(t, err)
		require.Equal(t, "y", node.Labels["x"])
		require.Equal(t, "n", node.Labels[corev1.LabelHostname])
		lease := func() time.Time {
			l, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, "n", metav1.GetOptions{})
			require.NoError(t, err)
			require.Equal(t, int32(40), *l.Spec.LeaseDurationSeconds)
			return l.Spec.RenewTime.Time
		}
		first := lease()
		client.ClearActions()
		time.Sleep(time.Minute)
		synctest.Wait()
		require.GreaterOrEqual(t, lease().Sub(first), 50*time.Second)
		for _, a := range client.Actions() {
			if a.GetVerb() != "get" || a.GetResource().Resource != "leases" {
				require.Equal(t, "leases", a.GetResource().Resource, "an idle node writes nothing but its lease")
			}
		}
		cancel()
		require.NoError(t, <-done)
	})
}

// TestStatusIsToldBesideOthersChanges: a node that still knows its old taints may not send
// them, and has to tell its status nevertheless.
func TestStatusIsToldBesideOthersChanges(t *testing.T) {
	client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", ResourceVersion: "1"},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}}})
	nodes := client.CoreV1().Nodes()
	client.PrependReactor("*", "nodes", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "status" {
			return false, nil, nil
		}
		patch, ok := a.(clienttesting.PatchAction)
		require.True(t, ok, "a status is patched, not replaced")
		var sent corev1.Node
		require.NoError(t, json.Unmarshal(patch.GetPatch(), &sent))
		require.Empty(t, sent.Spec)
		have, err := client.Tracker().Get(a.GetResource(), "", "n")
		require.NoError(t, err)
		if have.(*corev1.Node).ResourceVersion != sent.ResourceVersion {
			return true, nil, apierrors.NewConflict(corev1.Resource("nodes"), "n", errors.New("changed"))
		}
		return false, nil, nil
	})
	said := report()
	k := New(Config{Name: "n"}, client, func(*corev1.Node) (Report, error) { return said, nil }, zerolog.Nop())
	require.NoError(t, k.register(t.Context()))
	require.NoError(t, k.updateStatus(t.Context()))
	other, err := nodes.Get(t.Context(), "n", metav1.GetOptions{})
	require.NoError(t, err)
	other.Spec.Taints, other.ResourceVersion = nil, "2"
	other.Status.Conditions = append(other.Status.Conditions, corev1.NodeCondition{Type: "Mood", Status: corev1.ConditionTrue})
	_, err = nodes.Update(t.Context(), other, metav1.UpdateOptions{})
	require.NoError(t, err)
	said.Unready = "runtime is down"
	require.NoError(t, k.updateStatus(t.Context()))
	got, err := nodes.Get(t.Context(), "n", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, corev1.ConditionFalse, conditionOf(got.Status, corev1.NodeReady).Status)
	require.Equal(t, corev1.ConditionTrue, conditionOf(got.Status, "Mood").Status, "of another")
	require.Empty(t, got.Spec.Taints)
}
