package dns

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixed are records that never change.
type fixed struct {
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
}

func (f fixed) Service(n types.NamespacedName) *corev1.Service {
	for _, s := range f.services {
		if s.Namespace == n.Namespace && s.Name == n.Name {
			return s
		}
	}
	return nil
}

func (f fixed) Slices(n types.NamespacedName) []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for _, s := range f.slices {
		if s.Namespace == n.Namespace && s.Labels[discoveryv1.LabelServiceName] == n.Name {
			out = append(out, s)
		}
	}
	return out
}

func (f fixed) HasNamespace(ns string) bool {
	return slices.ContainsFunc(f.services, func(s *corev1.Service) bool { return s.Namespace == ns })
}

func (f fixed) ByIP(ip netip.Addr) []types.NamespacedName {
	var out []types.NamespacedName
	for _, s := range f.services {
		n := types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
		if slices.Contains(s.Spec.ClusterIPs, ip.String()) ||
			slices.ContainsFunc(hostsOf(f.Slices(n)), func(h host) bool { return h.ip == ip }) {
			out = append(out, n)
		}
	}
	return out
}

func records() fixed {
	svc := func(name string, spec corev1.ServiceSpec) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: spec}
	}
	ports := []corev1.ServicePort{
		{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
	}
	headless := func(name string, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name},
			},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: new("sql"), Port: new(int32(5432)), Protocol: new(corev1.ProtocolTCP)}},
			Endpoints:   eps,
		}
	}
	return fixed{
		services: []*corev1.Service{
			svc("web", corev1.ServiceSpec{ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1", "fd96::1"}, Ports: ports}),
			svc("db", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, ClusterIPs: []string{corev1.ClusterIPNone}}),
			svc("empty", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}),
			svc("away", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "Example.Org"}),
			svc("inside", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "web.shop.svc.cluster.local"}),
		},
		slices: []*discoveryv1.EndpointSlice{headless("db",
			discoveryv1.Endpoint{Addresses: []string{"10.244.1.5"}, Hostname: new("db-0")},
			discoveryv1.Endpoint{Addresses: []string{"10.244.1.6"}},
			discoveryv1.Endpoint{Addresses: []string{"10.244.1.7"}, Conditions: discoveryv1.EndpointConditions{Ready: new(false)}},
		)},
	}
}

// The names are those of the Kubernetes DNS specification.
func TestNames(t *testing.T) {
	c := cluster{zone: "cluster.local.", records: records(), server: []netip.Addr{netip.MustParseAddr("10.96.0.10")}}
	none := []string{"NODATA"}
	nx := []string{"NXDOMAIN"}
	for _, tc := range []struct {
		name string
		typ  uint16
		want []string
	}{
		{"web.shop.svc.cluster.local.", dns.TypeA, []string{"A 10.96.0.1"}},
		{"web.shop.svc.cluster.local.", dns.TypeAAAA, []string{"AAAA fd96::1"}},
		{"web.shop.svc.cluster.local.", dns.TypeTXT, none},
		{"web.shop.svc.cluster.local.", dns.TypeSRV, []string{
			"SRV 0 50 80 web.shop.svc.cluster.local.", "SRV 0 50 53 web.shop.svc.cluster.local.",
		}},
		{"_http._tcp.web.shop.svc.cluster.local.", dns.TypeSRV, []string{"SRV 0 100 80 web.shop.svc.cluster.local."}},
		{"_http._udp.web.shop.svc.cluster.local.", dns.TypeSRV, nx},
		{"_http._tcp.web.shop.svc.cluster.local.", dns.TypeA, none},
		{"_tcp.web.shop.svc.cluster.local.", dns.TypeA, none},
		{"_sctp.web.shop.svc.cluster.local.", dns.TypeA, nx},
		{"x.web.shop.svc.cluster.local.", dns.TypeA, nx},
		{"none.shop.svc.cluster.local.", dns.TypeA, nx},
		{"shop.svc.cluster.local.", dns.TypeA, none},
		{"nowhere.svc.cluster.local.", dns.TypeA, nx},
		{"svc.cluster.local.", dns.TypeA, none},
		{"pod.cluster.local.", dns.TypeA, none},
		{"cluster.local.", dns.TypeA, none},
		{"cluster.local.", dns.TypeNS, []string{"NS ns.dns.cluster.local."}},
		{"cluster.local.", dns.TypeSOA, []string{"SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"}},
		{"ns.dns.cluster.local.", dns.TypeA, []string{"A 10.96.0.10"}},
		{"dns-version.cluster.local.", dns.TypeTXT, []string{`TXT "1.1.0"`}},
		{"else.cluster.local.", dns.TypeA, nx},
		{"db.shop.svc.cluster.local.", dns.TypeA, []string{"A 10.244.1.6", "A 10.244.1.5"}},
		{"db.shop.svc.cluster.local.", dns.TypeAAAA, none},
		{"db-0.db.shop.svc.cluster.local.", dns.TypeA, []string{"A 10.244.1.5"}},
		{"10-244-1-6.db.shop.svc.cluster.local.", dns.TypeA, []string{"A 10.244.1.6"}},
		{"10-244-1-7.db.shop.svc.cluster.local.", dns.TypeA, nx},
		{"_sql._tcp.db.shop.svc.cluster.local.", dns.TypeSRV, []string{
			"SRV 0 50 5432 10-244-1-6.db.shop.svc.cluster.local.", "SRV 0 50 5432 db-0.db.shop.svc.cluster.local.",
		}},
		{"empty.shop.svc.cluster.local.", dns.TypeA, nx},
		{"away.shop.svc.cluster.local.", dns.TypeCNAME, []string{"CNAME example.org."}},
		{"x.away.shop.svc.cluster.local.", dns.TypeA, nx},
		{"10-244-1-5.shop.pod.cluster.local.", dns.TypeA, []string{"A 10.244.1.5"}},
		{"10-244-1-5.shop.pod.cluster.local.", dns.TypeAAAA, none},
		{"fd44--5.shop.pod.cluster.local.", dns.TypeAAAA, []string{"AAAA fd44::5"}},
		{"10-244-1-5.nowhere.pod.cluster.local.", dns.TypeA, nx},
		{"x.shop.pod.cluster.local.", dns.TypeA, nx},
		{"1.0.96.10.in-addr.arpa.", dns.TypePTR, []string{"PTR web.shop.svc.cluster.local."}},
		{"5.1.244.10.in-addr.arpa.", dns.TypePTR, []string{"PTR db-0.db.shop.svc.cluster.local."}},
		{"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.d.f.ip6.arpa.", dns.TypePTR,
			[]string{"PTR web.shop.svc.cluster.local."}},
		{"9.9.9.9.in-addr.arpa.", dns.TypePTR, []string{"FOREIGN"}},
		{"example.org.", dns.TypeA, []string{"FOREIGN"}},
		{"notcluster.local.", dns.TypeA, []string{"FOREIGN"}},
	} {
		t.Run(tc.name+" "+dns.TypeToString[tc.typ], func(t *testing.T) {
			require.Equal(t, tc.want, texts(c.ask(tc.name, tc.typ)))
		})
	}
}

func texts(r reply) []string {
	var out []string
	for _, rr := range r.answer {
		fields := strings.Fields(rr.String())
		out = append(out, strings.Join(fields[3:], " "))
	}
	switch {
	case r.foreign:
		return []string{"FOREIGN"}
	case !r.exists:
		return []string{"NXDOMAIN"}
	case len(out) == 0:
		return []string{"NODATA"}
	}
	return out
}

func FuzzNames(f *testing.F) {
	f.Add("web.shop.svc.cluster.local.", dns.TypeA)
	f.Add("1.0.96.10.in-addr.arpa.", dns.TypePTR)
	f.Add("_http._tcp.web.shop.svc.cluster.local.", dns.TypeSRV)
	c := cluster{zone: "cluster.local.", records: records()}
	f.Fuzz(func(t *testing.T, name string, qtype uint16) {
		r := c.ask(name, qtype)
		if len(r.answer) > 0 && !r.exists {
			t.Fatalf("%q has answers and does not exist", name)
		}
	})
}

func FuzzDashedAddress(f *testing.F) {
	f.Add([]byte{10, 0, 0, 1})
	f.Add(make([]byte, 16))
	f.Fuzz(func(t *testing.T, b []byte) {
		ip, ok := netip.AddrFromSlice(b)
		if !ok || ip.Is4In6() {
			return
		}
		label := dash(ip)
		got, ok := undash(label)
		if !ok || got != ip || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			t.Fatalf("%s as %q reads %s", ip, label, got)
		}
	})
}

// serve runs a server on loopback, with an upstream of our own.
func serve(t *testing.T) string {
	t.Helper()
	up, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	upstream := &dns.Server{PacketConn: up, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		rr, err := dns.NewRR(r.Question[0].Name + " 60 IN A 192.0.2.80")
		if err == nil && r.Question[0].Qtype == dns.TypeA {
			m.Answer = append(m.Answer, rr)
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = upstream.ActivateAndServe() }()
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	text := "nameserver 10.96.0.10\nnameserver 127.0.0.1\n"
	require.NoError(t, os.WriteFile(conf, []byte(text), 0o600))
	probe, err := net.ListenPacket("udp", "127.0.0.2:0")
	require.NoError(t, err)
	at := netip.MustParseAddrPort(probe.LocalAddr().String())
	require.NoError(t, probe.Close())
	s, err := New(Config{
		Domain: "cluster.local", Listen: []netip.AddrPort{at},
		Addrs: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, ResolvConf: conf,
		upstreamPort: uint16(up.LocalAddr().(*net.UDPAddr).Port),
	}, records(), zerolog.Nop())
	require.NoError(t, err)
	require.NoError(t, s.Listen())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, upstream.Shutdown())
	})
	return at.String()
}

func ask(t *testing.T, network, server, name string, qtype uint16) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	r, _, err := (&dns.Client{Net: network}).Exchange(m, server)
	require.NoError(t, err)
	return r
}

func TestServer(t *testing.T) {
	at := serve(t)
	for _, network := range []string{"udp", "tcp"} {
		r := ask(t, network, at, "Web.Shop.svc.Cluster.local.", dns.TypeA)
		require.Equal(t, "Web.Shop.svc.Cluster.local.", r.Answer[0].Header().Name, "as it was asked")
		require.True(t, r.Authoritative)
		r = ask(t, network, at, "none.shop.svc.cluster.local.", dns.TypeA)
		require.Equal(t, dns.RcodeNameError, r.Rcode)
		require.IsType(t, &dns.SOA{}, r.Ns[0], "so that it can be cached")
		r = ask(t, network, at, "example.org.", dns.TypeA)
		require.Equal(t, "192.0.2.80", r.Answer[0].(*dns.A).A.String())
		r = ask(t, network, at, "away.shop.svc.cluster.local.", dns.TypeA)
		require.Len(t, r.Answer, 2)
		require.Equal(t, "example.org.", r.Answer[0].(*dns.CNAME).Target)
		require.Equal(t, "192.0.2.80", r.Answer[1].(*dns.A).A.String())
		r = ask(t, network, at, "inside.shop.svc.cluster.local.", dns.TypeA)
		require.Len(t, r.Answer, 2)
		require.Equal(t, "10.96.0.1", r.Answer[1].(*dns.A).A.String())
	}
}

func TestPortTakenFailsAtOnce(t *testing.T) {
	at := serve(t)
	l, err := net.Listen("tcp", "127.0.0.3:0")
	require.NoError(t, err)
	defer l.Close()
	_ = at
	s, err := New(Config{Domain: "cluster.local", Listen: []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())}},
		records(), zerolog.Nop())
	require.NoError(t, err)
	require.ErrorContains(t, s.Listen(), "address already in use")
}
