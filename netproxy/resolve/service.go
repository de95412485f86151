package resolve

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// labelProxyName on a service says that another proxy serves it.
const labelProxyName = "service.kubernetes.io/service-proxy-name"

// Protocol is the number of a transport protocol.
type Protocol uint8

// The protocols that can be served.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// Front is where clients reach a service. The unspecified address of a family stands for every address of every node
// (a NodePort).
type Front struct {
	Addr     netip.Addr
	Port     uint16
	Protocol Protocol
	External bool // meant for clients outside the cluster, too
}

// PortID names one port of a service for one address family.
type PortID struct {
	Namespace, Name, Port string
	Protocol              Protocol
	IPv6                  bool
}

// ServicePort is one port of a service for one address family: its fronts and who answers.
type ServicePort struct {
	ID     PortID
	Fronts []Front

	// Cluster is for clients anywhere, Local those of it on this node; both are sorted.
	Cluster, Local []netip.AddrPort

	// Serving holds every endpoint that still answers, also those in neither list; the value says whether it is
	// terminating. Flows to them may go on; flows to others must move.
	Serving map[netip.AddrPort]bool

	InternalLocal bool          // clients of the cluster get Local
	ExternalLocal bool          // clients from outside get Local
	Terminating   bool          // the lists hold endpoints that terminate, for want of others
	Affinity      time.Duration // how long a client keeps its endpoint; 0 is not at all
}

// Problem is a wish of a service that cannot be fulfilled.
type Problem struct {
	Reason  string // CamelCase, fit for an Event
	Message string
}

// Service is all that the datapath needs to know about a service.
type Service struct {
	Name     types.NamespacedName
	Ports    []ServicePort
	Refuse   []netip.Addr // cluster addresses: what no port takes is refused
	Problems []Problem
}

// Node is what resolving needs to know about this node.
type Node struct {
	Name, Zone string
}

// Resolve computes what the datapath should hold for one service. A service that is none of ours (headless, an
// ExternalName, another proxy's, nil) resolves to nothing.
func Resolve(svc *corev1.Service, epSlices []*discoveryv1.EndpointSlice, node Node) Service {
	if !served(svc) {
		return Service{}
	}
	out := Service{Name: types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}}
	out.Refuse = clusterIPs(svc)
	lb, problems := balancerIPs(svc)
	out.Problems = problems
	if svc.Spec.HealthCheckNodePort != 0 {
		out.Problems = append(out.Problems, Problem{
			Reason:  "UnsupportedHealthCheck",
			Message: "healthCheckNodePort is not answered: a load balancer that asks it takes this node for unhealthy",
		})
	}
	for i := range svc.Spec.Ports {
		port := &svc.Spec.Ports[i]
		proto, ok := protocolOf(port.Protocol)
		if !ok {
			out.Problems = append(out.Problems, Problem{
				Reason:  "UnsupportedProtocol",
				Message: "port " + port.Name + ": protocol " + string(port.Protocol) + " is not served",
			})
			continue
		}
		for _, v6 := range []bool{false, true} {
			fronts := frontsOf(svc, port, proto, lb, v6)
			if len(fronts) == 0 {
				continue
			}
			out.Ports = append(out.Ports, resolvePort(svc, port, fronts, epSlices, node, v6))
		}
	}
	return out
}

func served(svc *corev1.Service) bool {
	if svc == nil || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return false
	}
	if svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return false
	}
	_, foreign := svc.Labels[labelProxyName]
	return !foreign
}

func protocolOf(p corev1.Protocol) (Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return TCP, true
	case corev1.ProtocolUDP:
		return UDP, true
	default:
		return 0, false
	}
}

func resolvePort(svc *corev1.Service, port *corev1.ServicePort, fronts []Front, epSlices []*discoveryv1.EndpointSlice,
	node Node, v6 bool,
) ServicePort {
	out := ServicePort{
		ID: PortID{
			Namespace: svc.Namespace, Name: svc.Name, Port: port.Name, Protocol: fronts[0].Protocol, IPv6: v6,
		},
		Fronts:        fronts,
		InternalLocal: policyIsLocal(svc.Spec.InternalTrafficPolicy),
		ExternalLocal: svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		Affinity:      affinityOf(svc),
	}
	eps := collect(epSlices, port.Name, fronts[0].Protocol, node.Name, v6)
	var clusterEnding, localEnding bool
	out.Cluster, clusterEnding = choose(byTopology(eps, node), eps)
	local := only(eps, func(e endpoint) bool { return e.local })
	out.Local, localEnding = choose(local, local)
	out.Terminating = clusterEnding || localEnding && (out.InternalLocal || out.ExternalLocal)
	out.Serving = make(map[netip.AddrPort]bool, len(eps))
	for _, e := range eps {
		if e.serving || e.ready {
			out.Serving[e.addr] = e.terminating
		}
	}
	return out
}

func policyIsLocal(p *corev1.ServiceInternalTrafficPolicy) bool {
	return p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal
}

func affinityOf(svc *corev1.Service) time.Duration {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := int32(corev1.DefaultClientIPServiceAffinitySeconds)
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

func clusterIPs(svc *corev1.Service) []netip.Addr {
	ips := svc.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{svc.Spec.ClusterIP}
	}
	return parseAll(ips)
}

// parseAll leaves out what is no address; the API has validated them.
func parseAll(texts []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range texts {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// balancerIPs are the addresses of a load balancer that delivers packets with its own address (VIP mode).
func balancerIPs(svc *corev1.Service) ([]netip.Addr, []Problem) {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil, nil
	}
	var texts []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IP != "" && (in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP) {
			texts = append(texts, in.IP)
		}
	}
	if len(svc.Spec.LoadBalancerSourceRanges) > 0 {
		return nil, []Problem{{
			Reason:  "UnsupportedSourceRanges",
			Message: "loadBalancerSourceRanges cannot be enforced: load balancer addresses are not served",
		}}
	}
	return parseAll(texts), nil
}

func frontsOf(svc *corev1.Service, port *corev1.ServicePort, proto Protocol, lb []netip.Addr, v6 bool) []Front {
	var out []Front
	add := func(a netip.Addr, p int32, external bool) {
		if a.Is6() == v6 {
			out = append(out, Front{Addr: a, Port: uint16(p), Protocol: proto, External: external})
		}
	}
	families := map[bool]bool{}
	for _, a := range clusterIPs(svc) {
		families[a.Is6()] = true
		add(a, port.Port, false)
	}
	for _, a := range parseAll(svc.Spec.ExternalIPs) {
		add(a, port.Port, true)
	}
	for _, a := range lb {
		add(a, port.Port, true)
	}
	if port.NodePort != 0 && families[v6] {
		unspecified := netip.IPv4Unspecified()
		if v6 {
			unspecified = netip.IPv6Unspecified()
		}
		add(unspecified, port.NodePort, true)
	}
	slices.SortFunc(out, func(a, b Front) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
	})
	return slices.CompactFunc(out, func(a, b Front) bool { return a.Addr == b.Addr && a.Port == b.Port })
}
