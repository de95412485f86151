package datapath_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutter-project/rutter/netproxy/datapath"
	"github.com/rutter-project/rutter/netproxy/internal/lab"
	"github.com/rutter-project/rutter/netproxy/resolve"
)

const (
	cidr4, cidr6 = "10.244.1.0/24", "fd44:0:0:1::/64"
	vip4, vip6   = "10.96.0.20", "fd96::20"
)

// machine is a lab node with a running datapath.
type machine struct {
	*lab.Node
	*datapath.Datapath
	t    testing.TB
	addr netip.Addr // InternalIP, if it has one
}

type applied = datapath.Change

func start(t testing.TB, node *lab.Node) *machine {
	t.Helper()
	d, err := datapath.Open(node.Config, zerolog.Nop())
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = d.Close()
		require.NoError(t, datapath.Destroy(node.Config))
	})
	require.NoError(t, d.Activate())
	_, err = d.SetPeers(nil)
	require.NoError(t, err)
	return &machine{Node: node, Datapath: d, t: t}
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	return start(t, lab.NewNode(t, cidr4, cidr6))
}

// restart opens the datapath anew beside the old one, as a process does that follows one that was killed.
func (m *machine) restart() *machine {
	m.t.Helper()
	d, err := datapath.Open(m.Config, zerolog.Nop())
	require.NoError(m.t, err)
	require.NoError(m.t, m.Close())
	m.t.Cleanup(func() { _ = d.Close() })
	return &machine{Node: m.Node, Datapath: d, t: m.t, addr: m.addr}
}

// pod is a pod with a process in it.
type pod struct {
	*lab.Process
	datapath.Pod
	netns string
	m     *machine
}

func podNumber(m *machine, n int) datapath.Pod {
	p := datapath.Pod{UID: fmt.Sprintf("uid-%d", n), Namespace: "ns", Name: fmt.Sprintf("pod-%d", n)}
	for _, cidr := range m.Config.PodCIDRs {
		a := cidr.Addr()
		for range 10 + n {
			a = a.Next()
		}
		p.IPs = append(p.IPs, a)
	}
	return p
}

func (m *machine) pod(n int) *pod {
	m.t.Helper()
	p := podNumber(m, n)
	netns, err := m.AddPod(p)
	require.NoError(m.t, err)
	return &pod{Process: lab.Start(m.t, netns, m.Config.Cgroup), Pod: p, netns: netns, m: m}
}

// podOutside is a pod whose process the socket hooks do not see.
func (m *machine) podOutside(n int) *pod {
	m.t.Helper()
	p := podNumber(m, n)
	netns, err := m.AddPod(p)
	require.NoError(m.t, err)
	return &pod{Process: lab.Start(m.t, netns, ""), Pod: p, netns: netns, m: m}
}

func (p *pod) serve(name string) {
	p.Serve("tcp", ":80", name)
	p.Serve("udp", ":80", name)
}

func (p *pod) at(v6 bool, port uint16) netip.AddrPort {
	for _, a := range p.IPs {
		if a.Is6() == v6 {
			return netip.AddrPortFrom(a, port)
		}
	}
	return netip.AddrPort{}
}

// svc builds the tables of one service, as package resolve would.
func svc(name, vip string, port uint16, backends ...netip.AddrPort) datapath.Change {
	a := netip.MustParseAddr(vip)
	c := datapath.Change{Name: types.NamespacedName{Namespace: "ns", Name: name}}
	c.Service = resolve.Service{Name: c.Name, Refuse: []netip.Addr{a}}
	for _, proto := range []resolve.Protocol{resolve.TCP, resolve.UDP} {
		p := resolve.ServicePort{
			ID:      resolve.PortID{Namespace: "ns", Name: name, Protocol: proto, IPv6: a.Is6()},
			Fronts:  []resolve.Front{{Addr: a, Port: port, Protocol: proto}},
			Cluster: backends, Serving: map[netip.AddrPort]bool{},
		}
		for _, b := range backends {
			p.Serving[b] = false
		}
		c.Service.Ports = append(c.Service.Ports, p)
	}
	return c
}

// gone removes a service.
func gone(name string) datapath.Change {
	return datapath.Change{Name: types.NamespacedName{Namespace: "ns", Name: name}}
}

func (m *machine) apply(changes ...datapath.Change) {
	m.t.Helper()
	r, err := m.Apply(changes)
	require.NoError(m.t, err)
	require.Empty(m.t, r.Problems)
}

// families runs a test for both address families.
func families(t *testing.T, fn func(t *testing.T, v6 bool)) {
	t.Helper()
	t.Run("IPv4", func(t *testing.T) { fn(t, false) })
	t.Run("IPv6", func(t *testing.T) { fn(t, true) })
}

func vip(v6 bool) string {
	if v6 {
		return vip6
	}
	return vip4
}

func vipPort(v6 bool, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(vip(v6)), port).String()
}

func requireAnswer(t testing.TB, a lab.Answer, text string) {
	t.Helper()
	require.Empty(t, a.Err)
	require.Equal(t, text, a.Text)
}

func addAddr(t testing.TB, h *netlink.Handle, l netlink.Link, text string) {
	t.Helper()
	a, err := netlink.ParseAddr(text)
	require.NoError(t, err)
	require.NoError(t, h.AddrAdd(l, a))
}

func remakeCgroup(t testing.TB, dir string) {
	t.Helper()
	require.NoError(t, os.Remove(dir))
	require.NoError(t, os.Mkdir(dir, 0o755))
}
