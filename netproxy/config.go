package netproxy

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"

	"github.com/rutter-project/rutter/netproxy/datapath"
)

// DNSConfig says how cluster names are answered.
type DNSConfig struct {
	Domain     string
	Service    types.NamespacedName // the service whose port 53 this node answers itself
	VIPs       []netip.Addr         // its cluster addresses, known before the service is
	Port       uint16               // on the node's own address in the pod range, behind the service's port 53
	ResolvConf string               // names the servers for all other names
}

// Config is a node's network. The pod ranges come from the Node object.
type Config struct {
	Datapath datapath.Config
	DNS      DNSConfig
	StateDir string // remembers which pod has which addresses
}

// DefaultConfig is the configuration of a node of that name, with its state under dataDir. The cgroup is the node's own
// directory in the cgroup2 file system; services are translated for the processes in it.
func DefaultConfig(node, dataDir string) (Config, error) {
	root, err := datapath.CgroupRoot()
	if err != nil {
		return Config{}, err
	}
	dp := datapath.DefaultConfig()
	dp.Node = node
	dp.Cgroup = filepath.Join(root, "rutter", node)
	dp.RunDir = filepath.Join("/run/rutter", node)
	return Config{
		Datapath: dp,
		DNS: DNSConfig{
			Domain:     "cluster.local",
			Service:    types.NamespacedName{Namespace: "kube-system", Name: "kube-dns"},
			VIPs:       []netip.Addr{netip.MustParseAddr("10.96.0.10")},
			Port:       10053,
			ResolvConf: "/etc/resolv.conf",
		},
		StateDir: filepath.Join(dataDir, "network", node),
	}, nil
}

// Validate tells what is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	if len(c.Datapath.PodCIDRs) > 0 {
		errs = append(errs, errors.New("pod ranges come from the Node object, not from the configuration"))
	}
	if !filepath.IsAbs(c.StateDir) {
		errs = append(errs, fmt.Errorf("state directory %q is not an absolute path", c.StateDir))
	}
	if c.DNS.Domain == "" {
		errs = append(errs, errors.New("no cluster domain"))
	}
	if c.DNS.Port == 0 {
		errs = append(errs, errors.New("no DNS port"))
	}
	return errors.Join(errs...)
}
