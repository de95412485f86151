package reconcilers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/aggregation"
	"github.com/rutter-project/rutter/reconcilers/internal/bootstraptoken"
	"github.com/rutter-project/rutter/reconcilers/internal/certificates"
	"github.com/rutter-project/rutter/reconcilers/internal/deployment"
	"github.com/rutter-project/rutter/reconcilers/internal/endpoints"
	"github.com/rutter-project/rutter/reconcilers/internal/endpointslice"
	"github.com/rutter-project/rutter/reconcilers/internal/engine"
	"github.com/rutter-project/rutter/reconcilers/internal/garbage"
	"github.com/rutter-project/rutter/reconcilers/internal/namespace"
	"github.com/rutter-project/rutter/reconcilers/internal/nodeipam"
	"github.com/rutter-project/rutter/reconcilers/internal/nodelifecycle"
	"github.com/rutter-project/rutter/reconcilers/internal/podgc"
	"github.com/rutter-project/rutter/reconcilers/internal/protection"
	"github.com/rutter-project/rutter/reconcilers/internal/quota"
	"github.com/rutter-project/rutter/reconcilers/internal/replicaset"
	"github.com/rutter-project/rutter/reconcilers/internal/rootca"
	"github.com/rutter-project/rutter/reconcilers/internal/serviceaccount"
)

// Source hands out the one shared informer of a resource; bus.Informers is one.
type Source interface {
	For(gvr schema.GroupVersionResource, obj runtime.Object) cache.SharedIndexInformer
}

// Config is what the controllers work with. DefaultConfig fills what has a default.
type Config struct {
	// PodCIDR is the range of pod addresses; every node gets a network of NodeBits.
	PodCIDR  netip.Prefix
	NodeBits int
	// NodeGrace is how long a node may be silent before it counts as lost.
	NodeGrace time.Duration
	// FinishedPods is how many finished pods are kept.
	FinishedPods int
	// RootCA is the cluster's CA bundle (PEM), published in every namespace.
	RootCA []byte
	// Sign signs with the cluster's authority, for CertificateSigningRequests.
	Sign certificates.Sign
	// Token signs the tokens that Secrets hold.
	Token serviceaccount.Token

	// API is how to reach the API server; its transport must pass causes on.
	API    *rest.Config
	Source Source
	Log    zerolog.Logger
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		PodCIDR:   netip.MustParsePrefix("10.244.0.0/16"),
		NodeBits:  24,
		NodeGrace: nodelifecycle.GracePeriod, FinishedPods: podgc.DefaultThreshold,
	}
}

// Validate names the first field that is missing or wrong.
func (c Config) Validate() error {
	switch {
	case !c.PodCIDR.IsValid():
		return errors.New("reconcilers: PodCIDR is not a network such as 10.244.0.0/16")
	case c.NodeGrace <= 0:
		return fmt.Errorf("reconcilers: NodeGrace %s is not positive", c.NodeGrace)
	case len(c.RootCA) == 0:
		return errors.New("reconcilers: RootCA is empty")
	case c.Sign == nil:
		return errors.New("reconcilers: Sign is required")
	case c.Token == nil:
		return errors.New("reconcilers: Token is required")
	case c.API == nil || c.Source == nil:
		return errors.New("reconcilers: API and Source are required")
	}
	return nil
}

// Reconcilers is a set of controllers. Make it with New, run it once with Run.
type Reconcilers struct {
	controllers []*engine.Controller
	log         zerolog.Logger
}

// New makes all controllers. The API server must answer discovery; the informers may
// start before or after.
func New(cfg Config) (*Reconcilers, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Reconcilers{log: cfg.Log}
	for _, make := range []func(Config) (*engine.Controller, error){
		func(c Config) (*engine.Controller, error) {
			return nodelifecycle.New(c.client("node-lifecycle"), c.NodeGrace, c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return nodeipam.New(c.client("node-ipam"), c.PodCIDR, c.NodeBits, c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return namespace.New(c.client("namespace"), c.metadata("namespace"), c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return serviceaccount.New(c.client("service-account"), c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return serviceaccount.NewTokens(c.client("service-account-token"), c.Token, c.RootCA, c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return rootca.New(c.client("root-ca"), c.RootCA, c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return rootca.NewTrustBundle(c.client("trust-bundle"), c.RootCA, c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return deployment.New(c.client("deployment"), c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return replicaset.New(c.client("replicaset"), c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return replicaset.NewForReplicationControllers(c.client("replication-controller"), c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return endpointslice.New(c.api("endpointslice"), c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return aggregation.New(c.client("clusterrole-aggregation"), c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return endpoints.New(c.client("endpoints"), c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return podgc.New(c.client("pod-gc"), c.FinishedPods, c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return protection.New(c.client("storage-protection"), c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return bootstraptoken.New(c.client("bootstrap-token"), c.Source, c.Log)
		},
		quotas,
		func(c Config) (*engine.Controller, error) {
			return certificates.New(c.client("certificate-signing"), c.Sign, c.Source, c.Log)
		},
		func(c Config) (*engine.Controller, error) {
			return certificates.NewForPods(c.client("pod-certificate-cleaner"), c.Source, c.Log)
		},
		collector, // last: it reads what others read, as metadata only
	} {
		controller, err := make(cfg)
		if err != nil {
			return nil, fmt.Errorf("reconcilers: %w", err)
		}
		r.controllers = append(r.controllers, controller)
	}
	return r, nil
}

func quotas(c Config) (*engine.Controller, error) {
	client := c.client("resource-quota")
	return quota.New(client, restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())), c.Source, c.Log)
}

func collector(c Config) (*engine.Controller, error) {
	client := c.client("garbage-collector")
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	return garbage.New(c.metadata("garbage-collector"), client.Discovery(), mapper, c.Source, c.Log)
}

// api is the connection of one controller; its name is the User-Agent, and so the
// field manager and the agent in the history.
func (c Config) api(controller string) *rest.Config {
	config := rest.CopyConfig(c.API)
	config.UserAgent = controller + "-controller/rutter"
	config.QPS = -1
	return config
}

func (c Config) client(controller string) *kubernetes.Clientset {
	return kubernetes.NewForConfigOrDie(c.api(controller))
}

func (c Config) metadata(controller string) metadata.Interface {
	return metadata.NewForConfigOrDie(c.api(controller))
}

// Run runs all controllers until the context ends or one fails to start.
func (r *Reconcilers) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range r.controllers {
		g.Go(func() error { return c.Run(ctx) })
	}
	err := g.Wait()
	if errors.Is(err, context.Canceled) || (err != nil && ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled)) {
		return nil
	}
	return err
}
