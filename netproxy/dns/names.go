package dns

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	specVersion = "1.1.0"
	ttl         = 5 // seconds, of every record
)

// Records is where answers come from. It must be safe for concurrent use.
type Records interface {
	Service(name types.NamespacedName) *corev1.Service // nil if there is none
	Slices(service types.NamespacedName) []*discoveryv1.EndpointSlice
	HasNamespace(namespace string) bool
	ByIP(ip netip.Addr) []types.NamespacedName // services with that cluster address or endpoint
}

// reply is the answer to one question.
type reply struct {
	answer, extra []dns.RR
	exists        bool   // the name does; without records of the type asked for
	alias         string // the answer goes on at this name, outside of what we know
	foreign       bool   // not ours to answer
}

// cluster answers questions about a zone. It is a pure function of its records.
type cluster struct {
	zone    string // fully qualified
	records Records
	server  []netip.Addr // addresses of the name server itself
}

// ask answers a question about a lower-case, fully qualified name.
func (c cluster) ask(name string, qtype uint16) reply {
	if ip, ok := reverseIP(name); ok {
		return c.reverse(name, ip)
	}
	if !dns.IsSubDomain(c.zone, name) {
		return reply{foreign: true}
	}
	rest := strings.TrimSuffix(strings.TrimSuffix(name, c.zone), ".")
	if rest == "" {
		return c.apex(name, qtype)
	}
	labels := strings.Split(rest, ".")
	switch last := labels[len(labels)-1]; {
	case rest == "dns-version":
		return only(qtype, &dns.TXT{Hdr: header(name, dns.TypeTXT), Txt: []string{specVersion}})
	case rest == "ns.dns":
		return reply{exists: true, answer: addresses(name, qtype, c.server)}
	case rest == "dns":
		return reply{exists: true}
	case last == "svc":
		return c.service(name, qtype, labels[:len(labels)-1])
	case last == "pod":
		return c.pod(name, qtype, labels[:len(labels)-1])
	}
	return reply{}
}

func (c cluster) apex(name string, qtype uint16) reply {
	switch qtype {
	case dns.TypeSOA:
		return reply{exists: true, answer: []dns.RR{c.soa()}}
	case dns.TypeNS:
		ns := "ns.dns." + c.zone
		return reply{
			exists: true, answer: []dns.RR{&dns.NS{Hdr: header(name, dns.TypeNS), Ns: ns}},
			extra: append(addresses(ns, dns.TypeA, c.server), addresses(ns, dns.TypeAAAA, c.server)...),
		}
	}
	return reply{exists: true}
}

func (c cluster) soa() dns.RR {
	return &dns.SOA{
		Hdr: header(c.zone, dns.TypeSOA),
		Ns:  "ns.dns." + c.zone, Mbox: "hostmaster." + c.zone,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}

// pod answers 10-1-2-3.namespace.pod with the address in the name.
func (c cluster) pod(name string, qtype uint16, labels []string) reply {
	switch len(labels) {
	case 0:
		return reply{exists: true}
	case 1:
		return reply{exists: c.records.HasNamespace(labels[0])}
	case 2:
		if ip, ok := undash(labels[0]); ok && c.records.HasNamespace(labels[1]) {
			return reply{exists: true, answer: addresses(name, qtype, []netip.Addr{ip})}
		}
	}
	return reply{}
}

// service answers names under svc; labels are those before it, the namespace last.
func (c cluster) service(name string, qtype uint16, labels []string) reply {
	switch len(labels) {
	case 0:
		return reply{exists: true}
	case 1:
		return reply{exists: c.records.HasNamespace(labels[0])}
	}
	n := len(labels)
	key := types.NamespacedName{Namespace: labels[n-1], Name: labels[n-2]}
	svc := c.records.Service(key)
	if svc == nil {
		return reply{}
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		if n > 2 {
			return reply{}
		}
		target := dns.Fqdn(strings.ToLower(svc.Spec.ExternalName))
		cname := &dns.CNAME{Hdr: header(name, dns.TypeCNAME), Target: target}
		return reply{exists: true, answer: []dns.RR{cname}, alias: target}
	}
	s := serving{cluster: c, svc: svc, base: labels[n-2] + "." + labels[n-1] + ".svc." + c.zone}
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		s.hosts = hostsOf(c.records.Slices(key))
		if len(s.hosts) == 0 {
			return reply{} // no endpoint, no name
		}
	}
	switch n {
	case 2:
		return s.whole(name, qtype)
	case 3:
		return s.part(name, qtype, labels[0])
	case 4:
		return s.port(name, qtype, labels[0], labels[1])
	}
	return reply{}
}

// reverseIP reads an address from a name under in-addr.arpa or ip6.arpa.
func reverseIP(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		labels := strings.Split(rest, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
		return a, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa.")
	labels := strings.Split(rest, ".")
	if !ok || len(labels) != 32 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := range labels {
		if i > 0 && i%4 == 0 {
			b.WriteByte(':')
		}
		b.WriteString(labels[len(labels)-1-i])
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil
}

func (c cluster) reverse(name string, ip netip.Addr) reply {
	var out reply
	for _, key := range c.records.ByIP(ip) {
		base := key.Name + "." + key.Namespace + ".svc." + c.zone
		svc := c.records.Service(key)
		switch {
		case svc == nil:
		case svc.Spec.ClusterIP != corev1.ClusterIPNone:
			out.answer = append(out.answer, &dns.PTR{Hdr: header(name, dns.TypePTR), Ptr: base})
		default:
			for _, h := range hostsOf(c.records.Slices(key)) {
				if h.ip == ip {
					out.answer = append(out.answer, &dns.PTR{Hdr: header(name, dns.TypePTR), Ptr: h.label + "." + base})
				}
			}
		}
	}
	out.exists = len(out.answer) > 0
	out.foreign = !out.exists
	return out
}

// dash is an address as a label; undash reads it.
func dash(ip netip.Addr) string {
	s := strings.NewReplacer(".", "-", ":", "-").Replace(ip.String())
	if strings.HasPrefix(s, "-") {
		s = "0" + s // a label must not begin with a dash
	}
	if strings.HasSuffix(s, "-") {
		s += "0"
	}
	return s
}

func undash(label string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ".")); err == nil && a.Is4() {
		return a, true
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":"))
	return a, err == nil && strings.Contains(label, "-")
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// addresses are those of the family that a question's type asks for.
func addresses(name string, qtype uint16, ips []netip.Addr) []dns.RR {
	var out []dns.RR
	for _, ip := range ips {
		switch {
		case qtype == dns.TypeA && ip.Is4():
			out = append(out, &dns.A{Hdr: header(name, dns.TypeA), A: ip.AsSlice()})
		case qtype == dns.TypeAAAA && ip.Is6():
			out = append(out, &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: ip.AsSlice()})
		}
	}
	return out
}

func only(qtype uint16, rr dns.RR) reply {
	if rr.Header().Rrtype != qtype {
		return reply{exists: true}
	}
	return reply{exists: true, answer: []dns.RR{rr}}
}
