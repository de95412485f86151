package resolve

import (
	"net/netip"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// labelHeadless marks slices of headless services.
const labelHeadless = "service.kubernetes.io/headless"

type endpoint struct {
	addr                               netip.AddrPort
	local, ready, serving, terminating bool
	nodes, zones                       []string // hints
}

// collect gathers the endpoints of one service port from all slices, each address once. Slices may overlap while a
// controller moves endpoints between them: what either says for an address holds.
func collect(epSlices []*discoveryv1.EndpointSlice, port string, proto Protocol, node string, v6 bool) []endpoint {
	family := discoveryv1.AddressTypeIPv4
	if v6 {
		family = discoveryv1.AddressTypeIPv6
	}
	var out []endpoint
	at := map[netip.AddrPort]int{}
	for _, s := range epSlices {
		if _, headless := s.Labels[labelHeadless]; headless || s.AddressType != family {
			continue
		}
		number, ok := portOf(s, port, proto)
		if !ok {
			continue
		}
		for i := range s.Endpoints {
			e, ok := endpointOf(&s.Endpoints[i], number, node)
			if !ok {
				continue
			}
			if j, seen := at[e.addr]; seen {
				out[j] = merge(out[j], e)
				continue
			}
			at[e.addr] = len(out)
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	return out
}

func portOf(s *discoveryv1.EndpointSlice, name string, proto Protocol) (uint16, bool) {
	for _, p := range s.Ports {
		if p.Port == nil || deref(p.Name, "") != name {
			continue
		}
		if got, ok := protocolOf(deref(p.Protocol, "")); ok && got == proto {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

// endpointOf reads one endpoint. All addresses of an endpoint are fungible: the first one is taken.
func endpointOf(e *discoveryv1.Endpoint, port uint16, node string) (endpoint, bool) {
	if len(e.Addresses) == 0 {
		return endpoint{}, false
	}
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil {
		return endpoint{}, false
	}
	ready := deref(e.Conditions.Ready, true)
	out := endpoint{
		addr:        netip.AddrPortFrom(addr.Unmap(), port),
		local:       e.NodeName != nil && *e.NodeName == node,
		ready:       ready,
		serving:     deref(e.Conditions.Serving, ready),
		terminating: deref(e.Conditions.Terminating, false),
	}
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			out.zones = append(out.zones, z.Name)
		}
		for _, n := range e.Hints.ForNodes {
			out.nodes = append(out.nodes, n.Name)
		}
	}
	return out, true
}

func merge(a, b endpoint) endpoint {
	a.local = a.local || b.local
	a.ready = a.ready || b.ready
	a.serving = a.serving || b.serving
	a.terminating = a.terminating && b.terminating
	return a
}

// byTopology narrows endpoints by their hints. Hints count only if every ready endpoint carries some and one of them
// is for us; the node's come before the zone's.
func byTopology(eps []endpoint, node Node) []endpoint {
	allNode, forNode, allZone, forZone := true, false, true, false
	isForNode := func(e endpoint) bool { return slices.Contains(e.nodes, node.Name) }
	isForZone := func(e endpoint) bool { return node.Zone != "" && slices.Contains(e.zones, node.Zone) }
	for _, e := range eps {
		if !e.ready {
			continue
		}
		allNode = allNode && len(e.nodes) > 0
		allZone = allZone && len(e.zones) > 0
		forNode = forNode || isForNode(e)
		forZone = forZone || isForZone(e)
	}
	switch {
	case allNode && forNode:
		return only(eps, isForNode)
	case allZone && forZone:
		return only(eps, isForZone)
	default:
		return eps
	}
}

// choose takes the ready ones, or else those of the fallback that terminate but still serve.
func choose(eps, fallback []endpoint) (addrs []netip.AddrPort, terminating bool) {
	for _, e := range eps {
		if e.ready {
			addrs = append(addrs, e.addr)
		}
	}
	if len(addrs) > 0 {
		return addrs, false
	}
	for _, e := range fallback {
		if e.serving && e.terminating {
			addrs = append(addrs, e.addr)
		}
	}
	return addrs, len(addrs) > 0
}

func only(eps []endpoint, keep func(endpoint) bool) []endpoint {
	var out []endpoint
	for _, e := range eps {
		if keep(e) {
			out = append(out, e)
		}
	}
	return out
}

func deref[T any](p *T, missing T) T {
	if p == nil {
		return missing
	}
	return *p
}
