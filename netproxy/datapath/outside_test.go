package datapath_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/netproxy/datapath"
	"github.com/rutter-project/rutter/netproxy/internal/lab"
	"github.com/rutter-project/rutter/netproxy/resolve"
)

// outsideWorld is two nodes and a client outside, all on one wire by a router in between.
type outsideWorld struct {
	a, b   *machine
	client *lab.Process
	router string
	addrs  map[*machine]map[bool]string // InternalIPs
	seen   map[bool]string              // the client's addresses
}

func newOutsideWorld(t *testing.T) *outsideWorld {
	t.Helper()
	router := lab.Namespace(t)
	lab.Forward(t, router)
	nodes := []*lab.Node{
		lab.NewNode(t, "10.244.1.0/24", "fd44:0:0:1::/64"), lab.NewNode(t, "10.244.2.0/24", "fd44:0:0:2::/64"),
	}
	outside := lab.Namespace(t)
	w := &outsideWorld{
		router: router,
		addrs:  map[*machine]map[bool]string{},
		seen:   map[bool]string{false: "192.168.99.2", true: "fd99::2"},
	}
	lab.Cable(t, router, outside, []string{"192.168.99.1/24", "fd99::1/64"}, []string{"192.168.99.2/24", "fd99::2/64"})
	lab.Default(t, outside, "192.168.99.1", "fd99::1")
	underlay := []map[bool]string{
		{false: "192.168.71.2", true: "fd71::2"}, {false: "192.168.72.2", true: "fd72::2"},
	}
	lab.Cable(t, router, nodes[0].Config.NetNS, []string{"192.168.71.1/24", "fd71::1/64"}, []string{"192.168.71.2/24", "fd71::2/64"})
	lab.Cable(t, router, nodes[1].Config.NetNS, []string{"192.168.72.1/24", "fd72::1/64"}, []string{"192.168.72.2/24", "fd72::2/64"})
	lab.Default(t, nodes[0].Config.NetNS, "192.168.71.1", "fd71::1")
	lab.Default(t, nodes[1].Config.NetNS, "192.168.72.1", "fd72::1")
	w.a, w.b = start(t, nodes[0]), start(t, nodes[1])
	for i, m := range []*machine{w.a, w.b} {
		w.addrs[m] = underlay[i]
		var peers []resolve.Peer
		for j, u := range underlay {
			peers = append(peers, resolve.Peer{
				Name: string(rune('a' + j)), Self: i == j, PodCIDRs: nodes[j].Config.PodCIDRs,
				Addrs: []netip.Addr{netip.MustParseAddr(u[false]), netip.MustParseAddr(u[true])},
			})
		}
		_, err := m.SetPeers(peers)
		require.NoError(t, err)
	}
	w.client = lab.Start(t, outside, "")
	return w
}

// nodePort is a service with a node port, of one family.
func nodePort(v6 bool, external string, backends ...netip.AddrPort) datapath.Change {
	c := svc("np"+vip(v6), vip(v6), 8080, backends...)
	for i := range c.Service.Ports {
		p := &c.Service.Ports[i]
		unspecified := netip.IPv4Unspecified()
		if v6 {
			unspecified = netip.IPv6Unspecified()
		}
		p.Fronts = append(p.Fronts,
			resolve.Front{Addr: unspecified, Port: 30080, Protocol: p.ID.Protocol, External: true},
			resolve.Front{Addr: netip.MustParseAddr(external), Port: 8080, Protocol: p.ID.Protocol, External: true})
	}
	return c
}

func at(addr string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port).String()
}

func TestNodePortFromOutside(t *testing.T) {
	w := newOutsideWorld(t)
	local, remote := w.a.pod(1), w.b.pod(2)
	local.serve("local")
	remote.serve("remote")
	host := lab.Start(t, w.a.Config.NetNS, "")
	host.Serve("tcp", ":81", "host")
	host.Serve("udp", ":81", "host")
	families(t, func(t *testing.T, v6 bool) {
		self := w.addrs[w.a][v6]
		external := map[bool]string{false: "192.168.71.2", true: "fd71::2"}[v6] // also as an external address
		for name, backend := range map[string]netip.AddrPort{
			"local": local.at(v6, 80), "remote": remote.at(v6, 80), "host": netip.MustParseAddrPort(at(self, 81)),
		} {
			w.a.apply(nodePort(v6, external, backend))
			for _, network := range []string{"tcp", "udp"} {
				got := w.client.Open(network, at(self, 30080))
				requireAnswer(t, got, name)
				requireAnswer(t, w.client.RoundTrip(got.Conn), name)
				requireAnswer(t, w.client.Open(network, at(external, 8080)), name)
			}
			a := w.client.Send("udp", at(self, 30080), 0)
			requireAnswer(t, a, name)
			require.Equal(t, at(self, 30080), a.Peer)
		}
		require.Contains(t, w.client.Open("tcp", at(self, 30081)).Err, "refused", "other ports are the host's")
	})
}

func TestNodePortFromInside(t *testing.T) {
	w := newOutsideWorld(t)
	inside, outside, remote := w.a.pod(1), w.a.podOutside(3), w.b.pod(2)
	remote.serve("remote")
	families(t, func(t *testing.T, v6 bool) {
		w.a.apply(nodePort(v6, w.addrs[w.a][v6], remote.at(v6, 80)))
		for _, node := range []*machine{w.a, w.b} { // any node's address will do
			for _, network := range []string{"tcp", "udp"} {
				requireAnswer(t, inside.Open(network, at(w.addrs[node][v6], 30080)), "remote")
				requireAnswer(t, outside.Open(network, at(w.addrs[node][v6], 30080)), "remote")
			}
		}
	})
}

func TestExternalLocalKeepsTheClientsAddress(t *testing.T) {
	w := newOutsideWorld(t)
	local, remote := w.a.pod(1), w.b.pod(2)
	local.serve("local")
	remote.serve("remote")
	families(t, func(t *testing.T, v6 bool) {
		self := w.addrs[w.a][v6]
		c := nodePort(v6, self, local.at(v6, 80), remote.at(v6, 80))
		for i := range c.Service.Ports {
			c.Service.Ports[i].ExternalLocal = true
			c.Service.Ports[i].Local = []netip.AddrPort{local.at(v6, 80)}
		}
		w.a.apply(c)
		for _, network := range []string{"tcp", "udp"} {
			for range 10 {
				got := w.client.Open(network, at(self, 30080))
				requireAnswer(t, got, "local")
				require.Equal(t, w.seen[v6], netip.MustParseAddrPort(got.Client).Addr().Unmap().String())
			}
		}
		require.Len(t, local.Many("tcp", at(self, 30080), 40), 2, "clients inside get the whole list")
	})
}

// A cluster address is none for clients outside, even if they route it here.
func TestClusterAddressIsNotServedOutside(t *testing.T) {
	w := newOutsideWorld(t)
	local := w.a.pod(1)
	local.serve("local")
	lab.RouteVia(t, w.router, vip4+"/32", "192.168.71.2")
	lab.RouteVia(t, w.router, vip6+"/128", "fd71::2")
	families(t, func(t *testing.T, v6 bool) {
		w.a.apply(nodePort(v6, w.addrs[w.a][v6], local.at(v6, 80)))
		require.NotEmpty(t, w.client.Open("tcp", vipPort(v6, 8080)).Err)
	})
}

// Pitfall: a request straight to a pod's address must come back by the way it came.
func TestOutsiderReachesPodsAddress(t *testing.T) {
	w := newOutsideWorld(t)
	local := w.a.pod(1)
	local.serve("local")
	lab.RouteVia(t, w.router, "10.244.1.0/24", "192.168.71.2")
	lab.RouteVia(t, w.router, "fd44:0:0:1::/64", "fd71::2")
	families(t, func(t *testing.T, v6 bool) {
		for _, network := range []string{"tcp", "udp"} {
			requireAnswer(t, w.client.Open(network, local.at(v6, 80).String()), "local")
		}
	})
}

func TestPodsReachTheWorldByTheNodesAddress(t *testing.T) {
	w := newOutsideWorld(t)
	pod := w.a.pod(1)
	w.client.Serve("tcp", ":90", "world")
	w.client.Serve("udp", ":90", "world")
	families(t, func(t *testing.T, v6 bool) {
		for _, network := range []string{"tcp", "udp"} {
			got := pod.Open(network, at(w.seen[v6], 90))
			requireAnswer(t, got, "world")
			require.Equal(t, w.addrs[w.a][v6], netip.MustParseAddrPort(got.Client).Addr().Unmap().String())
		}
	})
}
