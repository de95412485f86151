package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/netproxy/datapath"
)

var serial atomic.Int32

// Need skips the test unless it may make namespaces and load programs.
func Need(t testing.TB) {
	t.Helper()
	if uid := os.Getuid(); uid != 0 {
		t.Skipf("not root: uid=%d", uid)
	}
}

// Node is a network namespace and a cgroup that stand for a machine.
type Node struct {
	Config datapath.Config
	t      testing.TB
}

// NewNode makes a node whose pods have the given ranges. Its name is its own on this machine.
func NewNode(t testing.TB, podCIDRs ...string) *Node {
	t.Helper()
	Need(t)
	name := fmt.Sprintf("lab%d-%d", os.Getpid(), serial.Add(1))
	dir := t.TempDir()
	cgroups, err := datapath.CgroupRoot()
	require.NoError(t, err)
	cfg := datapath.DefaultConfig()
	cfg.Node = name
	cfg.NetNS = filepath.Join(dir, "node")
	cfg.RunDir = filepath.Join(dir, "run")
	cfg.Cgroup = filepath.Join(cgroups, "rutter-"+name)
	cfg.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd44::/48")}
	for _, p := range podCIDRs {
		cfg.PodCIDRs = append(cfg.PodCIDRs, netip.MustParsePrefix(p))
	}
	cfg.Sizes = datapath.Sizes{
		Services: 1 << 15, Slots: 1 << 17, Backends: 1 << 15, Affinity: 256, Flows: 1024, Pods: 64, Routes: 64, NodeAddrs: 64,
	}
	makeNS(t, cfg.NetNS)
	require.NoError(t, os.MkdirAll(cfg.Cgroup, 0o755))
	t.Cleanup(func() { _ = os.Remove(cfg.Cgroup) })
	return &Node{Config: cfg, t: t}
}

// makeNS pins a network namespace with its loopback up; it goes with the test.
func makeNS(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	_ = f.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	}()
	require.NoError(t, <-done)
	t.Cleanup(func() {
		_ = unix.Unmount(path, unix.MNT_DETACH)
		_ = os.Remove(path)
	})
	// Addresses are usable at once: nobody else is there to have them.
	require.NoError(t, datapath.InNetNS(path, func() error {
		for _, dev := range []string{"all", "default"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+dev+"/accept_dad", []byte("0"), 0o644); err != nil {
				return err
			}
		}
		return nil
	}))
	h := Handle(t, path)
	lo, err := h.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetUp(lo))
}

// Handle is netlink in a network namespace.
func Handle(t testing.TB, path string) *netlink.Handle {
	t.Helper()
	ns, err := netns.GetFromPath(path)
	require.NoError(t, err)
	defer func() { _ = ns.Close() }()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	require.NoError(t, err)
	t.Cleanup(h.Close)
	return h
}

// Cable joins two namespaces by a veth pair with the given addresses (of prefixes) on its ends.
func Cable(t testing.TB, pathA, pathB string, addrsA, addrsB []string) {
	t.Helper()
	a, b := Handle(t, pathA), Handle(t, pathB)
	ns, err := os.Open(pathB)
	require.NoError(t, err)
	defer func() { _ = ns.Close() }()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("up%d", serial.Add(1))
	veth := netlink.NewVeth(attrs)
	veth.PeerName = attrs.Name
	veth.PeerNamespace = netlink.NsFd(ns.Fd())
	require.NoError(t, a.LinkAdd(veth))
	for _, side := range []struct {
		h     *netlink.Handle
		addrs []string
	}{{a, addrsA}, {b, addrsB}} {
		l, err := side.h.LinkByName(attrs.Name)
		require.NoError(t, err)
		for _, text := range side.addrs {
			addr, err := netlink.ParseAddr(text)
			require.NoError(t, err)
			addr.Flags = unix.IFA_F_NODAD
			require.NoError(t, side.h.AddrAdd(l, addr))
		}
		require.NoError(t, side.h.LinkSetUp(l))
	}
}

// Namespace makes a network namespace outside any node and returns its path.
func Namespace(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "outside")
	makeNS(t, path)
	return path
}

// Forward makes a namespace route packets.
func Forward(t testing.TB, path string) {
	t.Helper()
	require.NoError(t, datapath.InNetNS(path, func() error {
		for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0o644); err != nil {
				return err
			}
		}
		return nil
	}))
}

// Default sets default routes.
func Default(t testing.TB, path string, gateways ...string) {
	t.Helper()
	for _, gw := range gateways {
		all := "0.0.0.0/0"
		if netip.MustParseAddr(gw).Is6() {
			all = "::/0"
		}
		RouteVia(t, path, all, gw)
	}
}

// RouteVia sets a route by a gateway.
func RouteVia(t testing.TB, path, to, gateway string) {
	t.Helper()
	_, dst, err := net.ParseCIDR(to)
	require.NoError(t, err)
	require.NoError(t, Handle(t, path).RouteReplace(&netlink.Route{Dst: dst, Gw: net.ParseIP(gateway)}))
}

// Process is an agent in a network namespace and a cgroup.
type Process struct {
	t   testing.TB
	rpc *rpc.Client
}

// Start runs an agent in a network namespace; cgroup may be empty to stay in the test's own.
func Start(t testing.TB, netnsPath, cgroup string) *Process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), agentEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if cgroup != "" {
		dir, err := os.Open(cgroup)
		require.NoError(t, err)
		defer func() { _ = dir.Close() }()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	// The child is in the namespace of the thread that makes it.
	require.NoError(t, datapath.InNetNS(netnsPath, cmd.Start))
	p := &Process{t: t, rpc: rpc.NewClient(pipes{out, in})}
	t.Cleanup(func() {
		_ = p.rpc.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return p
}

type pipes struct {
	r interface {
		Read([]byte) (int, error)
		Close() error
	}
	w interface {
		Write([]byte) (int, error)
		Close() error
	}
}

func (p pipes) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p pipes) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.w.Close(), p.r.Close()) }

func (p *Process) call(method string, args, out any) {
	p.t.Helper()
	require.NoError(p.t, p.rpc.Call("Agent."+method, args, out), method)
}

// Serve starts a server that answers with name.
func (p *Process) Serve(network, addr, name string) {
	p.t.Helper()
	p.call("Serve", ServeArgs{network, addr, name}, new(struct{}))
}

// Open connects, makes a round trip and leaves the connection open.
func (p *Process) Open(network, addr string) Answer {
	p.t.Helper()
	var out Answer
	p.call("Open", Target{Network: network, Addr: addr}, &out)
	return out
}

// OpenFrom is Open with a local address.
func (p *Process) OpenFrom(network, from, addr string) Answer {
	p.t.Helper()
	var out Answer
	p.call("Open", Target{Network: network, From: from, Addr: addr}, &out)
	return out
}

// RoundTrip uses an open connection.
func (p *Process) RoundTrip(conn int) Answer {
	p.t.Helper()
	var out Answer
	p.call("RoundTrip", Target{Conn: conn}, &out)
	return out
}

// Many opens n connections in turn and counts who answered; errors count under their text.
func (p *Process) Many(network, addr string, n int) map[string]int {
	p.t.Helper()
	var all []Answer
	p.call("Many", Target{Network: network, Addr: addr, Count: n}, &all)
	out := map[string]int{}
	for _, a := range all {
		if a.Err != "" {
			out["error: "+lastPart(a.Err)]++
			continue
		}
		out[a.Text]++
	}
	return out
}

func lastPart(s string) string {
	return s[strings.LastIndex(s, ": ")+1:]
}

// Choices connects n UDP sockets to an IPv4 address and counts their local addresses, and errors under their text.
func (p *Process) Choices(addr string, n int) map[string]int {
	p.t.Helper()
	out := map[string]int{}
	p.call("Choices", Target{Addr: addr, Count: n}, &out)
	return out
}

// Send sends a datagram from an unconnected socket; conn 0 is a new one.
func (p *Process) Send(network, addr string, conn int) Answer {
	p.t.Helper()
	var out Answer
	p.call("Send", Target{Network: network, Addr: addr, Conn: conn}, &out)
	return out
}

// Ask asks a DNS server.
func (p *Process) Ask(network, server, name string, qtype uint16) []string {
	p.t.Helper()
	var out []string
	p.call("Ask", Question{network, server, name, qtype}, &out)
	return out
}

// Connects measures n connect calls to an IPv4 address and returns the median.
func (p *Process) Connects(network, addr string, n int) time.Duration {
	p.t.Helper()
	var out time.Duration
	p.call("Connects", Target{Network: network, Addr: addr, Count: n}, &out)
	return out
}
