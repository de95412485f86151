package apiserver

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/rs/zerolog"
	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/util/net"

	"github.com/rutter-project/rutter/apiserver/internal/audit"
	"github.com/rutter-project/rutter/apiserver/pki"
	"github.com/rutter-project/rutter/bus"
)

// Config is what an API server is made of. DefaultConfig fills what has a default.
type Config struct {
	// ID names this API server among others; it is part of its cause key in etcd.
	ID string
	// Listen is the TCP address to serve on.
	Listen string
	// Advertise is where pods and other machines reach this server.
	Advertise netip.Addr
	// Hosts are further names and addresses for the serving certificate.
	Hosts []string
	// ServiceCIDR is the range of cluster IPs; its first address is the API's own.
	ServiceCIDR netip.Prefix
	// DNS is the cluster IP of the DNS service, in ServiceCIDR.
	DNS netip.Addr
	// NodePorts is the range of node ports.
	NodePorts net.PortRange
	// SealFile holds the key that Secrets are sealed with; it is made if missing.
	SealFile string
	// EventTTL is how long Kubernetes Events are kept.
	EventTTL time.Duration
	// Access is who is let in beside the cluster's own, and what is recorded.
	Access AccessConfig
	// Serving is how connections are served, and how they end.
	Serving ServingConfig

	// KeyframeEvents is how many changes lie between two keyframes at least: what of
	// the past has to be read to make a state of it.
	KeyframeEvents int
	// PastCacheBytes is about how much memory states of the past take that were asked
	// for.
	PastCacheBytes int64

	Etcd *clientv3.Client
	PKI  *pki.Authority
	// Bus is where committed changes are published; nil publishes nothing, for tests
	// of the API alone.
	Bus *bus.Client
	// RecoverBus is called when the bus has lost its streams; optional.
	RecoverBus func() error
	// BusMended tells that the bus has put damaged files of its streams aside; optional.
	BusMended <-chan struct{}
	// Flags are the settings of the program, by name, for who asks how it was started;
	// optional. No value may be a secret.
	Flags map[string]string
	Log   zerolog.Logger
}

// Issuer is the name of the service-account token issuer, and its only audience by default.
const Issuer = "https://kubernetes.default.svc.cluster.local"

// maxRequestBytes is upstream's bound of a request's body.
const maxRequestBytes = 3 << 20

// DefaultConfig returns the defaults: kube-apiserver's where it has one.
func DefaultConfig() Config {
	return Config{
		ID:          "apiserver",
		Listen:      ":6443",
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
		DNS:         netip.MustParseAddr("10.96.0.10"),
		NodePorts:   net.PortRange{Base: 30000, Size: 2768}, // to 32767
		EventTTL:    time.Hour,
		Access:      AccessConfig{Audit: audit.DefaultConfig()},
		Serving:     DefaultServingConfig(),

		KeyframeEvents: 20_000,
		PastCacheBytes: 128 << 20,
	}
}

// Validate names the first field that is missing or wrong.
func (c Config) Validate() error {
	switch {
	case c.ID == "":
		return errors.New("apiserver: ID is empty")
	case c.Listen == "":
		return errors.New("apiserver: Listen is empty; give an address such as :6443")
	case !c.Advertise.IsValid():
		return errors.New("apiserver: Advertise is not an IP address")
	case !c.ServiceCIDR.IsValid() || c.ServiceCIDR.Masked() != c.ServiceCIDR:
		return fmt.Errorf("apiserver: ServiceCIDR %q is not a network such as 10.96.0.0/16", c.ServiceCIDR)
	case !c.ServiceCIDR.Contains(c.DNS):
		return fmt.Errorf("apiserver: DNS address %s is outside ServiceCIDR %s", c.DNS, c.ServiceCIDR)
	case c.SealFile == "":
		return errors.New("apiserver: SealFile is empty")
	case c.Etcd == nil || c.PKI == nil:
		return errors.New("apiserver: Etcd and PKI are required")
	case c.KeyframeEvents < 1 || c.PastCacheBytes < 1:
		return errors.New("apiserver: KeyframeEvents and PastCacheBytes must be positive")
	case c.NodePorts.Base < 1 || c.NodePorts.Size < 1 || c.NodePorts.Base+c.NodePorts.Size > 1<<16:
		return fmt.Errorf("apiserver: NodePorts from %d on, %d of them, are no range of ports such as 30000-32767", c.NodePorts.Base, c.NodePorts.Size)
	case c.EventTTL < time.Second:
		return fmt.Errorf("apiserver: EventTTL %s is less than a second", c.EventTTL)
	}
	if err := c.Serving.Validate(); err != nil {
		return fmt.Errorf("apiserver: %w", err)
	}
	return c.Access.Validate()
}
