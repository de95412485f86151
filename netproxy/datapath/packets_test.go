package datapath_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/netproxy/datapath"
	"github.com/rutter-project/rutter/netproxy/internal/lab"
)

// Pods whose processes the socket hooks do not see are served by packets.
func TestServiceForPodsOutsideTheCgroup(t *testing.T) {
	c := newCluster(t)
	c.serve(0, 1, 2)
	outside := c.m.podOutside(9)
	host := lab.Start(t, c.m.Config.NetNS, "")
	host.Serve("tcp", ":81", "host")
	host.Serve("udp", ":81", "host")
	families(t, func(t *testing.T, v6 bool) {
		for _, network := range []string{"tcp", "udp"} {
			require.Len(t, outside.Many(network, vipPort(v6, 8080), 60), 3)
		}
		a := outside.Send("udp", vipPort(v6, 8080), 0)
		require.Empty(t, a.Err)
		require.Equal(t, vipPort(v6, 8080), a.Peer)
	})
	families(t, func(t *testing.T, v6 bool) { // an endpoint on the host: the answer comes by its stack
		own := c.m.Config.PodCIDRs[0]
		if v6 {
			own = c.m.Config.PodCIDRs[1]
		}
		name := map[bool]string{false: "web4", true: "web6"}[v6]
		c.m.apply(svc(name, vip(v6), 8080, netip.AddrPortFrom(datapath.HostAddr(own), 81)))
		for _, network := range []string{"tcp", "udp"} {
			requireAnswer(t, outside.Open(network, vipPort(v6, 8080)), "host")
		}
	})
}

func TestPodOutsideTheCgroupReachesItself(t *testing.T) {
	m := newMachine(t)
	outside := m.podOutside(1)
	outside.serve("itself")
	families(t, func(t *testing.T, v6 bool) {
		m.apply(svc("self"+vip(v6), vip(v6), 8080, outside.at(v6, 80)))
		for _, network := range []string{"tcp", "udp"} {
			requireAnswer(t, outside.Open(network, vipPort(v6, 8080)), "itself")
		}
	})
}

// Pitfall: a direct flow of the tuple that a translated flow would have must not meet its reverse entry.
func TestTranslatedFlowDoesNotMeetDirectOne(t *testing.T) {
	c := newCluster(t)
	c.serve(0)
	outside := c.m.podOutside(9)
	families(t, func(t *testing.T, v6 bool) {
		for range 50 { // one socket, both ways, in turn: the same source port
			a := outside.Send("udp", vipPort(v6, 8080), 0)
			requireAnswer(t, a, "one")
			direct := outside.Send("udp", c.servers[0].at(v6, 80).String(), a.Conn)
			requireAnswer(t, direct, "one")
			require.Equal(t, c.servers[0].at(v6, 80).String(), direct.Peer)
			port := netip.MustParseAddrPort(a.Client).Port()
			require.GreaterOrEqual(t, port, uint16(61000), "translated flows have ports of their own")
		}
	})
}

// Pitfall: ports of finished flows must be taken over; there are 4,536 for a client and an endpoint.
func TestFinishedFlowsGiveTheirPortsBack(t *testing.T) {
	c := newCluster(t)
	c.serve(0)
	outside := c.m.podOutside(9)
	require.Equal(t, map[string]int{"one": 6000}, outside.Many("tcp", vipPort(false, 8080), 6000))
	drops, err := c.m.Drops()
	require.NoError(t, err)
	require.Zero(t, drops["no_free_flow"])
}

// Pitfall: an LRU map may evict one half of a translated flow.
func TestEvictedHalfOfAFlowComesBack(t *testing.T) {
	c := newCluster(t)
	c.serve(0)
	outside := c.m.podOutside(9)
	families(t, func(t *testing.T, v6 bool) {
		a := outside.Open("tcp", vipPort(v6, 8080))
		requireAnswer(t, a, "one")
		c.m.EvictReverseHalves(t)
		requireAnswer(t, outside.RoundTrip(a.Conn), "one")
	})
}

// Pitfall: ICMP errors about translated flows must reach the client as errors about its own.
func TestErrorsAboutTranslatedFlowsReachTheClient(t *testing.T) {
	c := newCluster(t)
	outside := c.m.podOutside(9)
	families(t, func(t *testing.T, v6 bool) {
		name := map[bool]string{false: "web4", true: "web6"}[v6]
		closed := netip.AddrPortFrom(c.servers[0].at(v6, 0).Addr(), 7) // nobody listens
		c.m.apply(svc(name, vip(v6), 8080, closed))
		a := outside.Open("udp", vipPort(v6, 8080))
		require.Contains(t, a.Err, "connection refused")
	})
}

func TestUnknownPortsAreDroppedNotLeaked(t *testing.T) {
	c := newCluster(t)
	c.serve(0)
	outside := c.m.podOutside(9)
	a := outside.Open("tcp", vipPort(false, 9999))
	require.Contains(t, a.Err, "timeout")
	drops, err := c.m.Drops()
	require.NoError(t, err)
	require.NotZero(t, drops["no_port"])
}

func TestSpoofedSourcesAreDropped(t *testing.T) {
	c := newCluster(t)
	h := lab.Handle(t, c.client.netns)
	eth, err := h.LinkByName("eth0")
	require.NoError(t, err)
	addAddr(t, h, eth, "10.244.1.200/32")
	a := c.client.OpenFrom("udp", "10.244.1.200:0", c.servers[0].at(false, 80).String())
	require.Contains(t, a.Err, "timeout")
	drops, err := c.m.Drops()
	require.NoError(t, err)
	require.NotZero(t, drops["spoofed_source"])
}

// Pitfall: a cgroup made again under its old name is another one, and links of the old one do nothing for it.
func TestLinksFollowACgroupMadeAgain(t *testing.T) {
	m := newMachine(t)
	server := m.podOutside(1)
	server.serve("server")
	m.apply(svc("web", vip4, 8080, server.at(false, 80)))
	remakeCgroup(t, m.Config.Cgroup)
	m = m.restart()
	require.NoError(t, m.Activate())
	host := lab.Start(t, m.Config.NetNS, m.Config.Cgroup) // served by its socket only
	requireAnswer(t, host.Open("tcp", vipPort(false, 8080)), "server")
}
