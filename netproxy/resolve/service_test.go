package resolve_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/netproxy/resolve"
)

var here = resolve.Node{Name: "here", Zone: "a"}

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// web is a plain service; change makes it special.
func web(change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

type ep struct {
	ip                        string
	node                      string
	notReady, serving, ending bool
	zones, nodes              []string
}

func endpoints(eps ...ep) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: "web-1"},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{
			Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP),
		}},
	}
	for _, e := range eps {
		if netip.MustParseAddr(e.ip).Is6() {
			s.AddressType = discoveryv1.AddressTypeIPv6
		}
		d := discoveryv1.Endpoint{
			Addresses: []string{e.ip},
			Conditions: discoveryv1.EndpointConditions{
				Ready: new(!e.notReady), Serving: new(!e.notReady || e.serving), Terminating: new(e.ending),
			},
		}
		if e.node != "" {
			d.NodeName = &e.node
		}
		if len(e.zones)+len(e.nodes) > 0 {
			d.Hints = &discoveryv1.EndpointHints{}
		}
		for _, z := range e.zones {
			d.Hints.ForZones = append(d.Hints.ForZones, discoveryv1.ForZone{Name: z})
		}
		for _, n := range e.nodes {
			d.Hints.ForNodes = append(d.Hints.ForNodes, discoveryv1.ForNode{Name: n})
		}
		s.Endpoints = append(s.Endpoints, d)
	}
	return s
}

// The rules for which endpoints get traffic are those of kube-proxy.
func TestEndpointsChosen(t *testing.T) {
	internalLocal := func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal) }
	type want struct {
		cluster, local []string
		terminating    bool
		serving        int
	}
	for _, tc := range []struct {
		name string
		svc  *corev1.Service
		eps  []ep
		want want
	}{
		{"none", web(), nil, want{}},
		{"ready ones", web(), []ep{{ip: "1.1.1.2", node: "here"}, {ip: "1.1.1.1"}, {ip: "1.1.1.3", notReady: true}},
			want{cluster: []string{"1.1.1.1:8080", "1.1.1.2:8080"}, local: []string{"1.1.1.2:8080"}, serving: 2}},
		{"terminating ones are left out while another is ready", web(),
			[]ep{{ip: "1.1.1.1", notReady: true, serving: true, ending: true}, {ip: "1.1.1.2"}},
			want{cluster: []string{"1.1.1.2:8080"}, serving: 2}},
		{"terminating ones that serve are the last resort", web(),
			[]ep{{ip: "1.1.1.1", notReady: true, serving: true, ending: true}, {ip: "1.1.1.2", notReady: true, ending: true}},
			want{cluster: []string{"1.1.1.1:8080"}, terminating: true, serving: 1}},
		{"serving but not ready and not terminating is nothing", web(),
			[]ep{{ip: "1.1.1.1", notReady: true, serving: true}}, want{serving: 1}},
		{"local last resort", web(internalLocal),
			[]ep{{ip: "1.1.1.1", node: "here", notReady: true, serving: true, ending: true}, {ip: "1.1.1.2", node: "there"}},
			want{cluster: []string{"1.1.1.2:8080"}, local: []string{"1.1.1.1:8080"}, terminating: true, serving: 2}},
		{"zone hints", web(),
			[]ep{{ip: "1.1.1.1", zones: []string{"a"}}, {ip: "1.1.1.2", zones: []string{"b"}}},
			want{cluster: []string{"1.1.1.1:8080"}, serving: 2}},
		{"zone hints count only if all have some", web(),
			[]ep{{ip: "1.1.1.1", zones: []string{"a"}}, {ip: "1.1.1.2"}},
			want{cluster: []string{"1.1.1.1:8080", "1.1.1.2:8080"}, serving: 2}},
		{"zone hints for others only are ignored", web(),
			[]ep{{ip: "1.1.1.1", zones: []string{"b"}}, {ip: "1.1.1.2", zones: []string{"c"}}},
			want{cluster: []string{"1.1.1.1:8080", "1.1.1.2:8080"}, serving: 2}},
		{"hints of endpoints that are not ready do not count", web(),
			[]ep{{ip: "1.1.1.1", zones: []string{"a"}}, {ip: "1.1.1.2", notReady: true}},
			want{cluster: []string{"1.1.1.1:8080"}, serving: 1}},
		{"node hints come before zone hints", web(),
			[]ep{
				{ip: "1.1.1.1", zones: []string{"a"}, nodes: []string{"there"}},
				{ip: "1.1.1.2", zones: []string{"a"}, nodes: []string{"here"}},
			},
			want{cluster: []string{"1.1.1.2:8080"}, serving: 2}},
		{"node hints for others fall back to the zone's", web(),
			[]ep{
				{ip: "1.1.1.1", zones: []string{"a"}, nodes: []string{"there"}},
				{ip: "1.1.1.2", zones: []string{"b"}, nodes: []string{"there"}},
			},
			want{cluster: []string{"1.1.1.1:8080"}, serving: 2}},
		{"the last resort looks at all zones", web(),
			[]ep{{ip: "1.1.1.1", zones: []string{"b"}, notReady: true, serving: true, ending: true}},
			want{cluster: []string{"1.1.1.1:8080"}, terminating: true, serving: 1}},
		{"an address twice counts once", web(), []ep{{ip: "1.1.1.1"}, {ip: "1.1.1.1", node: "here"}},
			want{cluster: []string{"1.1.1.1:8080"}, local: []string{"1.1.1.1:8080"}, serving: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := resolve.Resolve(tc.svc, []*discoveryv1.EndpointSlice{endpoints(tc.eps...)}, here)
			require.Len(t, got.Ports, 1)
			p := got.Ports[0]
			require.Equal(t, tc.want, want{texts(p.Cluster), texts(p.Local), p.Terminating, len(p.Serving)})
		})
	}
}

func texts(all []netip.AddrPort) []string {
	var out []string
	for _, a := range all {
		out = append(out, a.String())
	}
	return out
}

func TestServicesThatAreNotOurs(t *testing.T) {
	for name, svc := range map[string]*corev1.Service{
		"gone":            nil,
		"headless":        web(func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }),
		"no address yet":  web(func(s *corev1.Service) { s.Spec.ClusterIP = "" }),
		"external name":   web(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }),
		"another proxy's": web(func(s *corev1.Service) { s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "x"} }),
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, resolve.Service{}, resolve.Resolve(svc, nil, here))
		})
	}
}

func TestFronts(t *testing.T) {
	front := func(a string, external bool) resolve.Front {
		ap := addr(a)
		return resolve.Front{Addr: ap.Addr(), Port: ap.Port(), Protocol: resolve.TCP, External: external}
	}
	dual := func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.1", "fd96::1"} }
	for _, tc := range []struct {
		name     string
		svc      *corev1.Service
		v4, v6   []resolve.Front
		problems []string
	}{
		{"cluster address", web(), []resolve.Front{front("10.96.0.1:80", false)}, nil, nil},
		{"both families", web(dual), []resolve.Front{front("10.96.0.1:80", false)}, []resolve.Front{front("[fd96::1]:80", false)}, nil},
		{"node port of both families", web(dual, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30080 }),
			[]resolve.Front{front("0.0.0.0:30080", true), front("10.96.0.1:80", false)},
			[]resolve.Front{front("[::]:30080", true), front("[fd96::1]:80", false)}, nil},
		{"external addresses", web(func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"192.0.2.1", "2001:db8::1"} }),
			[]resolve.Front{front("10.96.0.1:80", false), front("192.0.2.1:80", true)},
			[]resolve.Front{front("[2001:db8::1]:80", true)}, nil},
		{"balancer in VIP mode", web(func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{
				{IP: "192.0.2.1"}, {IP: "192.0.2.2", IPMode: new(corev1.LoadBalancerIPModeProxy)}, {Hostname: "x"},
			}
		}), []resolve.Front{front("10.96.0.1:80", false), front("192.0.2.1:80", true)}, nil, nil},
		{"balancer with source ranges is not served, and says so", web(func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
		}), []resolve.Front{front("10.96.0.1:80", false)}, nil, []string{"UnsupportedSourceRanges"}},
		{"health checks are not answered, and say so", web(func(s *corev1.Service) { s.Spec.HealthCheckNodePort = 32000 }),
			[]resolve.Front{front("10.96.0.1:80", false)}, nil, []string{"UnsupportedHealthCheck"}},
		{"SCTP is not served, and says so", web(func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolSCTP }),
			nil, nil, []string{"UnsupportedProtocol"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := resolve.Resolve(tc.svc, nil, here)
			var v4, v6 []resolve.Front
			for _, p := range got.Ports {
				if p.ID.IPv6 {
					v6 = p.Fronts
				} else {
					v4 = p.Fronts
				}
			}
			var problems []string
			for _, p := range got.Problems {
				problems = append(problems, p.Reason)
			}
			require.Equal(t, tc.v4, v4)
			require.Equal(t, tc.v6, v6)
			require.Equal(t, tc.problems, problems)
		})
	}
}

func TestPoliciesAndAffinity(t *testing.T) {
	got := resolve.Resolve(web(func(s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	}), nil, here).Ports[0]
	require.True(t, got.ExternalLocal)
	require.True(t, got.InternalLocal)
	require.Equal(t, 3*time.Hour, got.Affinity)
	got = resolve.Resolve(web(func(s *corev1.Service) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32(7))}}
	}), nil, here).Ports[0]
	require.Equal(t, 7*time.Second, got.Affinity)
	require.False(t, got.ExternalLocal)
}

func TestSlicesThatDoNotMatch(t *testing.T) {
	eps := func(change func(*discoveryv1.EndpointSlice)) *discoveryv1.EndpointSlice {
		s := endpoints(ep{ip: "1.1.1.1"})
		change(s)
		return s
	}
	for name, s := range map[string]*discoveryv1.EndpointSlice{
		"other port":     eps(func(s *discoveryv1.EndpointSlice) { s.Ports[0].Name = new("other") }),
		"other protocol": eps(func(s *discoveryv1.EndpointSlice) { s.Ports[0].Protocol = new(corev1.ProtocolUDP) }),
		"no port number": eps(func(s *discoveryv1.EndpointSlice) { s.Ports[0].Port = nil }),
		"names":          eps(func(s *discoveryv1.EndpointSlice) { s.AddressType = discoveryv1.AddressTypeFQDN }),
		"headless":       eps(func(s *discoveryv1.EndpointSlice) { s.Labels = map[string]string{"service.kubernetes.io/headless": ""} }),
		"other family":   endpoints(ep{ip: "fd00::1"}),
		"no address":     eps(func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses = nil }),
	} {
		t.Run(name, func(t *testing.T) {
			require.Empty(t, resolve.Resolve(web(), []*discoveryv1.EndpointSlice{s}, here).Ports[0].Cluster)
		})
	}
}

func TestUnknownConditionsMeanReady(t *testing.T) {
	s := endpoints(ep{ip: "1.1.1.1"})
	s.Endpoints[0].Conditions = discoveryv1.EndpointConditions{}
	got := resolve.Resolve(web(), []*discoveryv1.EndpointSlice{s}, here).Ports[0]
	require.Equal(t, []string{"1.1.1.1:8080"}, texts(got.Cluster))
	require.Equal(t, map[netip.AddrPort]bool{addr("1.1.1.1:8080"): false}, got.Serving)
}

func TestPeerOf(t *testing.T) {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "here", Labels: map[string]string{corev1.LabelTopologyZone: "a"}},
		Spec:       corev1.NodeSpec{PodCIDR: "10.244.1.0/24", PodCIDRs: []string{"10.244.1.0/24", "fd44::1/64"}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: "here"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
			{Type: corev1.NodeInternalIP, Address: "2001:db8::1"}, {Type: corev1.NodeExternalIP, Address: "203.0.113.1"},
		}},
	}
	require.Equal(t, resolve.Peer{
		Name: "here", Self: true,
		Addrs:    []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd44::/64")},
	}, resolve.PeerOf(n, "here"))
	require.Equal(t, "a", resolve.ZoneOf(n))
}
