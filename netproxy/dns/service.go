package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// serving answers about one service with a cluster address or, if headless, with hosts.
type serving struct {
	cluster
	svc   *corev1.Service
	base  string // its full name
	hosts []host
}

// host is one endpoint of a headless service.
type host struct {
	label string // its hostname, or its address
	ip    netip.Addr
	ports []discoveryv1.EndpointPort
}

// hostsOf lists the ready endpoints; the slice controller marks those ready whose service publishes all.
func hostsOf(epSlices []*discoveryv1.EndpointSlice) []host {
	var out []host
	for _, s := range epSlices {
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, text := range e.Addresses {
				ip, err := netip.ParseAddr(text)
				if err != nil {
					continue
				}
				h := host{label: dash(ip), ip: ip, ports: s.Ports}
				if e.Hostname != nil && *e.Hostname != "" {
					h.label = strings.ToLower(*e.Hostname)
				}
				out = append(out, h)
			}
		}
	}
	slices.SortFunc(out, func(a, b host) int { return cmp.Or(strings.Compare(a.label, b.label), a.ip.Compare(b.ip)) })
	return slices.CompactFunc(out, func(a, b host) bool { return a.label == b.label && a.ip == b.ip })
}

func (s serving) headless() bool { return s.svc.Spec.ClusterIP == corev1.ClusterIPNone }

func (s serving) ips() []netip.Addr {
	var out []netip.Addr
	if s.headless() {
		for _, h := range s.hosts {
			out = append(out, h.ip)
		}
		return out
	}
	texts := s.svc.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{s.svc.Spec.ClusterIP}
	}
	for _, text := range texts {
		if ip, err := netip.ParseAddr(text); err == nil {
			out = append(out, ip)
		}
	}
	return out
}

// whole answers about the service's own name.
func (s serving) whole(name string, qtype uint16) reply {
	if qtype == dns.TypeSRV {
		return s.srv(name, func(string, corev1.Protocol) bool { return true })
	}
	return reply{exists: true, answer: addresses(name, qtype, s.ips())}
}

// part answers about a name right below the service's: an endpoint of a headless one, or a protocol.
func (s serving) part(name string, qtype uint16, label string) reply {
	if proto, ok := strings.CutPrefix(label, "_"); ok {
		return reply{exists: len(s.srv(name, func(_ string, p corev1.Protocol) bool { return isProto(p, proto) }).answer) > 0}
	}
	var ips []netip.Addr
	for _, h := range s.hosts {
		if h.label == label {
			ips = append(ips, h.ip)
		}
	}
	return reply{exists: len(ips) > 0, answer: addresses(name, qtype, ips)}
}

// port answers about _port._protocol.
func (s serving) port(name string, qtype uint16, port, proto string) reply {
	port, ok := strings.CutPrefix(port, "_")
	proto, ok2 := strings.CutPrefix(proto, "_")
	if !ok || !ok2 {
		return reply{}
	}
	out := s.srv(name, func(n string, p corev1.Protocol) bool {
		return n != "" && strings.EqualFold(n, port) && isProto(p, proto)
	})
	if qtype != dns.TypeSRV {
		return reply{exists: out.exists}
	}
	return out
}

func isProto(p corev1.Protocol, label string) bool {
	return strings.EqualFold(cmp.Or(string(p), "TCP"), label)
}

// srv lists the ports that match, with the addresses of their targets.
func (s serving) srv(name string, match func(port string, proto corev1.Protocol) bool) reply {
	var out reply
	add := func(port int32, target string, ips []netip.Addr) {
		rr := &dns.SRV{Hdr: header(name, dns.TypeSRV), Priority: 0, Weight: 100, Port: uint16(port), Target: target}
		out.answer = append(out.answer, rr)
		out.extra = append(out.extra, addresses(target, dns.TypeA, ips)...)
		out.extra = append(out.extra, addresses(target, dns.TypeAAAA, ips)...)
	}
	if !s.headless() {
		for _, p := range s.svc.Spec.Ports {
			if match(p.Name, p.Protocol) {
				add(p.Port, s.base, s.ips())
			}
		}
	}
	for _, h := range s.hosts {
		for _, p := range h.ports {
			if p.Port != nil && match(deref(p.Name), deref(p.Protocol)) {
				add(*p.Port, h.label+"."+s.base, []netip.Addr{h.ip})
			}
		}
	}
	for _, rr := range out.answer {
		rr.(*dns.SRV).Weight = uint16(max(1, 100/len(out.answer)))
	}
	out.exists = len(out.answer) > 0
	out.extra = dns.Dedup(out.extra, nil)
	return out
}

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}
