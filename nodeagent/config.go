package nodeagent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/rutter-project/rutter/nodeagent/internal/daemon"
)

// Config is all that is fixed about a node.
type Config struct {
	NodeName string            `json:"nodeName"`
	Labels   map[string]string `json:"labels,omitempty"`
	Taints   []corev1.Taint    `json:"taints,omitempty"`
	NodeIPs  []netip.Addr      `json:"nodeIPs,omitempty"` // empty: found on the node's devices

	DataDir string `json:"dataDir"` // persistent: pods, images, containerd's root
	RunDir  string `json:"runDir"`  // lost with the machine's memory: sockets, namespaces, mounts
	LogDir  string `json:"logDir"`  // container logs

	ContainerdSocket string `json:"containerdSocket,omitempty"` // of a containerd that others run; empty: the agent runs its own
	ContainerdBinary string `json:"containerdBinary"`
	Snapshotter      string `json:"snapshotter"`
	CgroupRoot       string `json:"cgroupRoot"` // the node's cgroup is CgroupRoot/NodeName

	Listen        string        `json:"listen"` // address of the node's API
	CertFile      string        `json:"certFile"`
	KeyFile       string        `json:"keyFile"`
	ClientCAFile  string        `json:"clientCAFile,omitempty"` // who may prove themselves by certificate
	StreamTimeout time.Duration `json:"streamTimeout"`          // idle exec, attach and port-forward end after it

	ClusterDNS    []string `json:"clusterDNS,omitempty"`
	ClusterDomain string   `json:"clusterDomain"`
	ResolvConf    string   `json:"resolvConf"` // the node's own

	MaxPods        int64               `json:"maxPods"`
	Reserved       corev1.ResourceList `json:"reserved,omitempty"` // taken off the capacity
	PodPidsLimit   int64               `json:"podPidsLimit"`       // per container; 0 means none
	SeccompDefault bool                `json:"seccompDefault"`

	LogMaxSize  int64 `json:"logMaxSize"`  // bytes of a container's log before it is rotated
	LogMaxFiles int   `json:"logMaxFiles"` // including the one being written

	LeaseDuration  time.Duration `json:"leaseDuration"`
	RenewInterval  time.Duration `json:"renewInterval"`
	BackoffFirst   time.Duration `json:"backoffFirst"` // before the second restart or pull
	BackoffMax     time.Duration `json:"backoffMax"`
	KubeletVersion string        `json:"kubeletVersion"` // as the node's status shows it
}

// DefaultConfig returns a node's configuration with every default; the name
// and the certificate are left to the caller.
func DefaultConfig() Config {
	return Config{
		DataDir: "/var/lib/rutter", RunDir: "/run/rutter", LogDir: "/var/log/pods",
		ContainerdBinary: "containerd", Snapshotter: "overlayfs", CgroupRoot: "/rutter",
		Listen: ":10250", StreamTimeout: 4 * time.Hour,
		ClusterDNS: []string{"10.96.0.10"}, ClusterDomain: "cluster.local", ResolvConf: "/etc/resolv.conf",
		MaxPods: 110, LogMaxSize: 10 << 20, LogMaxFiles: 5,
		LeaseDuration: 40 * time.Second, RenewInterval: 10 * time.Second,
		BackoffFirst: 10 * time.Second, BackoffMax: 5 * time.Minute,
		KubeletVersion: "v1.37.2",
	}
}

// maxSocket is the longest path of a socket the kernel takes.
const maxSocket = 107

// Validate returns every fault of the configuration.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	for _, msg := range validation.IsDNS1123Subdomain(c.NodeName) {
		check(false, "nodeName %q: %s", c.NodeName, msg)
	}
	for name, path := range map[string]string{"dataDir": c.DataDir, "runDir": c.RunDir, "logDir": c.LogDir, "cgroupRoot": c.CgroupRoot} {
		check(filepath.IsAbs(path), "%s %q must be an absolute path", name, path)
	}
	check(len(c.socket())+len(".ttrpc") <= maxSocket, "containerd's socket %q is longer than %d characters", c.socket(), maxSocket)
	_, _, err := net.SplitHostPort(c.Listen)
	check(err == nil, "listen %q: %v", c.Listen, err)
	check(c.CertFile != "" && c.KeyFile != "", "certFile and keyFile are needed")
	check(c.MaxPods > 0, "maxPods must be positive")
	check(c.PodPidsLimit >= 0, "podPidsLimit must not be negative")
	check(c.LogMaxSize >= 4096, "logMaxSize must be at least 4096")
	check(c.LogMaxFiles >= 2, "logMaxFiles must be at least 2")
	check(c.RenewInterval > 0 && c.LeaseDuration >= 2*c.RenewInterval, "leaseDuration must be at least twice renewInterval")
	check(c.BackoffFirst > 0 && c.BackoffMax >= c.BackoffFirst, "backoffMax must be at least backoffFirst, and both positive")
	check(c.StreamTimeout > 0, "streamTimeout must be positive")
	check(c.Snapshotter != "", "snapshotter is needed")
	for _, s := range c.ClusterDNS {
		_, err := netip.ParseAddr(s)
		check(err == nil, "clusterDNS %q is not an address", s)
	}
	return errors.Join(errs...)
}

func (c Config) podsDir() string   { return filepath.Join(c.DataDir, "pods", c.NodeName) }
func (c Config) runDir() string    { return filepath.Join(c.RunDir, c.NodeName) }
func (c Config) memoryDir() string { return filepath.Join(c.runDir(), "memory") }
func (c Config) namespace() string { return "rutter-" + c.NodeName }
func (c Config) cgroup() string    { return filepath.Join(c.CgroupRoot, c.NodeName) }

func (c Config) socket() string {
	if c.ContainerdSocket != "" {
		return c.ContainerdSocket
	}
	return filepath.Join(c.runDir(), "containerd.sock")
}

// daemon is the containerd that the agent runs itself.
func (c Config) daemon() daemon.Config {
	return daemon.Config{
		Binary: c.ContainerdBinary, Root: filepath.Join(c.DataDir, "containerd", c.NodeName),
		State: filepath.Join(c.runDir(), "containerd"), Socket: c.socket(),
	}
}
