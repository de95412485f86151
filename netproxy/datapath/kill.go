package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/netproxy/resolve"
)

const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	sockDestroy      = 21 // SOCK_DESTROY

	diagRequestLen = 56 // struct inet_diag_req_v2
	diagMessageLen = 72 // struct inet_diag_msg
	diagIDLen      = 48 // struct inet_diag_sockid, at offset 8 of the request and 4 of the message
)

// killFlows closes this node's connected UDP sockets of endpoints that serve no more, so that their owners look for
// another one: they read ECONNABORTED. Unconnected sockets move by themselves with the next datagram; TCP connections
// may end in peace.
func (d *Datapath) killFlows(gone []Vanished) error {
	dead := map[netip.AddrPort]bool{}
	for _, v := range gone {
		if v.Protocol == resolve.UDP && !d.stillServes(v) {
			dead[v.Addr] = true
		}
	}
	if len(dead) == 0 {
		return nil
	}
	return d.inEachNetNS(func(c *mnl.Conn) error {
		return killWhere(c, unix.IPPROTO_UDP, func(peer netip.AddrPort) bool { return dead[peer] })
	})
}

// stillServes tells whether another service has the endpoint.
func (d *Datapath) stillServes(v Vanished) bool {
	d.services.Lock()
	defer d.services.Unlock()
	for _, s := range d.services.services {
		for id, p := range s.ports {
			if _, ok := p.backends[v.Addr]; ok && id.Protocol == v.Protocol {
				return true
			}
		}
	}
	return false
}

// killPeers closes this node's sockets connected to addresses that are no more.
func (d *Datapath) killPeers(gone []netip.Addr) error {
	dead := map[netip.Addr]bool{}
	for _, a := range gone {
		dead[a] = true
	}
	return d.inEachNetNS(func(c *mnl.Conn) error {
		match := func(peer netip.AddrPort) bool { return dead[peer.Addr()] }
		return errors.Join(killWhere(c, unix.IPPROTO_UDP, match), killWhere(c, unix.IPPROTO_TCP, match))
	})
}

func (d *Datapath) inEachNetNS(fn func(*mnl.Conn) error) error {
	errs := []error{inNetNSDiag(d.cfg.NetNS, fn)}
	for _, path := range d.podNetNSs() {
		if err := inNetNSDiag(path, fn); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func inNetNSDiag(path string, fn func(*mnl.Conn) error) error {
	cfg := &mnl.Config{}
	if path != "" {
		ns, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
		defer func() { _ = ns.Close() }()
		cfg.NetNS = int(ns.Fd())
	}
	c, err := mnl.Dial(unix.NETLINK_SOCK_DIAG, cfg)
	if err != nil {
		return fmt.Errorf("open socket diagnosis: %w", err)
	}
	defer func() { _ = c.Close() }()
	return fn(c)
}

// killWhere destroys the sockets whose peer matches.
func killWhere(c *mnl.Conn, proto uint8, match func(netip.AddrPort) bool) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		req := make([]byte, diagRequestLen)
		req[0], req[1] = family, proto
		binary.NativeEndian.PutUint32(req[4:], ^uint32(0)) // all states
		found, err := c.Execute(mnl.Message{
			Header: mnl.Header{Type: sockDiagByFamily, Flags: mnl.Request | mnl.Dump}, Data: req,
		})
		if err != nil {
			return fmt.Errorf("list sockets: %w", err)
		}
		for _, m := range found {
			peer, ok := peerOf(m.Data)
			if !ok || !match(peer) {
				continue
			}
			copy(req[8:8+diagIDLen], m.Data[4:4+diagIDLen])
			_, err := c.Execute(mnl.Message{
				Header: mnl.Header{Type: sockDestroy, Flags: mnl.Request | mnl.Acknowledge}, Data: req,
			})
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("close socket to %s: %w", peer, err)
			}
		}
	}
	return nil
}

// peerOf reads the peer's address from a socket's description. IPv4 in an IPv6 socket reads as IPv4.
func peerOf(msg []byte) (netip.AddrPort, bool) {
	if len(msg) < diagMessageLen {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(msg[6:])
	raw := msg[24:40]
	if msg[0] == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[:4])), port), true
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(raw)).Unmap(), port), true
}
