package resolve

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Peer is a node as the datapath sees it.
type Peer struct {
	Name     string
	Self     bool
	Addrs    []netip.Addr   // InternalIPs, in the node's order
	PodCIDRs []netip.Prefix // masked
}

// PeerOf computes what the datapath should know of a node; self is this node's name.
func PeerOf(n *corev1.Node, self string) Peer {
	out := Peer{Name: n.Name, Self: n.Name == self}
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		out.Addrs = append(out.Addrs, parseAll([]string{a.Address})...)
	}
	texts := n.Spec.PodCIDRs
	if len(texts) == 0 && n.Spec.PodCIDR != "" {
		texts = []string{n.Spec.PodCIDR}
	}
	for _, s := range texts {
		if p, err := netip.ParsePrefix(s); err == nil {
			out.PodCIDRs = append(out.PodCIDRs, p.Masked())
		}
	}
	return out
}

// ZoneOf is the node's topology zone; empty if it has none.
func ZoneOf(n *corev1.Node) string {
	return n.Labels[corev1.LabelTopologyZone]
}
