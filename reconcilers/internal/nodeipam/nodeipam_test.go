package nodeipam

import (
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPool(t *testing.T) {
	for _, tc := range []struct {
		name, cidr string
		bits       int
		want       []string
	}{
		{"IPv4", "10.244.0.0/22", 24, []string{"10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"}},
		{"carries", "10.0.254.0/23", 24, []string{"10.0.254.0/24", "10.0.255.0/24"}},
		{"not on a byte", "10.0.0.0/25", 27, []string{"10.0.0.0/27", "10.0.0.32/27", "10.0.0.64/27", "10.0.0.96/27"}},
		{"at the end of all addresses", "255.255.254.0/23", 24, []string{"255.255.254.0/24", "255.255.255.0/24"}},
		{"IPv6", "fd00::/62", 64, []string{"fd00::/64", "fd00:0:0:1::/64", "fd00:0:0:2::/64", "fd00:0:0:3::/64"}},
		{"one network", "10.0.0.0/24", 24, []string{"10.0.0.0/24"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPool(netip.MustParsePrefix(tc.cidr), tc.bits)
			for i, want := range tc.want {
				got, err := p.take(string(rune('a' + i)))
				require.NoError(t, err)
				require.Equal(t, want, got.String())
			}
			_, err := p.take("late")
			require.ErrorIs(t, err, ErrExhausted)
			again, err := p.take("a")
			require.NoError(t, err, "a node keeps its network")
			require.Equal(t, tc.want[0], again.String())
			p.release("a")
			freed, err := p.take("late")
			require.NoError(t, err)
			require.Equal(t, tc.want[0], freed.String())
		})
	}
}

func node(name string, cidrs ...string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}
}

func TestGivesEveryNodeItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, node("old", "10.244.0.0/24"))
		fakeapi.Put(s, node("a"))
		c, err := New(s.Client(), netip.MustParsePrefix("10.244.0.0/23"), 24, s, zerolog.Nop())
		require.NoError(t, err)
		fakeapi.Start(t, s, c)
		require.Equal(t, []string{"10.244.1.0/24"}, fakeapi.Get[*corev1.Node](s, "", "a").Spec.PodCIDRs)
		require.Equal(t, "10.244.1.0/24", fakeapi.Get[*corev1.Node](s, "", "a").Spec.PodCIDR)
		fakeapi.Put(s, node("b"))
		fakeapi.Settle()
		require.Empty(t, fakeapi.Get[*corev1.Node](s, "", "b").Spec.PodCIDRs, "none is free")
		fakeapi.Drop(s, node("old"))
		for range 60 {
			fakeapi.Settle()
		}
		require.Equal(t, []string{"10.244.0.0/24"}, fakeapi.Get[*corev1.Node](s, "", "b").Spec.PodCIDRs)
	})
}

func TestRejectsBitsThatDoNotFit(t *testing.T) {
	for _, bits := range []int{8, 31} {
		_, err := New(nil, netip.MustParsePrefix("10.0.0.0/16"), bits, fakeapi.New(), zerolog.Nop())
		require.ErrorContains(t, err, "does not fit into 10.0.0.0/16")
	}
}
