package datapath_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/netproxy/datapath"
	"github.com/rutter-project/rutter/netproxy/internal/lab"
)

func TestPodsReachEachOtherAndTheHost(t *testing.T) {
	m := newMachine(t)
	a, b := m.pod(1), m.pod(2)
	b.serve("b")
	host := lab.Start(t, m.Config.NetNS, "")
	host.Serve("tcp", ":81", "host")
	host.Serve("udp", ":81", "host")
	families(t, func(t *testing.T, v6 bool) {
		own := m.Config.PodCIDRs[0]
		if v6 {
			own = m.Config.PodCIDRs[1]
		}
		hostAt := netip.AddrPortFrom(datapath.HostAddr(own), 81).String()
		for _, network := range []string{"tcp", "udp"} {
			got := a.Open(network, b.at(v6, 80).String())
			requireAnswer(t, got, "b")
			require.Equal(t, a.at(v6, 0).Addr(), netip.MustParseAddrPort(got.Client).Addr().Unmap(), "pod to pod keeps the source")
			requireAnswer(t, a.Open(network, hostAt), "host")
			requireAnswer(t, host.Open(network, b.at(v6, 80).String()), "b")
		}
	})
}
