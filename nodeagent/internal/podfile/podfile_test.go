package podfile

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var dns = DNS{Servers: []string{"10.96.0.10"}, Domain: "cluster.local", HostConfig: "# comment\nnameserver 192.0.2.1\nnameserver bad\nsearch example.com .\noptions timeout:1\n"}

func TestResolv(t *testing.T) {
	two := "2"
	for name, tc := range map[string]struct {
		spec corev1.PodSpec
		want string
	}{
		"cluster":          {corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst}, "search ns.svc.cluster.local svc.cluster.local cluster.local example.com\nnameserver 10.96.0.10\noptions ndots:5\n"},
		"host network":     {corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, HostNetwork: true}, "search example.com\nnameserver 192.0.2.1\noptions timeout:1\n"},
		"with host net":    {corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirstWithHostNet, HostNetwork: true}, "search ns.svc.cluster.local svc.cluster.local cluster.local example.com\nnameserver 10.96.0.10\noptions ndots:5\n"},
		"default":          {corev1.PodSpec{DNSPolicy: corev1.DNSDefault}, "search example.com\nnameserver 192.0.2.1\noptions timeout:1\n"},
		"none":             {corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"9.9.9.9"}, Searches: []string{"x"}, Options: []corev1.PodDNSConfigOption{{Name: "edns0"}}}}, "search x\nnameserver 9.9.9.9\noptions edns0\n"},
		"options replaced": {corev1.PodSpec{DNSPolicy: corev1.DNSDefault, DNSConfig: &corev1.PodDNSConfig{Options: []corev1.PodDNSConfigOption{{Name: "timeout", Value: &two}}}}, "search example.com\nnameserver 192.0.2.1\noptions timeout:2\n"},
		"three servers":    {corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"}}}, "nameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\n"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.want, Resolv(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: tc.spec}, dns))
		})
	}
}

func FuzzParseResolv(f *testing.F) {
	f.Add(dns.HostConfig)
	f.Fuzz(func(t *testing.T, s string) {
		r := parseResolv(s)
		for _, server := range r.servers {
			require.NotContains(t, server, " ")
		}
	})
}

func TestHostname(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: strings.Repeat("a", 62) + ".b"}}
	short, full := Hostname(pod, "cluster.local")
	require.Equal(t, strings.Repeat("a", 62), short, "cut to what the kernel takes, without a dot at the end")
	require.Empty(t, full)
	pod.Spec.Hostname, pod.Spec.Subdomain = "web-0", "web"
	short, full = Hostname(pod, "cluster.local")
	require.Equal(t, "web-0", short)
	require.Equal(t, "web-0.web.ns.svc.cluster.local", full)
	require.Contains(t, Hosts(pod, []string{"10.0.0.1", "fd00::1"}, "cluster.local"), "10.0.0.1\tweb-0.web.ns.svc.cluster.local\tweb-0\nfd00::1\t")
	pod.Spec.HostAliases = []corev1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"x", "y"}}}
	require.Contains(t, Hosts(pod, nil, "cluster.local"), "1.2.3.4\tx\ty\n")
}
