package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is that of the one table; it holds nothing but the masquerade of packets that leave the cluster.
func (c Config) tableName() string {
	return "rutter_" + strings.ReplaceAll(c.Node, ".", "_")
}

// withNFT runs fn with a connection in the node's network namespace.
func withNFT(cfg Config, fn func(*nftables.Conn) error) error {
	var opts []nftables.ConnOption
	if cfg.NetNS != "" {
		ns, err := os.Open(cfg.NetNS)
		if err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
		defer func() { _ = ns.Close() }()
		opts = append(opts, nftables.WithNetNSFd(int(ns.Fd())))
	}
	c, err := nftables.New(opts...)
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return fn(c)
}

// masquerade gives packets from pods to outside the cluster the address of the device they leave by. The table is
// replaced in one transaction; conntrack keeps what it knows.
func (d *Datapath) masquerade() error {
	return withNFT(d.cfg, func(c *nftables.Conn) error {
		t := &nftables.Table{Family: nftables.TableFamilyINet, Name: d.cfg.tableName()}
		c.AddTable(t) // so that the removal cannot fail
		c.DelTable(t)
		c.AddTable(t)
		chain := c.AddChain(&nftables.Chain{
			Name: "postrouting", Table: t, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		})
		for _, p := range append(d.cfg.ClusterCIDRs, d.cfg.PodCIDRs...) {
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: append(match(p, false), &expr.Verdict{Kind: expr.VerdictReturn})})
		}
		for _, p := range d.cfg.PodCIDRs {
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: append(match(p, true), &expr.Masq{FullyRandom: true})})
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("write nftables table %s: %w", t.Name, err)
		}
		return nil
	})
}

// match selects packets whose source or destination lies in a prefix.
func match(p netip.Prefix, source bool) []expr.Any {
	family, offset := byte(unix.NFPROTO_IPV4), uint32(16)
	if source {
		offset = 12
	}
	if p.Addr().Is6() {
		family, offset = unix.NFPROTO_IPV6, 24
		if source {
			offset = 8
		}
	}
	n := ipNet(p)
	size := uint32(len(n.IP))
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: n.Mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: n.IP},
	}
}

func removeMasquerade(cfg Config) error {
	return withNFT(cfg, func(c *nftables.Conn) error {
		c.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: cfg.tableName()})
		if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove nftables table: %w", err)
		}
		return nil
	})
}
