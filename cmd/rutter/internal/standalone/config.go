package standalone

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rutter-project/rutter/apiserver"
)

// Config is where the cluster lives on this machine.
type Config struct {
	// DataDir keeps everything that must survive; RunDir what may be lost at boot.
	DataDir, RunDir string
	// Name is the cluster's name in kubeconfigs.
	Name string
	// NodeName is this machine's Node.
	NodeName string
	// Address is where the API server and the node are reached; found if not given.
	Address netip.Addr
	// APIPort, BusPort and NodePort are TCP ports: API server, NATS, node agent.
	APIPort, BusPort, NodePort uint16
	// NoNode leaves out the node agent: an API with reconcilers and scheduler.
	NoNode bool
	// APIOnly leaves out all that acts on objects: an API with its events. It goes with
	// NoNode.
	APIOnly bool
	// Access is who is let in, and what is recorded of it.
	Access apiserver.AccessConfig
	// KeepMemory keeps for the next burst of requests what the last one used.
	KeepMemory bool
	// Serving is how the API server's connections are served, and how they end.
	Serving apiserver.ServingConfig
	// LogLevel is a zerolog level for the log file.
	LogLevel string
	// Flags are what the program was started with, for who asks the API server.
	Flags map[string]string
}

// DefaultConfig returns the defaults for this machine.
func DefaultConfig() Config {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "node"
	}
	return Config{
		DataDir: "/var/lib/rutter", RunDir: "/run/rutter", Name: "rutter",
		NodeName: strings.ToLower(host), APIPort: 6443, BusPort: 4222, NodePort: 10250, LogLevel: "info",
		Access: apiserver.DefaultConfig().Access, Serving: apiserver.DefaultServingConfig(),
	}
}

var dnsLabel = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)

// Validate names the first field that is wrong.
func (c Config) Validate() error {
	switch {
	case !filepath.IsAbs(c.DataDir):
		return fmt.Errorf("--data-dir %q is not an absolute path", c.DataDir)
	case !filepath.IsAbs(c.RunDir):
		return fmt.Errorf("--run-dir %q is not an absolute path", c.RunDir)
	case !dnsLabel.MatchString(c.NodeName):
		return fmt.Errorf("--node-name %q is not a DNS name: lower case letters, digits, '-' and '.'", c.NodeName)
	case !dnsLabel.MatchString(c.Name):
		return fmt.Errorf("--name %q is not a DNS name", c.Name)
	case c.APIPort == c.BusPort || c.APIPort == c.NodePort || c.BusPort == c.NodePort:
		return errors.New("--api-port, --bus-port and --node-port must differ")
	case c.APIOnly && !c.NoNode:
		return errors.New("--api-only runs no node; leave out the node as well")
	}
	if err := c.Serving.Validate(); err != nil {
		return err
	}
	return c.Access.Validate()
}

// SealFile holds the keys that Secrets are sealed with.
func (c Config) SealFile() string { return filepath.Join(c.pkiDir(), "seal.key") }

func (c Config) pkiDir() string        { return filepath.Join(c.DataDir, "pki") }
func (c Config) etcdDir() string       { return filepath.Join(c.DataDir, "etcd") }
func (c Config) busDir() string        { return filepath.Join(c.DataDir, "bus") }
func (c Config) logFile() string       { return filepath.Join(c.DataDir, "log", "rutter.log") }
func (c Config) etcdLog() string       { return filepath.Join(c.DataDir, "log", "etcd.log") }
func (c Config) lockFile() string      { return filepath.Join(c.DataDir, "lock") }
func (c Config) podLogs() string       { return filepath.Join(c.DataDir, "log", "pods") }
func (c Config) networkRunDir() string { return filepath.Join(c.RunDir, "network", c.NodeName) }

// Kubeconfig is the administrator's kubeconfig that Up writes.
func (c Config) Kubeconfig() string { return filepath.Join(c.DataDir, "admin.kubeconfig") }

// errNoAddress: pods could not reach the API server.
var errNoAddress = errors.New("this machine has no address that pods could reach; give one with --address")

// machineAddress is the first global unicast IPv4 address.
func machineAddress() (netip.Addr, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addresses {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().Is4() && prefix.Addr().IsGlobalUnicast() {
			return prefix.Addr(), nil
		}
	}
	return netip.Addr{}, errNoAddress
}
