package apiserver

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

// TestOwnLease: the lease is renewed while the server runs, taken over by who runs on the
// host next, taken away when the server stops, and so are those of servers that are gone.
func TestOwnLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := func(name string, labels map[string]string, renewed *metav1.MicroTime) *coordinationv1.Lease {
			return &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "kube-system", Labels: labels},
				Spec:       coordinationv1.LeaseSpec{HolderIdentity: ptr.To("x"), LeaseDurationSeconds: ptr.To[int32](3600), RenewTime: renewed},
			}
		}
		server := map[string]string{identityLabel: identityValue}
		now, old := metav1.NewMicroTime(time.Now()), metav1.NewMicroTime(time.Now().Add(-2*time.Hour))
		client := fake.NewClientset(
			left("alive", server, &now), left("gone", server, &old), left("empty", server, nil), left("other", nil, &old))
		names := func() []string {
			all, err := client.CoordinationV1().Leases("kube-system").List(t.Context(), metav1.ListOptions{})
			require.NoError(t, err)
			var names []string
			for _, l := range all.Items {
				names = append(names, l.Name)
			}
			return names
		}
		run := func() (ownLease, func()) {
			l, err := newLease(client, "192.0.2.7:6443")
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); l.run(ctx, func(err error) { t.Error(err) }) }()
			synctest.Wait()
			return l, func() { cancel(); <-done }
		}
		mine := func(l ownLease) *coordinationv1.Lease {
			got, err := client.CoordinationV1().Leases("kube-system").Get(t.Context(), l.name, metav1.GetOptions{})
			require.NoError(t, err)
			return got
		}

		l, stop := run()
		require.ElementsMatch(t, []string{"alive", "other", l.name}, names())
		got := mine(l)
		require.Equal(t, map[string]string{"apiserver.kubernetes.io/identity": "kube-apiserver", "kubernetes.io/hostname": l.host}, got.Labels)
		require.Equal(t, map[string]string{"kubernetes.io/peer-advertise-address": "192.0.2.7:6443"}, got.Annotations)
		require.Equal(t, l.holder, *got.Spec.HolderIdentity)
		require.Equal(t, int32(3600), *got.Spec.LeaseDurationSeconds)
		require.Regexp(t, `^apiserver-[a-z2-7]{26}$`, l.name)

		first := got.Spec.RenewTime.Time
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		require.WithinDuration(t, first.Add(2*time.Hour), mine(l).Spec.RenewTime.Time, identityRenewed)
		require.ElementsMatch(t, []string{"other", l.name}, names())
		stop()
		require.Contains(t, names(), l.name)

		next, stop := run()
		require.Equal(t, l.name, next.name)
		require.Equal(t, next.holder, *mine(next).Spec.HolderIdentity)
		require.NotEqual(t, l.holder, next.holder)
		stop()
		require.NoError(t, l.release(t.Context()))
		require.Contains(t, names(), l.name, "it is the next one's")
		require.NoError(t, next.release(t.Context()))
		require.Equal(t, []string{"other"}, names())
		require.NoError(t, next.release(t.Context()))
	})
}
