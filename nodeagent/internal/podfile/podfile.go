// Package podfile writes what a pod finds in /etc: hosts, hostname and
// resolv.conf. The deciding functions are pure.
package podfile

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// DNS is the cluster's name service and what the node itself uses.
type DNS struct {
	Servers    []string // the cluster's
	Domain     string   // of the cluster, such as cluster.local
	HostConfig string   // the node's own resolv.conf
}

// Limits of what a resolver reads.
const (
	maxServers  = 3
	maxSearches = 32
	maxHostName = 63
)

// Hostname is the name a pod has inside, and its fully qualified one if it has a subdomain.
func Hostname(pod *corev1.Pod, domain string) (short, full string) {
	if o := pod.Spec.HostnameOverride; o != nil {
		return *o, ""
	}
	short = pod.Name
	if pod.Spec.Hostname != "" {
		short = pod.Spec.Hostname
	}
	if len(short) > maxHostName {
		short = strings.TrimRight(short[:maxHostName], "-.")
	}
	if pod.Spec.Subdomain != "" {
		full = fmt.Sprintf("%s.%s.%s.svc.%s", short, pod.Spec.Subdomain, pod.Namespace, domain)
	}
	return short, full
}

// Hosts is the content of /etc/hosts of a pod with its own network.
func Hosts(pod *corev1.Pod, ips []string, domain string) string {
	var b strings.Builder
	b.WriteString("# Kubernetes-managed hosts file. Written by the node agent.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
	short, full := Hostname(pod, domain)
	for _, ip := range ips {
		if full != "" {
			fmt.Fprintf(&b, "%s\t%s\t%s\n", ip, full, short)
		} else {
			fmt.Fprintf(&b, "%s\t%s\n", ip, short)
		}
	}
	b.WriteString(aliases(pod))
	return b.String()
}

func aliases(pod *corev1.Pod) string {
	var b strings.Builder
	for i, a := range pod.Spec.HostAliases {
		if i == 0 {
			b.WriteString("\n# Aliases of the pod\n")
		}
		fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
	}
	return b.String()
}

// resolver is the content of a resolv.conf.
type resolver struct{ servers, searches, options []string }

// ParseResolv reads a resolv.conf; lines it does not know are skipped.
func parseResolv(s string) resolver {
	var r resolver
	for line := range strings.Lines(s) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") || strings.HasPrefix(fields[0], ";") {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if _, err := netip.ParseAddr(fields[1]); err == nil {
				r.servers = append(r.servers, fields[1])
			}
		case "search", "domain":
			r.searches = nil
			for _, d := range fields[1:] {
				if d != "." {
					r.searches = append(r.searches, strings.TrimSuffix(d, "."))
				}
			}
		case "options":
			r.options = fields[1:]
		}
	}
	return r
}

// Resolv is the content of a pod's resolv.conf by its DNS policy.
func Resolv(pod *corev1.Pod, dns DNS) string {
	host := parseResolv(dns.HostConfig)
	var r resolver
	policy := pod.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork {
		policy = corev1.DNSDefault
	}
	if policy == corev1.DNSClusterFirstWithHostNet || policy == "" {
		policy = corev1.DNSClusterFirst
	}
	switch policy {
	case corev1.DNSClusterFirst:
		if len(dns.Servers) == 0 {
			r = host
			break
		}
		r.servers = slices.Clone(dns.Servers)
		if dns.Domain != "" {
			r.searches = []string{pod.Namespace + ".svc." + dns.Domain, "svc." + dns.Domain, dns.Domain}
		}
		r.searches = append(r.searches, host.searches...)
		r.options = []string{"ndots:5"}
	case corev1.DNSDefault:
		r = host
	default: // None: only what the pod says
	}
	return merge(r, pod.Spec.DNSConfig).String()
}

func merge(r resolver, c *corev1.PodDNSConfig) resolver {
	if c == nil {
		return r
	}
	r.servers = append(r.servers, c.Nameservers...)
	r.searches = append(r.searches, c.Searches...)
	options := slices.Clone(r.options)
	for _, o := range c.Options {
		options = slices.DeleteFunc(options, func(have string) bool {
			name, _, _ := strings.Cut(have, ":")
			return name == o.Name
		})
		if o.Value != nil && *o.Value != "" {
			options = append(options, o.Name+":"+*o.Value)
		} else {
			options = append(options, o.Name)
		}
	}
	r.options = options
	return r
}

func unique(list []string, limit int) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) && len(out) < limit {
			out = append(out, s)
		}
	}
	return out
}

// String writes the file.
func (r resolver) String() string {
	var b strings.Builder
	if s := unique(r.searches, maxSearches); len(s) > 0 {
		b.WriteString("search " + strings.Join(s, " ") + "\n")
	}
	for _, s := range unique(r.servers, maxServers) {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(r.options) > 0 {
		b.WriteString("options " + strings.Join(r.options, " ") + "\n")
	}
	return b.String()
}

// Paths are the files of one pod.
type Paths struct{ Hosts, Hostname, Resolv string }

// In names the files in a pod's directory.
func In(dir string) Paths {
	return Paths{filepath.Join(dir, "etc-hosts"), filepath.Join(dir, "hostname"), filepath.Join(dir, "resolv.conf")}
}

// Write writes a pod's files. Of a pod on the host's network, hosts is the node's.
func Write(dir string, pod *corev1.Pod, ips []string, dns DNS) error {
	hosts := Hosts(pod, ips, dns.Domain)
	if pod.Spec.HostNetwork {
		node, err := os.ReadFile("/etc/hosts")
		if err != nil {
			return err
		}
		hosts = string(node) + aliases(pod)
	}
	short, full := Hostname(pod, dns.Domain)
	if fqdn := pod.Spec.SetHostnameAsFQDN; fqdn != nil && *fqdn && full != "" {
		short = full
	}
	p := In(dir)
	for path, content := range map[string]string{p.Hosts: hosts, p.Hostname: short + "\n", p.Resolv: Resolv(pod, dns)} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
