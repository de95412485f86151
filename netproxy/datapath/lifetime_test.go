package datapath_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/netproxy/internal/lab"
)

// Pitfall: under churn, clients of one service were given endpoints of another whose list had taken the place, or were
// refused. TestPausedReadersGetWhatTheServiceWas shows each way there; this one asks the kernel.
func TestChurnNeverGivesAnotherServicesEndpoint(t *testing.T) {
	const connections, choices = 4000, 100_000
	c := newCluster(t)
	c.serve(0, 1)
	other := func(n int) string { return fmt.Sprintf("10.96.1.%d", n) }
	// A socket that is given the second of these has a loopback address; nobody listens there.
	others := append(c.backends(false, 2), netip.MustParseAddrPort("127.0.0.9:80"))
	answers := make(chan map[string]int)
	go func() { answers <- c.client.Many("tcp", vipPort(false, 8080), connections) }()
	for range 2 {
		go func() { answers <- c.client.Choices(vipPort(false, 8080), choices) }()
	}
	random := rand.New(rand.NewPCG(1, 2))
	sum := map[string]int{}
	changes, clients := 0, 3
	for clients > 0 {
		select {
		case got := <-answers:
			clients--
			for what, n := range got {
				sum[what] += n
			}
			continue
		default:
		}
		changes++
		lists := [][]netip.AddrPort{c.backends(false, 0), c.backends(false, 1), c.backends(false, 1, 0), c.backends(false, 0, 1)}
		n := random.IntN(20)
		_, err := c.m.Apply(append(
			[]applied{svc("web4", vip4, 8080, lists[random.IntN(len(lists))]...)},
			svc(other(n), other(n), 8080, others...),
			gone(other(random.IntN(20))),
		))
		require.NoError(t, err)
	}
	t.Logf("%d changes: %v", changes, sum)
	require.Greater(t, changes, 100)
	require.Equal(t, connections, sum["one"]+sum["two"], "%v", sum)
	const closed = "0.0.0.0" // by the datapath, when the endpoint went, before the socket was asked for its address
	require.Equal(t, 2*choices, sum[c.client.IPs[0].String()]+sum[closed], "%v", sum)
}

// Maps of another shape start empty, and the old ones go once the new ones are filled and in use.
func TestOtherSizesReplaceTheMaps(t *testing.T) {
	c := newCluster(t)
	c.serve(0)
	open := c.client.Open("tcp", vipPort(false, 8080))
	requireAnswer(t, open, "one")
	c.m.Config.Sizes.Services *= 2
	c.m = c.m.restart()
	requireAnswer(t, c.client.Open("tcp", vipPort(false, 8080)), "one") // by the old ones
	for _, p := range append(c.servers, c.client) {
		_, err := c.m.AddPod(p.Pod)
		require.NoError(t, err)
	}
	_, err := c.m.SetPeers(nil)
	require.NoError(t, err)
	c.serve(0)
	require.NoError(t, c.m.Prune())
	require.NoError(t, c.m.Activate())
	requireAnswer(t, c.client.RoundTrip(open.Conn), "one")
	c.serve(1)
	requireAnswer(t, c.client.Open("tcp", vipPort(false, 8080)), "two")
	dirs, err := filepath.Glob(filepath.Join(c.m.Config.BPFFS, "rutter", c.m.Config.Node, "maps-*"))
	require.NoError(t, err)
	require.Len(t, dirs, 1)
}

// Pitfall: a pinned link of a device that is gone cannot be updated; it must be made anew.
func TestDeviceMadeAgainIsAttachedAgain(t *testing.T) {
	underlays(t, func(t *testing.T, a, b *machine) {
		client, server := a.pod(1), b.pod(3)
		server.serve("server")
		h := lab.Handle(t, b.Config.NetNS)
		l, err := h.LinkByName("rutter-vxlan")
		require.NoError(t, err)
		require.NoError(t, h.LinkDel(l))
		b = b.restart()
		require.NoError(t, b.Activate())
		_, err = b.SetPeers(peersOf(a, b, b))
		require.NoError(t, err)
		_, err = b.AddPod(server.Pod) // its programs know the old device
		require.NoError(t, err)
		families(t, func(t *testing.T, v6 bool) {
			requireAnswer(t, client.Open("tcp", server.at(v6, 80).String()), "server")
		})
	})
}

// A pod that lost its namespace, as by a reboot, is made again with its addresses.
func TestPodIsMadeAgainAfterReboot(t *testing.T) {
	m := newMachine(t)
	p := m.pod(1)
	other := m.pod(2)
	require.NoError(t, m.RemovePod(p.Pod))
	again := m.pod(1)
	again.serve("again")
	families(t, func(t *testing.T, v6 bool) {
		requireAnswer(t, other.Open("tcp", again.at(v6, 80).String()), "again")
	})
}

// Connections of this node's pods to one that is removed end at once, and new ones are refused at once.
func TestRemovedPodIsGoneAtOnce(t *testing.T) {
	c := newCluster(t)
	families(t, func(t *testing.T, v6 bool) {
		server := c.servers[0]
		if v6 {
			server = c.servers[1]
		}
		open := c.client.Open("tcp", server.at(v6, 80).String())
		require.Empty(t, open.Err)
		require.NoError(t, c.m.RemovePod(server.Pod))
		again := c.client.RoundTrip(open.Conn)
		require.NotEmpty(t, again.Err)
		require.NotContains(t, again.Err, "timeout")
		refused := c.client.Open("tcp", server.at(v6, 80).String())
		require.Contains(t, []int{int(syscall.EHOSTUNREACH), int(syscall.ENETUNREACH)}, refused.Errno, refused.Err)
	})
}
