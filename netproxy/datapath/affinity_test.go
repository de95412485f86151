package datapath_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/netproxy/datapath"
)

// sticky is a service of one family with session affinity.
func sticky(v6 bool, timeout time.Duration, backends ...netip.AddrPort) datapath.Change {
	c := svc(vip(v6), vip(v6), 8080, backends...)
	for i := range c.Service.Ports {
		c.Service.Ports[i].Affinity = timeout
	}
	return c
}

// only is the one answer there is.
func only(t *testing.T, got map[string]int) string {
	t.Helper()
	require.Len(t, got, 1)
	for name := range got {
		return name
	}
	return ""
}

// clients are one whose sockets are translated and one whose packets are.
func (c *cluster) clients(t *testing.T, fn func(t *testing.T, client *pod, v6 bool)) {
	t.Helper()
	outside := c.m.podOutside(9)
	families(t, func(t *testing.T, v6 bool) {
		t.Run("sockets", func(t *testing.T) { fn(t, c.client, v6) })
		t.Run("packets", func(t *testing.T) { fn(t, outside, v6) })
	})
}

func TestAffinityKeepsTheEndpoint(t *testing.T) {
	c := newCluster(t)
	c.clients(t, func(t *testing.T, client *pod, v6 bool) {
		c.m.apply(sticky(v6, time.Hour, c.backends(v6, 0, 1, 2)...))
		for _, network := range []string{"tcp", "udp"} {
			only(t, client.Many(network, vipPort(v6, 8080), 30))
		}
	})
}

// networks are those in which a new socket is a new flow: a datagram from a port that was used a moment ago belongs to
// the old flow where packets are translated, and goes where that went.
func (c *cluster) networks(client *pod) []string {
	if client == c.client {
		return []string{"tcp", "udp"}
	}
	return []string{"tcp"}
}

// The timeout counts from the last connection, not from the first one.
func TestAffinityEndsAfterItsTimeout(t *testing.T) {
	const timeout = time.Hour
	c := newCluster(t)
	c.clients(t, func(t *testing.T, client *pod, v6 bool) {
		c.m.apply(sticky(v6, timeout, c.backends(v6, 0, 1, 2)...))
		for _, network := range c.networks(client) {
			at := vipPort(v6, 8080)
			first := only(t, client.Many(network, at, 1))
			for range 20 {
				c.m.AgeAffinities(t, timeout-time.Minute)
				require.Equal(t, first, only(t, client.Many(network, at, 1)))
			}
			seen := map[string]bool{}
			for range 60 { // all the same by chance once in 3^59
				c.m.AgeAffinities(t, timeout+time.Minute)
				name := only(t, client.Many(network, at, 1))
				require.Equal(t, name, only(t, client.Many(network, at, 3)), "and from then on by the new one")
				seen[name] = true
			}
			require.Greater(t, len(seen), 1, network)
		}
	})
}

// A client whose endpoint went, or only terminates, is given another one and stays with that.
func TestAffinityOutlivesNoEndpoint(t *testing.T) {
	c := newCluster(t)
	names := []string{"one", "two", "three"}
	c.clients(t, func(t *testing.T, client *pod, v6 bool) {
		for _, network := range c.networks(client) {
			for _, terminating := range []bool{false, true} {
				c.m.apply(sticky(v6, time.Hour, c.backends(v6, 0, 1, 2)...))
				first := only(t, client.Many(network, vipPort(v6, 8080), 3))
				var left []int
				lost := 0
				for i, name := range names {
					if name == first {
						lost = i
						continue
					}
					left = append(left, i)
				}
				change := sticky(v6, time.Hour, c.backends(v6, left...)...)
				if terminating {
					for i := range change.Service.Ports {
						change.Service.Ports[i].Serving[c.servers[lost].at(v6, 80)] = true
					}
				}
				c.m.apply(change)
				second := only(t, client.Many(network, vipPort(v6, 8080), 10))
				require.NotEqual(t, first, second)
				c.m.apply(sticky(v6, time.Hour, c.backends(v6, 0, 1, 2)...))
				require.Equal(t, second, only(t, client.Many(network, vipPort(v6, 8080), 10)), "it came back too late")
			}
		}
	})
}

// Whatever a deleted service has left behind, affinities, flows, sockets: one that is made again with its address and
// name has nothing of it.
func TestServiceMadeAgainReachesNoOldEndpoint(t *testing.T) {
	c := newCluster(t)
	names := []string{"one", "two", "three"}
	c.clients(t, func(t *testing.T, client *pod, v6 bool) {
		at := vipPort(v6, 8080)
		c.m.apply(sticky(v6, time.Hour, c.backends(v6, 2)...))
		socket := client.Send("udp", at, 0)
		requireAnswer(t, socket, "three")
		for round := range 30 {
			now := round % len(names)
			c.m.apply(gone(vip(v6)))
			c.m.apply(sticky(v6, time.Hour, c.backends(v6, now)...))
			requireAnswer(t, client.Send("udp", at, socket.Conn), names[now])
			for _, network := range []string{"tcp", "udp"} {
				require.Equal(t, map[string]int{names[now]: 3}, client.Many(network, at, 3))
			}
		}
	})
}

// A connection lives as long as its endpoint does, though the service has it no more; new ones go elsewhere.
func TestRemovedEndpointKeepsItsConnections(t *testing.T) {
	c := newCluster(t)
	c.clients(t, func(t *testing.T, client *pod, v6 bool) {
		c.m.apply(svc(vip(v6), vip(v6), 8080, c.backends(v6, 0)...))
		open := client.Open("tcp", vipPort(v6, 8080))
		requireAnswer(t, open, "one")
		c.m.apply(svc(vip(v6), vip(v6), 8080, c.backends(v6, 1, 2)...))
		for range 3 {
			requireAnswer(t, client.RoundTrip(open.Conn), "one")
			require.NotContains(t, client.Many("tcp", vipPort(v6, 8080), 10), "one")
		}
		c.m.apply(gone(vip(v6)))
		requireAnswer(t, client.RoundTrip(open.Conn), "one")
	})
}
