package datapath_test

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/netproxy/internal/lab"
)

// cluster is a node with a client and three servers behind a service.
type cluster struct {
	m       *machine
	client  *pod
	servers []*pod
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	m := newMachine(t)
	c := &cluster{m: m, client: m.pod(1)}
	for i, name := range []string{"one", "two", "three"} {
		s := m.pod(2 + i)
		s.serve(name)
		c.servers = append(c.servers, s)
	}
	return c
}

func (c *cluster) backends(v6 bool, which ...int) []netip.AddrPort {
	var out []netip.AddrPort
	for _, i := range which {
		out = append(out, c.servers[i].at(v6, 80))
	}
	return out
}

// serve sets the service's endpoints in both families.
func (c *cluster) serve(which ...int) {
	c.m.t.Helper()
	c.m.apply(
		svc("web4", vip4, 8080, c.backends(false, which...)...),
		svc("web6", vip6, 8080, c.backends(true, which...)...),
	)
}

func TestServiceSpreadsOverItsEndpoints(t *testing.T) {
	c := newCluster(t)
	c.serve(0, 1, 2)
	families(t, func(t *testing.T, v6 bool) {
		for _, network := range []string{"tcp", "udp"} {
			got := c.client.Many(network, vipPort(v6, 8080), 60)
			require.Len(t, got, 3, "%v", got)
			for name, n := range got {
				require.Greater(t, n, 5, "%s of %v", name, got)
			}
			a := c.client.Open(network, vipPort(v6, 8080))
			require.Equal(t, vipPort(v6, 8080), a.Peer, "the client believes to talk to the service")
		}
	})
}

func TestServiceWithUnconnectedSockets(t *testing.T) {
	c := newCluster(t)
	c.serve(0, 1, 2)
	families(t, func(t *testing.T, v6 bool) {
		first := c.client.Send("udp", vipPort(v6, 8080), 0)
		require.Empty(t, first.Err)
		require.Equal(t, vipPort(v6, 8080), first.Peer, "the answer comes from the service")
		for range 10 {
			again := c.client.Send("udp", vipPort(v6, 8080), first.Conn)
			requireAnswer(t, again, first.Text)
		}
	})
}

func TestMappedAddressOnIPv6Socket(t *testing.T) {
	c := newCluster(t)
	c.serve(0)
	// A dual-stack socket sends to IPv4 by mapped addresses.
	a := c.client.Send("udp", vipPort(false, 8080), 0)
	requireAnswer(t, a, "one")
	require.Equal(t, netip.MustParseAddr(vip4), netip.MustParseAddrPort(a.Peer).Addr().Unmap())
	requireAnswer(t, c.client.Open("tcp", "[::ffff:"+vip4+"]:8080"), "one")
}

func TestEndpointChangeMovesTheNextConnection(t *testing.T) {
	c := newCluster(t)
	families(t, func(t *testing.T, v6 bool) {
		c.serve(0)
		kept := c.client.Open("tcp", vipPort(v6, 8080))
		requireAnswer(t, kept, "one")
		c.serve(1)
		for _, network := range []string{"tcp", "udp"} {
			require.Equal(t, map[string]int{"two": 20}, c.client.Many(network, vipPort(v6, 8080), 20))
		}
		requireAnswer(t, c.client.RoundTrip(kept.Conn), "one") // TCP may end in peace
	})
}

func TestNoEndpointsRefusesAtOnce(t *testing.T) {
	c := newCluster(t)
	c.serve()
	families(t, func(t *testing.T, v6 bool) {
		for _, network := range []string{"tcp", "udp"} {
			a := c.client.Open(network, vipPort(v6, 8080))
			require.Equal(t, int(syscall.ECONNREFUSED), a.Errno, a.Err)
			require.Less(t, a.Took, 100*time.Millisecond)
		}
		a := c.client.Send("udp", vipPort(v6, 8080), 0)
		require.Equal(t, int(syscall.ECONNREFUSED), a.Errno, a.Err)
	})
	drops, err := c.m.Drops()
	require.NoError(t, err)
	require.NotZero(t, drops["no_endpoint"])
}

func TestUnknownPortOfServiceIsRefused(t *testing.T) {
	c := newCluster(t)
	c.serve(0)
	families(t, func(t *testing.T, v6 bool) {
		a := c.client.Open("tcp", vipPort(v6, 9999))
		require.Equal(t, int(syscall.ECONNREFUSED), a.Errno, a.Err)
	})
}

func TestRemovedServiceIsNoServiceAnyMore(t *testing.T) {
	c := newCluster(t)
	c.serve(0)
	c.m.apply(gone("web4"))
	a := c.client.Open("tcp", vipPort(false, 8080))
	require.NotEmpty(t, a.Err)
	require.NotEqual(t, int(syscall.ECONNREFUSED), a.Errno)
	requireAnswer(t, c.client.Open("tcp", vipPort(true, 8080)), "one")
}

// A connected UDP socket of an endpoint that went away must not stay with it.
func TestConnectedUDPSocketOfVanishedEndpointIsClosed(t *testing.T) {
	c := newCluster(t)
	families(t, func(t *testing.T, v6 bool) {
		c.serve(0, 1)
		var open []lab.Answer
		for range 10 {
			open = append(open, c.client.Open("udp", vipPort(v6, 8080)))
		}
		c.serve(1)
		for _, a := range open {
			again := c.client.RoundTrip(a.Conn)
			if a.Text == "one" {
				require.Contains(t, []int{int(syscall.ECONNABORTED), int(syscall.EDESTADDRREQ)}, again.Errno, again.Err)
				continue
			}
			requireAnswer(t, again, "two")
		}
	})
}

func TestUnconnectedSocketMovesWithTheNextDatagram(t *testing.T) {
	c := newCluster(t)
	families(t, func(t *testing.T, v6 bool) {
		c.serve(0)
		a := c.client.Send("udp", vipPort(v6, 8080), 0)
		requireAnswer(t, a, "one")
		c.serve(1)
		requireAnswer(t, c.client.Send("udp", vipPort(v6, 8080), a.Conn), "two")
	})
}

// Terminating endpoints keep the flows they have and get no new ones.
func TestTerminatingEndpointKeepsItsFlows(t *testing.T) {
	c := newCluster(t)
	families(t, func(t *testing.T, v6 bool) {
		c.serve(0)
		a := c.client.Send("udp", vipPort(v6, 8080), 0)
		requireAnswer(t, a, "one")
		change := svc("web4", vip4, 8080, c.backends(false, 1)...)
		if v6 {
			change = svc("web6", vip6, 8080, c.backends(true, 1)...)
		}
		for i := range change.Service.Ports {
			change.Service.Ports[i].Serving[c.servers[0].at(v6, 80)] = true
		}
		c.m.apply(change)
		requireAnswer(t, c.client.Send("udp", vipPort(v6, 8080), a.Conn), "one")
		require.Equal(t, map[string]int{"two": 10}, c.client.Many("udp", vipPort(v6, 8080), 10))
	})
}

func TestRestartLosesNoConnection(t *testing.T) {
	c := newCluster(t)
	c.serve(0, 1, 2)
	m := c.m
	type flow struct {
		lab.Answer
		network string
		v6      bool
	}
	var flows []flow
	families(t, func(t *testing.T, v6 bool) {
		for _, network := range []string{"tcp", "udp"} {
			flows = append(flows, flow{c.client.Open(network, vipPort(v6, 8080)), network, v6})
		}
	})
	for range 3 {
		m = m.restart()
		require.NoError(t, m.Activate())
		c.m = m
		check := func() {
			for _, f := range flows {
				requireAnswer(t, c.client.RoundTrip(f.Conn), f.Text)
			}
			require.Len(t, c.client.Many("tcp", vipPort(false, 8080), 30), 3)
		}
		check() // before anything is applied
		for _, p := range append(c.servers, c.client) {
			_, err := m.AddPod(p.Pod)
			require.NoError(t, err)
		}
		before := m.Stats()
		c.serve(0, 1, 2)
		require.NoError(t, m.Prune())
		require.Equal(t, before.Backends, m.Stats().Backends, "endpoints keep their places")
		check()
	}
	// What nobody claims after a restart goes.
	m = m.restart()
	m.apply(svc("web6", vip6, 8080, c.backends(true, 0)...))
	require.NoError(t, m.Prune())
	require.NoError(t, m.Activate())
	a := c.client.Open("tcp", vipPort(false, 8080))
	require.NotEmpty(t, a.Err)
	require.Equal(t, map[string]int{"one": 10}, c.client.Many("tcp", vipPort(true, 8080), 10))
}
