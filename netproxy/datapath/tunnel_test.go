package datapath_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/netproxy/datapath"
	"github.com/rutter-project/rutter/netproxy/internal/lab"
	"github.com/rutter-project/rutter/netproxy/resolve"
)

// underlays are what nodes may be joined by.
func underlays(t *testing.T, fn func(t *testing.T, a, b *machine)) {
	t.Helper()
	for _, u := range []struct{ name, a, b string }{
		{"over IPv4", "192.168.77.1/24", "192.168.77.2/24"},
		{"over IPv6", "fd77::1/64", "fd77::2/64"},
	} {
		t.Run(u.name, func(t *testing.T) {
			nodes := []*lab.Node{
				lab.NewNode(t, "10.244.1.0/24", "fd44:0:0:1::/64"), lab.NewNode(t, "10.244.2.0/24", "fd44:0:0:2::/64"),
			}
			lab.Cable(t, nodes[0].Config.NetNS, nodes[1].Config.NetNS, []string{u.a}, []string{u.b})
			var ms []*machine
			for i, n := range nodes {
				m := start(t, n)
				m.addr = netip.MustParsePrefix([]string{u.a, u.b}[i]).Addr()
				ms = append(ms, m)
			}
			for _, m := range ms {
				lost, err := m.SetPeers(peersOf(ms[0], ms[1], m))
				require.NoError(t, err)
				require.Empty(t, lost)
			}
			fn(t, ms[0], ms[1])
		})
	}
}

// peersOf is what self is told of two nodes.
func peersOf(a, b, self *machine) []resolve.Peer {
	var out []resolve.Peer
	for _, m := range []*machine{a, b} {
		out = append(out, resolve.Peer{
			Name: m.Config.Node, Self: m == self, Addrs: []netip.Addr{m.addr}, PodCIDRs: m.Config.PodCIDRs,
		})
	}
	return out
}

func TestTwoNodesByTunnel(t *testing.T) {
	underlays(t, func(t *testing.T, a, b *machine) {
		client, outside, server := a.pod(1), a.podOutside(2), b.pod(3)
		server.serve("server")
		hostA := lab.Start(t, a.Config.NetNS, "")
		hostB := lab.Start(t, b.Config.NetNS, "")
		hostB.Serve("tcp", ":81", "host")
		families(t, func(t *testing.T, v6 bool) {
			m := svc("web"+vip(v6), vip(v6), 8080, server.at(v6, 80))
			a.apply(m)
			cidr := b.Config.PodCIDRs[0]
			if v6 {
				cidr = b.Config.PodCIDRs[1]
			}
			for _, network := range []string{"tcp", "udp"} {
				got := client.Open(network, server.at(v6, 80).String())
				requireAnswer(t, got, "server")
				require.Equal(t, client.at(v6, 0).Addr(), netip.MustParseAddrPort(got.Client).Addr().Unmap(), "source is kept")
				requireAnswer(t, client.Open(network, vipPort(v6, 8080)), "server")
				requireAnswer(t, outside.Open(network, vipPort(v6, 8080)), "server")
				requireAnswer(t, hostA.Open(network, server.at(v6, 80).String()), "server")
			}
			requireAnswer(t, client.Open("tcp", netip.AddrPortFrom(datapath.HostAddr(cidr), 81).String()), "host")
		})
		// Packets larger than the tunnel's: the pod's MTU leaves room for the header.
		require.LessOrEqual(t, a.MTU(), 1450)
		// A node's own address is reached by the tunnel as well, with the pod's address.
		for _, text := range []string{"192.168.77.2", "fd77::2"} {
			if got := client.Open("tcp", netip.AddrPortFrom(netip.MustParseAddr(text), 81).String()); got.Err == "" {
				require.Contains(t, []netip.Addr{client.at(false, 0).Addr(), client.at(true, 0).Addr()},
					netip.MustParseAddrPort(got.Client).Addr().Unmap())
				return
			}
		}
		t.Fatal("no address of the other node is reached")
	})
}

func TestNodeThatLeavesIsUnreachableAtOnce(t *testing.T) {
	underlays(t, func(t *testing.T, a, b *machine) {
		client, server := a.pod(1), b.pod(3)
		server.serve("server")
		host := lab.Start(t, a.Config.NetNS, "")
		families(t, func(t *testing.T, v6 bool) {
			requireAnswer(t, client.Open("tcp", server.at(v6, 80).String()), "server")
		})
		_, err := a.SetPeers(nil)
		require.NoError(t, err)
		families(t, func(t *testing.T, v6 bool) {
			got := host.Open("tcp", server.at(v6, 80).String())
			require.Contains(t, got.Err, "no route to host")
		})
	})
}

func TestRestartKeepsTunnel(t *testing.T) {
	underlays(t, func(t *testing.T, a, b *machine) {
		client, server := a.pod(1), b.pod(3)
		server.serve("server")
		families(t, func(t *testing.T, v6 bool) {
			open := client.Open("tcp", server.at(v6, 80).String())
			requireAnswer(t, open, "server")
			b = b.restart()
			requireAnswer(t, client.RoundTrip(open.Conn), "server")
			require.NoError(t, b.Activate())
			requireAnswer(t, client.RoundTrip(open.Conn), "server")
		})
	})
}
