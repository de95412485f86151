package datapath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/bpf"
	"github.com/rutter-project/rutter/netproxy/resolve"
)

const (
	tunnelName = "rutter-vxlan"

	// routeProtocol marks the routes that are ours.
	routeProtocol = 82

	// lastResort is the metric of routes that any other route beats.
	lastResort = 1 << 30

	overhead4 = 50 // bytes that a tunnel packet adds over an IPv4 underlay
	overhead6 = 70
	usualMTU  = 1500
)

// alias tells whose a device is and what for.
func alias(node, what string) string { return "rutter/" + node + " " + what }

// prepareNode makes the tunnel device with the node's addresses, the routes that do not depend on other nodes, sysctls
// and the masquerade table.
func (d *Datapath) prepareNode() error {
	var err error
	if d.uplinks, err = d.findUplinks(); err != nil {
		return err
	}
	d.mtu = d.podMTU()
	tunnel, err := d.ensureTunnel()
	if err != nil {
		return err
	}
	d.tunnel = tunnel.Attrs().Index
	if err := InNetNS(d.cfg.NetNS, func() error { return setSysctls(d.nodeSysctls()) }); err != nil {
		return err
	}
	if err := d.handle.LinkSetUp(tunnel); err != nil {
		return fmt.Errorf("set %s up: %w", tunnelName, err)
	}
	for _, p := range d.cfg.PodCIDRs {
		if err := d.ensureAddr(tunnel, HostAddr(p)); err != nil {
			return err
		}
		if err := d.unreachable(p, 0); err != nil {
			return err
		}
	}
	for _, p := range d.cfg.ClusterCIDRs {
		if _, ok := d.cfg.cidr(p.Addr().Is6()); !ok {
			continue
		}
		if err := d.unreachable(p, lastResort); err != nil {
			return err
		}
	}
	return d.masquerade()
}

// uplink is a device to the world outside.
type uplink struct {
	netlink.Link
	v4 bool // has an IPv4 address
}

// findUplinks lists the devices configured as uplinks or, by default, all that are up with an address of global scope.
func (d *Datapath) findUplinks() ([]uplink, error) {
	links, err := dump(d.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var out []uplink
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || a.Flags&net.FlagUp == 0 || strings.HasPrefix(a.Alias, "rutter/") {
			continue
		}
		if d.cfg.Uplinks != nil && !slices.Contains(d.cfg.Uplinks, a.Name) {
			continue
		}
		addrs, err := dump(func() ([]netlink.Addr, error) { return d.handle.AddrList(l, netlink.FAMILY_ALL) })
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", a.Name, err)
		}
		global, v4 := false, false
		for _, addr := range addrs {
			global = global || addr.Scope == unix.RT_SCOPE_UNIVERSE
			v4 = v4 || addr.Scope == unix.RT_SCOPE_UNIVERSE && addr.IP.To4() != nil
		}
		if global || d.cfg.Uplinks != nil {
			out = append(out, uplink{l, v4})
		}
	}
	if d.cfg.Uplinks != nil && len(out) != len(d.cfg.Uplinks) {
		return nil, fmt.Errorf("uplinks %v: not all of them are there and up", d.cfg.Uplinks)
	}
	return out, nil
}

// podMTU leaves room for the tunnel in the smallest packet that an uplink takes.
func (d *Datapath) podMTU() int {
	if d.cfg.MTU != 0 {
		return d.cfg.MTU
	}
	mtu, v4 := usualMTU, len(d.uplinks) == 0
	for _, u := range d.uplinks {
		mtu = min(mtu, u.Attrs().MTU)
		v4 = v4 || u.v4
	}
	if !v4 {
		return mtu - overhead6
	}
	return mtu - overhead4
}

func (d *Datapath) ensureTunnel() (netlink.Link, error) {
	want := alias(d.cfg.Node, "tunnel")
	l, err := d.handle.LinkByName(tunnelName)
	if err == nil {
		v, ok := l.(*netlink.Vxlan)
		if !ok || l.Attrs().Alias != want {
			return nil, fmt.Errorf("device %s belongs to %q: one network namespace holds one node", tunnelName, l.Attrs().Alias)
		}
		if v.Port == int(d.cfg.VXLANPort) {
			return l, d.fitMTU(l)
		}
		if err := d.handle.LinkDel(l); err != nil {
			return nil, fmt.Errorf("remove %s: %w", tunnelName, err)
		}
	} else if !errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fmt.Errorf("find %s: %w", tunnelName, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = tunnelName, d.mtu
	err = d.handle.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, FlowBased: true, Port: int(d.cfg.VXLANPort)})
	if err != nil {
		return nil, fmt.Errorf("make %s on UDP port %d: %w", tunnelName, d.cfg.VXLANPort, err)
	}
	if l, err = d.handle.LinkByName(tunnelName); err != nil {
		return nil, fmt.Errorf("find %s: %w", tunnelName, err)
	}
	if err := d.handle.LinkSetAlias(l, want); err != nil {
		return nil, fmt.Errorf("set alias of %s: %w", tunnelName, err)
	}
	// No neighbours are asked for: the receiver does not look at the inner link addresses.
	if err := d.handle.LinkSetARPOff(l); err != nil {
		return nil, fmt.Errorf("set %s: %w", tunnelName, err)
	}
	return l, nil
}

func (d *Datapath) fitMTU(l netlink.Link) error {
	if l.Attrs().MTU == d.mtu {
		return nil
	}
	if err := d.handle.LinkSetMTU(l, d.mtu); err != nil {
		return fmt.Errorf("set MTU of %s: %w", l.Attrs().Name, err)
	}
	return nil
}

// nodeSysctls lists what forwarding needs. Reverse-path filtering on the tunnel is loose: a node may send from its
// uplink's address. Router advertisements are kept where a forwarding host would begin to ignore them.
func (d *Datapath) nodeSysctls() [][2]string {
	out := [][2]string{{"net/ipv4/conf/" + tunnelName + "/rp_filter", "2"}}
	if _, ok := d.cfg.cidr(false); ok {
		out = append(out, [2]string{"net/ipv4/ip_forward", "1"})
	}
	if _, ok := d.cfg.cidr(true); !ok {
		return out
	}
	learners, _ := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	for _, path := range learners {
		if v, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(v)) == "1" {
			out = append(out, [2]string{strings.TrimPrefix(path, "/proc/sys/"), "2"})
		}
	}
	return append(out,
		[2]string{"net/ipv6/conf/" + tunnelName + "/addr_gen_mode", "1"},
		[2]string{"net/ipv6/conf/all/forwarding", "1"})
}

func (d *Datapath) ensureAddr(l netlink.Link, a netip.Addr) error {
	err := d.handle.AddrReplace(l, &netlink.Addr{IPNet: hostNet(a), Flags: unix.IFA_F_NODAD})
	if err != nil {
		return fmt.Errorf("set address %s on %s: %w", a, l.Attrs().Name, err)
	}
	return nil
}

// unreachable makes what no pod or node of a range holds fail at once, rather than leave by the uplink.
func (d *Datapath) unreachable(p netip.Prefix, metric int) error {
	err := d.handle.RouteReplace(&netlink.Route{
		Dst: ipNet(p), Type: unix.RTN_UNREACHABLE, Protocol: routeProtocol, Priority: metric,
	})
	if err != nil {
		return fmt.Errorf("set unreachable route %s: %w", p, err)
	}
	return nil
}

func (d *Datapath) deviceHooks() []hook {
	out := []hook{
		deviceHook("from_tunnel", d.objs.NpFromTunnel, d.tunnel, ebpf.AttachTCXIngress),
		deviceHook("to_tunnel", d.objs.NpToTunnel, d.tunnel, ebpf.AttachTCXEgress),
	}
	for _, u := range d.uplinks {
		index := u.Attrs().Index // names may have dots, which pins must not
		out = append(out,
			deviceHook(fmt.Sprintf("from_uplink-%d", index), d.objs.NpFromUplink, index, ebpf.AttachTCXIngress),
			deviceHook(fmt.Sprintf("to_uplink-%d", index), d.objs.NpToUplink, index, ebpf.AttachTCXEgress))
	}
	return out
}

// SetPeers makes the routes to other nodes what they should be. Nodes without an address outside the pod ranges cannot
// be reached; their names are returned.
func (d *Datapath) SetPeers(peers []resolve.Peer) (unreachable []string, err error) {
	routes := map[bpf.NetproxyPrefix]bpf.NetproxyRoute{}
	addrs := map[bpf.NetproxyAddr]bpf.NetproxyNode{}
	kernel := map[netip.Prefix]bool{}
	for _, p := range d.cfg.ClusterCIDRs {
		routes[prefixOf(p)] = bpf.NetproxyRoute{Flags: bpf.NetproxyRouteFlagsNP_ROUTE_NONE}
	}
	for _, p := range peers {
		if p.Self {
			for _, a := range p.Addrs {
				addrs[addrOf(a)] = bpf.NetproxyNode{Flags: bpf.NetproxyNodeFlagsNP_NODE_SELF}
			}
			continue
		}
		end, ok := d.tunnelEnd(p)
		if !ok {
			unreachable = append(unreachable, p.Name)
			continue
		}
		to := bpf.NetproxyRoute{Node: addrOf(end), Flags: bpf.NetproxyRouteFlagsNP_ROUTE_TUNNEL}
		for _, a := range p.Addrs {
			routes[prefixOf(netip.PrefixFrom(a, a.BitLen()))] = to
			addrs[addrOf(a)] = bpf.NetproxyNode{}
		}
		for _, cidr := range p.PodCIDRs {
			routes[prefixOf(cidr)] = to
			addrs[addrOf(HostAddr(cidr))] = bpf.NetproxyNode{}
			kernel[cidr] = true
		}
	}
	for _, p := range d.cfg.PodCIDRs {
		routes[prefixOf(p)] = bpf.NetproxyRoute{Flags: bpf.NetproxyRouteFlagsNP_ROUTE_LOCAL}
	}
	for _, a := range d.nodeAddrs() {
		addrs[addrOf(a)] = bpf.NetproxyNode{Flags: bpf.NetproxyNodeFlagsNP_NODE_SELF}
	}
	if err := replaceMap(d.objs.NpRoutes, routes); err != nil {
		return unreachable, fmt.Errorf("write routes: %w", err)
	}
	if err := replaceMap(d.objs.NpNodeips, addrs); err != nil {
		return unreachable, fmt.Errorf("write node addresses: %w", err)
	}
	return unreachable, d.setTunnelRoutes(kernel)
}

// tunnelEnd is the address by which a node is reached: its first one that is not in a pod range.
func (d *Datapath) tunnelEnd(p resolve.Peer) (netip.Addr, bool) {
	for _, a := range p.Addrs {
		inPods := false
		for _, c := range append(d.cfg.ClusterCIDRs, p.PodCIDRs...) {
			inPods = inPods || c.Contains(a)
		}
		if !inPods {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// setTunnelRoutes sends the host's own packets for other nodes' pods to the tunnel.
func (d *Datapath) setTunnelRoutes(want map[netip.Prefix]bool) error {
	filter := &netlink.Route{LinkIndex: d.tunnel, Protocol: routeProtocol}
	have, err := dump(func() ([]netlink.Route, error) {
		return d.handle.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range have {
		p, ok := prefixFrom(r.Dst)
		if ok && want[p] {
			delete(want, p)
			continue
		}
		if err := d.handle.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route %s: %w", r.Dst, err)
		}
	}
	for p := range want {
		r := &netlink.Route{
			Dst: ipNet(p), LinkIndex: d.tunnel, Scope: netlink.SCOPE_LINK, Protocol: routeProtocol,
		}
		if own, ok := d.cfg.cidr(p.Addr().Is6()); ok {
			r.Src = HostAddr(own).AsSlice()
		}
		if err := d.handle.RouteReplace(r); err != nil {
			return fmt.Errorf("set route %s: %w", p, err)
		}
	}
	return nil
}

func prefixFrom(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func hostNet(a netip.Addr) *net.IPNet {
	return ipNet(netip.PrefixFrom(a, a.BitLen()))
}

// destroyNode removes devices, routes and the masquerade table from the node's network namespace.
func destroyNode(cfg Config) error {
	h, err := handleIn(cfg.NetNS)
	if errors.Is(err, os.ErrNotExist) {
		return nil // and all with it
	}
	if err != nil {
		return err
	}
	defer h.Close()
	var errs []error
	links, err := dump(h.LinkList)
	errs = append(errs, err)
	for _, l := range links {
		if !strings.HasPrefix(l.Attrs().Alias, alias(cfg.Node, "")) {
			continue
		}
		if err := h.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("remove device %s: %w", l.Attrs().Name, err))
		}
	}
	routes, err := dump(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	})
	errs = append(errs, err)
	for _, r := range routes {
		if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route %s: %w", r.Dst, err))
		}
	}
	return errors.Join(append(errs, removeMasquerade(cfg))...)
}
