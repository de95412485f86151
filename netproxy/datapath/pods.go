package datapath

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/bpf"
)

// gateway6 is the next hop of pods for IPv6; a permanent neighbour, no device has it.
var gateway6 = netip.MustParseAddr("fe80::1")

// addrGenNone keeps the kernel from making link-local addresses on a device.
const addrGenNone = 1

// Pod is a pod's place in the network.
type Pod struct {
	UID, Namespace, Name string
	IPs                  []netip.Addr // at most one of each family, from the node's pod ranges
}

// wire is a pod's veth pair. Everything about it follows from the node and the pod, so it can be found again.
type wire struct {
	name     string // host side
	hostMAC  net.HardwareAddr
	podMAC   net.HardwareAddr
	alias    string
	netns    string // pin
	ip4, ip6 netip.Addr
}

func (d *Datapath) wireOf(p Pod) wire {
	sum := sha256.Sum256([]byte(d.cfg.Node + "\x00" + p.UID))
	mac := func(side byte) net.HardwareAddr {
		return net.HardwareAddr{0x0a, sum[0], sum[1], sum[2], sum[3], sum[4]&^1 | side}
	}
	w := wire{
		name:    fmt.Sprintf("pod%x", sum[:6]),
		hostMAC: mac(0), podMAC: mac(1),
		alias: alias(d.cfg.Node, p.Namespace+"/"+p.Name),
		netns: filepath.Join(d.cfg.netnsDir(), p.UID),
	}
	for _, a := range p.IPs {
		if a.Is4() {
			w.ip4 = a
		} else {
			w.ip6 = a
		}
	}
	return w
}

func (w wire) ips() []netip.Addr {
	var out []netip.Addr
	for _, a := range []netip.Addr{w.ip4, w.ip6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// AddPod gives a pod its network namespace, pinned at the path returned, with a device in it. A pod that has one
// already keeps it; its programs and table entries are brought up to date.
func (d *Datapath) AddPod(p Pod) (netnsPath string, err error) {
	if p.UID == "" || filepath.Base(p.UID) != p.UID || len(p.IPs) == 0 {
		return "", fmt.Errorf("pod %s/%s: no usable UID and addresses", p.Namespace, p.Name)
	}
	w := d.wireOf(p)
	if err := makeNetNS(w.netns); err != nil {
		return "", err
	}
	inside, err := handleIn(w.netns)
	if err != nil {
		return "", err
	}
	defer inside.Close()
	host, err := d.ensureVeth(w, inside)
	if err != nil {
		return "", err
	}
	if err := d.wirePod(w, host, inside); err != nil {
		return "", fmt.Errorf("connect pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	d.pods.Lock()
	d.pods.known[p.UID] = p
	d.pods.Unlock()
	return w.netns, nil
}

// AdoptPod is AddPod for a pod that has a network namespace; false if it has none.
func (d *Datapath) AdoptPod(p Pod) (found bool, err error) {
	if !isNetNS(d.wireOf(p).netns) {
		return false, nil
	}
	_, err = d.AddPod(p)
	return true, err
}

// ensureVeth makes the pair. A host side whose other end is not in the pod's namespace is one of a former boot.
func (d *Datapath) ensureVeth(w wire, inside *netlink.Handle) (netlink.Link, error) {
	if old, err := d.handle.LinkByName(w.name); err == nil {
		peer, err := inside.LinkByName("eth0")
		if err == nil && peer.Attrs().ParentIndex == old.Attrs().Index {
			return old, d.fitMTU(old)
		}
		if err := d.handle.LinkDel(old); err != nil {
			return nil, fmt.Errorf("remove stale device %s: %w", w.name, err)
		}
	}
	ns, err := os.Open(w.netns)
	if err != nil {
		return nil, fmt.Errorf("open pod's network namespace: %w", err)
	}
	defer func() { _ = ns.Close() }()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = w.name, d.mtu, w.hostMAC
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerMTU = "eth0", w.podMAC, uint32(d.mtu)
	veth.PeerNamespace = netlink.NsFd(ns.Fd())
	if err := d.handle.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("make device %s: %w", w.name, err)
	}
	l, err := d.handle.LinkByName(w.name)
	if err != nil {
		return nil, fmt.Errorf("find device %s: %w", w.name, err)
	}
	if err := d.handle.LinkSetAlias(l, w.alias); err != nil {
		return nil, fmt.Errorf("set alias of %s: %w", w.name, err)
	}
	return l, nil
}

// wirePod sets up both sides. Table entries and programs come before the devices are up.
func (d *Datapath) wirePod(w wire, host netlink.Link, inside *netlink.Handle) error {
	if err := d.writePod(w, host.Attrs().Index); err != nil {
		return err
	}
	if err := d.attachPod(host.Attrs().Index); err != nil {
		return err
	}
	if w.ip6.IsValid() { // no link-local address of its own: it has no use for one
		if err := d.handle.LinkSetIP6AddrGenMode(host, addrGenNone); err != nil {
			return fmt.Errorf("set address mode of %s: %w", w.name, err)
		}
	}
	if err := d.handle.LinkSetUp(host); err != nil {
		return fmt.Errorf("set %s up: %w", w.name, err)
	}
	if err := d.setupInside(w, inside); err != nil {
		return err
	}
	for _, ip := range w.ips() {
		if err := setNeighbour(d.handle, host.Attrs().Index, ip, w.podMAC); err != nil {
			return err
		}
		r := &netlink.Route{
			Dst: hostNet(ip), LinkIndex: host.Attrs().Index, Scope: netlink.SCOPE_LINK, Protocol: routeProtocol,
		}
		if own, ok := d.cfg.cidr(ip.Is6()); ok {
			r.Src = HostAddr(own).AsSlice()
		}
		if err := d.handle.RouteReplace(r); err != nil {
			return fmt.Errorf("route %s: %w", ip, err)
		}
	}
	return nil
}

func (d *Datapath) writePod(w wire, ifindex int) error {
	var entry bpf.NetproxyPodIf
	ep := bpf.NetproxyEp{Ifindex: uint32(ifindex)}
	copy(ep.Mac[:], w.podMAC)
	copy(ep.HostMac[:], w.hostMAC)
	if w.ip4.IsValid() {
		entry.Ip4 = addrOf(w.ip4)
	}
	if w.ip6.IsValid() {
		entry.Ip6 = addrOf(w.ip6)
	}
	if err := d.objs.NpIfs.Put(uint32(ifindex), entry); err != nil {
		return fmt.Errorf("write link entry: %w", err)
	}
	for _, ip := range w.ips() {
		if err := d.objs.NpEps.Put(addrOf(ip), ep); err != nil {
			return fmt.Errorf("write address entry: %w", err)
		}
	}
	return nil
}

// attachPod makes both directions of the host side run our programs; running ones are replaced in place.
func (d *Datapath) attachPod(ifindex int) error {
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		},
		QdiscType: "clsact",
	}
	if err := d.handle.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	for _, f := range []struct {
		parent  uint32
		name    string
		program *ebpf.Program
	}{
		{netlink.HANDLE_MIN_INGRESS, "np_from_pod", d.objs.NpFromPod},
		{netlink.HANDLE_MIN_EGRESS, "np_to_pod", d.objs.NpToPod},
	} {
		err := d.handle.FilterReplace(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: ifindex, Parent: f.parent, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1,
			},
			Fd: f.program.FD(), Name: f.name, DirectAction: true,
		})
		if err != nil {
			return fmt.Errorf("attach %s: %w", f.name, err)
		}
	}
	return nil
}

func (d *Datapath) setupInside(w wire, inside *netlink.Handle) error {
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := inside.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	eth, err := inside.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0: %w", err)
	}
	if w.ip6.IsValid() {
		if err := inside.LinkSetIP6AddrGenMode(eth, addrGenNone); err != nil {
			return fmt.Errorf("set address mode of eth0: %w", err)
		}
	}
	for _, ip := range w.ips() {
		err := inside.AddrReplace(eth, &netlink.Addr{IPNet: hostNet(ip), Flags: unix.IFA_F_NODAD})
		if err != nil {
			return fmt.Errorf("set address %s: %w", ip, err)
		}
	}
	if err := inside.LinkSetUp(eth); err != nil {
		return fmt.Errorf("set eth0 up: %w", err)
	}
	for _, ip := range w.ips() {
		if err := d.routeInside(ip, eth.Attrs().Index, w.hostMAC, inside); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) routeInside(ip netip.Addr, eth int, hostMAC net.HardwareAddr, inside *netlink.Handle) error {
	gateway := gateway6
	if own, ok := d.cfg.cidr(false); ok && ip.Is4() {
		gateway = HostAddr(own)
	}
	if err := setNeighbour(inside, eth, gateway, hostMAC); err != nil {
		return err
	}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if ip.Is6() {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	err := inside.RouteReplace(&netlink.Route{
		Dst: ipNet(all), Gw: gateway.AsSlice(), LinkIndex: eth, Flags: int(netlink.FLAG_ONLINK),
	})
	if err != nil {
		return fmt.Errorf("set default route via %s: %w", gateway, err)
	}
	return nil
}

func setNeighbour(h *netlink.Handle, ifindex int, ip netip.Addr, mac net.HardwareAddr) error {
	family := netlink.FAMILY_V4
	if ip.Is6() {
		family = netlink.FAMILY_V6
	}
	err := h.NeighSet(&netlink.Neigh{
		LinkIndex: ifindex, Family: family, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("set neighbour %s: %w", ip, err)
	}
	return nil
}

// RemovePod takes a pod off the network: nobody reaches it from here on, and connections of this node's pods to it
// end. Its devices go with its namespace. Removing what is not there is no error.
func (d *Datapath) RemovePod(p Pod) error {
	w := d.wireOf(p)
	var errs []error
	for _, ip := range w.ips() {
		if err := d.objs.NpEps.Delete(addrOf(ip)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("remove address entry: %w", err))
		}
	}
	if l, err := d.handle.LinkByName(w.name); err == nil {
		errs = append(errs, d.unwire(w, l.Attrs().Index))
	}
	errs = append(errs, dropNetNS(w.netns))
	d.pods.Lock()
	delete(d.pods.known, p.UID)
	d.pods.Unlock()
	if err := d.killPeers(w.ips()); err != nil {
		d.log.Warn().Err(err).Str("namespace", p.Namespace).Str("name", p.Name).Msg("connections to removed pod not all closed")
	}
	return errors.Join(errs...)
}

// unwire removes at once what the kernel would remove with the device, a little later.
func (d *Datapath) unwire(w wire, ifindex int) error {
	var errs []error
	if err := d.objs.NpIfs.Delete(uint32(ifindex)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		errs = append(errs, fmt.Errorf("remove link entry: %w", err))
	}
	for _, ip := range w.ips() {
		err := d.handle.RouteDel(&netlink.Route{Dst: hostNet(ip), LinkIndex: ifindex, Scope: netlink.SCOPE_LINK})
		if err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route %s: %w", ip, err))
		}
	}
	return errors.Join(errs...)
}

// podNetNSs are the pins of all known pods.
func (d *Datapath) podNetNSs() []string {
	d.pods.Lock()
	defer d.pods.Unlock()
	out := make([]string, 0, len(d.pods.known))
	for uid := range d.pods.known {
		out = append(out, filepath.Join(d.cfg.netnsDir(), uid))
	}
	return out
}

func destroyPods(cfg Config) error {
	pins, err := os.ReadDir(cfg.netnsDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, pin := range pins {
		errs = append(errs, dropNetNS(filepath.Join(cfg.netnsDir(), pin.Name())))
	}
	errs = append(errs, os.Remove(cfg.netnsDir()))
	return errors.Join(errs...)
}
