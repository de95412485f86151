package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
)

// Sizes are the numbers of entries of the maps. Least-recently-used maps take their memory at once: about 90 bytes for
// an affinity, 160 for a translated flow.
type Sizes struct {
	Services, Slots, Backends uint32
	Affinity, Flows           uint32
	Pods, Routes, NodeAddrs   uint32
}

// records is the number of service records: each change of an entry takes one, and leaves one that rests.
func (s Sizes) records() uint32 { return 2 * s.Services }

// Config says what a node's datapath is and where it keeps its things.
type Config struct {
	Node string

	// NetNS is the path of the node's network namespace; empty is that of the process.
	NetNS string

	// Cgroup is the directory in the cgroup2 file system to whose processes services are translated.
	// It is made if it does not exist.
	Cgroup string

	BPFFS  string // mount point of the BPF file system; mounted if it is not
	RunDir string // pods' network namespaces are pinned in its netns folder

	PodCIDRs     []netip.Prefix // this node's, at most one of each family
	ClusterCIDRs []netip.Prefix // of all pods; traffic to them never leaves by the uplink

	// NodePortFirst and NodePortLast bound the node ports; 0 and 0 is none.
	NodePortFirst, NodePortLast uint16

	// Uplinks are the devices at which services are served to clients outside. Nil is every device that has an
	// address of global scope when the datapath is opened; empty is none.
	Uplinks []string

	VNI       uint32
	VXLANPort uint16
	MTU       int // of pods; 0 derives it from the uplink

	Sizes Sizes
}

// DefaultConfig is the configuration of a node with nothing special about it. Node and PodCIDRs have no default.
func DefaultConfig() Config {
	return Config{
		BPFFS:         "/sys/fs/bpf",
		RunDir:        "/run/rutter",
		ClusterCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		NodePortFirst: 30000, NodePortLast: 32767,
		VNI: 1, VXLANPort: 8472,
		Sizes: Sizes{
			Services: 65536, Slots: 1 << 20, Backends: 1 << 18,
			Affinity: 16384, Flows: 32768,
			Pods: 4096, Routes: 16384, NodeAddrs: 16384,
		},
	}
}

// Validate tells what is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	if c.Node == "" || strings.ContainsAny(c.Node, "/_") {
		errs = append(errs, fmt.Errorf("node name %q is none", c.Node))
	}
	for _, dir := range []string{c.Cgroup, c.BPFFS, c.RunDir} {
		if !filepath.IsAbs(dir) {
			errs = append(errs, fmt.Errorf("%q is not an absolute path", dir))
		}
	}
	families := map[bool]bool{}
	for _, p := range c.PodCIDRs {
		if families[p.Addr().Is6()] {
			errs = append(errs, fmt.Errorf("pod range %s: there is another one of its family", p))
		}
		families[p.Addr().Is6()] = true
		if p.Addr().BitLen()-p.Bits() < 3 {
			errs = append(errs, fmt.Errorf("pod range %s has no room for pods", p))
		}
	}
	if len(families) == 0 {
		errs = append(errs, errors.New("no pod range"))
	}
	if c.NodePortFirst > c.NodePortLast {
		errs = append(errs, fmt.Errorf("node ports %d to %d are no range", c.NodePortFirst, c.NodePortLast))
	}
	s := c.Sizes
	for _, n := range []uint32{
		s.Services, s.Slots, s.Backends, s.Affinity, s.Flows, s.Pods, s.Routes, s.NodeAddrs,
	} {
		if n == 0 {
			errs = append(errs, errors.New("a map of size 0"))
			break
		}
	}
	return errors.Join(errs...)
}

// HostAddr is the node's own address in one of its pod ranges.
func HostAddr(podCIDR netip.Prefix) netip.Addr {
	return podCIDR.Masked().Addr().Next()
}

// natAddr is the address that translated packets come from where their own source cannot be kept; no device has it.
func natAddr(podCIDR netip.Prefix) netip.Addr {
	return HostAddr(podCIDR).Next()
}

// cidr returns the node's pod range of a family.
func (c Config) cidr(v6 bool) (netip.Prefix, bool) {
	for _, p := range c.PodCIDRs {
		if p.Addr().Is6() == v6 {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// pinDir is the node's directory in the BPF file system, which takes no dots in names.
func (c Config) pinDir() string {
	return filepath.Join(c.BPFFS, "rutter", strings.ReplaceAll(c.Node, ".", "_"))
}

func (c Config) netnsDir() string {
	return filepath.Join(c.RunDir, "netns")
}
