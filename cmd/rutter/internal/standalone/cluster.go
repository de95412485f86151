package standalone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/go-logr/zerologr"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/apiserver/etcd"
	"github.com/rutter-project/rutter/apiserver/pki"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/reconcilers"
	"github.com/rutter-project/rutter/scheduler"
	"github.com/rutter-project/rutter/schemas"
)

// Identities of the control plane's parts.
const (
	// OperatorName is the bus user of the operator's commands on this machine.
	OperatorName    = "rutter:operator"
	reconcilersName = "rutter:reconcilers"
	schedulerName   = "rutter:scheduler"
	administrators  = "system:masters"
	nodesGroup      = "system:nodes"
)

// Cluster is a running cluster. Run does everything; it is used once.
type Cluster struct {
	cfg       Config
	progress  *Progress
	log       zerolog.Logger
	ca        *pki.Authority
	etcd      *etcd.Etcd
	busd      *bus.Server
	bus       *bus.Client
	api       atomic.Pointer[apiserver.Server] // asked by the bus before it is there
	informers *bus.Informers
}

// New returns a cluster that will report its progress.
func New(cfg Config, progress *Progress) *Cluster { return &Cluster{cfg: cfg, progress: progress} }

// Run starts everything, calls ready when a node is Ready, and returns when the context
// ends or a part fails. State is kept; pods keep running.
func (c *Cluster) Run(ctx context.Context, ready func(*Progress)) (err error) {
	if err := c.cfg.Validate(); err != nil {
		return err
	}
	if err := c.cfg.CheckMachine(); err != nil {
		return err
	}
	lock, err := c.cfg.claim()
	if err != nil {
		return err
	}
	defer lock.Close()
	closeLog, err := c.openLog()
	if err != nil {
		return err
	}
	defer closeLog()
	if err := c.identify(); err != nil {
		return err
	}
	if err := c.startStores(ctx); err != nil {
		return errors.Join(err, c.closeStores())
	}
	defer func() { err = errors.Join(err, c.closeStores()) }()
	return c.runParts(ctx, ready)
}

// openLog sends everybody's log to one file.
func (c *Cluster) openLog() (func(), error) {
	level, err := zerolog.ParseLevel(c.cfg.LogLevel)
	if err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(c.cfg.logFile()), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(c.cfg.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	zerolog.TimeFieldFormat = time.RFC3339Nano
	c.log = zerolog.New(f).Level(level).With().Timestamp().Logger()
	library := c.log.With().Str("component", "library").Logger().Level(zerolog.WarnLevel)
	klog.SetLogger(zerologr.New(&library))
	return func() { _ = f.Close() }, nil
}

// identify makes certificates and the kubeconfig.
func (c *Cluster) identify() error {
	if !c.cfg.Address.IsValid() {
		address, err := machineAddress()
		if err != nil {
			return err
		}
		c.cfg.Address = address
	}
	ca, err := pki.Load(c.cfg.pkiDir(), c.cfg.Name)
	if err != nil {
		return err
	}
	c.ca = ca
	if _, err := ca.Issue(operatorLeaf); err != nil {
		return err
	}
	if err := c.cfg.writeKubeconfig(ca); err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	c.progress.Done("certificates and kubeconfig")
	return nil
}

var operatorLeaf = pki.Leaf{Name: "operator", CommonName: OperatorName, Organizations: []string{administrators}, Client: true}

// startStores starts etcd and the bus.
func (c *Cluster) startStores(ctx context.Context) error {
	var err error
	c.etcd, err = etcd.Start(ctx, etcd.Config{Dir: c.cfg.etcdDir(), LogFile: c.cfg.etcdLog()})
	if err != nil {
		return err
	}
	c.progress.Done("etcd")
	serving, err := c.ca.Issue(pki.Leaf{Name: "bus", CommonName: "rutter-bus", Hosts: []string{"localhost", "127.0.0.1", c.cfg.Address.String()}, Server: true})
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(serving.CertFile, serving.KeyFile)
	if err != nil {
		return err
	}
	cfg := bus.DefaultServerConfig(c.cfg.busDir())
	cfg.Name = c.cfg.Name
	cfg.Listen = fmt.Sprintf("0.0.0.0:%d", c.cfg.BusPort)
	cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientCAs: c.ca.Pool(), ClientAuth: tls.VerifyClientCertIfGiven}
	cfg.CoreUsers = []string{OperatorName}
	cfg.Authorize = c.authorize
	if c.busd, err = bus.NewServer(cfg, c.log.With().Str("component", "bus").Logger()); err != nil {
		return err
	}
	if err := c.busd.Start(ctx); err != nil {
		return err
	}
	c.bus, err = bus.Connect(ctx, bus.ClientConfig{Name: "control plane", Server: c.busd}, c.log)
	if err != nil {
		return err
	}
	c.progress.Done("NATS JetStream")
	return c.newAPI()
}

func (c *Cluster) newAPI() error {
	cfg := apiserver.DefaultConfig()
	cfg.Listen = fmt.Sprintf(":%d", c.cfg.APIPort)
	cfg.Advertise = c.cfg.Address
	cfg.SealFile = c.cfg.SealFile()
	cfg.Etcd, cfg.PKI, cfg.Log = c.etcd.Client(), c.ca, c.log
	cfg.Access, cfg.Serving, cfg.Flags = c.cfg.Access, c.cfg.Serving, c.cfg.Flags
	cfg.Bus, cfg.RecoverBus, cfg.BusMended = c.bus, c.busd.Recover, c.busd.Mended()
	api, err := apiserver.New(cfg)
	if err != nil {
		return err
	}
	c.api.Store(api)
	return nil
}

// authorize lets the API server decide who may read the bus.
func (c *Cluster) authorize(ctx context.Context, credentials bus.Credentials) (bus.Grant, error) {
	api := c.api.Load()
	if api == nil {
		return bus.Grant{}, errors.New("the API server does not serve yet")
	}
	return api.Authorize(ctx, credentials)
}

// runParts runs everything that talks to the stores, until the context ends or one
// part fails. Parts are stopped together; the stores outlive them.
func (c *Cluster) runParts(ctx context.Context, ready func(*Progress)) error {
	g, ctx := errgroup.WithContext(ctx)
	api := c.api.Load()
	g.Go(func() error { return named("API server", api.Run(ctx)) })
	g.Go(func() error { return named("etcd", c.watchEtcd(ctx)) })
	if !c.cfg.KeepMemory {
		g.Go(func() error { return giveBack(ctx) })
	}
	g.Go(func() error {
		select {
		case <-api.Ready():
		case <-ctx.Done():
			return nil
		}
		c.progress.Done("API server, relay and cluster basics")
		if !c.cfg.APIOnly {
			return c.runControllers(ctx, g, ready)
		}
		c.started(ready)
		return nil
	})
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func named(part string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%s: %w", part, err)
}

func (c *Cluster) watchEtcd(ctx context.Context) error {
	select {
	case err := <-c.etcd.Failed():
		return err
	case <-ctx.Done():
		return nil
	}
}

// runControllers starts what reads the bus.
func (c *Cluster) runControllers(ctx context.Context, g *errgroup.Group, ready func(*Progress)) error {
	c.informers = bus.NewInformers(c.bus, c.log)
	controllers, err := c.reconcilers()
	if err != nil {
		return err
	}
	sched, err := c.scheduler()
	if err != nil {
		return err
	}
	var machine *node
	if !c.cfg.NoNode {
		if machine, err = c.newNode(); err != nil {
			return err
		}
	}
	g.Go(func() error { return named("informers", c.informers.Run(ctx)) })
	g.Go(func() error { return named("reconcilers", controllers.Run(ctx)) })
	g.Go(func() error { return named("scheduler", sched.Run(ctx)) })
	if err := c.informers.WaitForSync(ctx); err != nil {
		return named("informers", err)
	}
	c.progress.Done("reconcilers and scheduler")
	if machine != nil {
		g.Go(func() error { return named("node", machine.Run(ctx)) })
		if err := machine.WaitReady(ctx); err != nil {
			return named("node", err)
		}
		c.progress.Done("node " + c.cfg.NodeName + " is Ready")
	}
	c.started(ready)
	return nil
}

func (c *Cluster) started(ready func(*Progress)) {
	debug.FreeOSMemory() // starting makes much garbage, once
	ready(c.progress)
}

func (c *Cluster) reconcilers() (*reconcilers.Reconcilers, error) {
	cfg := reconcilers.DefaultConfig()
	cfg.Sign = c.ca.SignRequest
	var err error
	if cfg.Token, err = apiserver.SecretTokens(c.cfg.Access, c.ca); err != nil {
		return nil, err
	}
	cfg.API, err = c.connection(pki.Leaf{Name: "reconcilers", CommonName: reconcilersName, Organizations: []string{administrators}, Client: true})
	if err != nil {
		return nil, err
	}
	cfg.RootCA, cfg.Source, cfg.Log = c.ca.CAPEM(), c.informers, c.log
	return reconcilers.New(cfg)
}

func (c *Cluster) scheduler() (*scheduler.Scheduler, error) {
	cfg := scheduler.DefaultConfig()
	var err error
	cfg.API, err = c.connection(pki.Leaf{Name: "scheduler", CommonName: schedulerName, Organizations: []string{administrators}, Client: true})
	if err != nil {
		return nil, err
	}
	cfg.Source, cfg.Log = c.informers, c.log.With().Str("component", "scheduler").Logger()
	return scheduler.New(cfg)
}

func (c *Cluster) closeStores() error {
	var errs []error
	if c.bus != nil {
		c.bus.Close()
	}
	if c.busd != nil {
		c.busd.Close()
	}
	if c.etcd != nil {
		errs = append(errs, c.etcd.Close())
	}
	return errors.Join(errs...)
}

// api is a connection to the API server as one of the control plane's parts.
func (c *Cluster) connection(leaf pki.Leaf) (*rest.Config, error) {
	pair, err := c.ca.Issue(leaf)
	if err != nil {
		return nil, err
	}
	cfg := &rest.Config{
		Host: fmt.Sprintf("https://127.0.0.1:%d", c.cfg.APIPort), QPS: -1,
		ContentConfig:   rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf", AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"},
		TLSClientConfig: rest.TLSClientConfig{CAFile: c.ca.CAFile(), CertFile: pair.CertFile, KeyFile: pair.KeyFile},
	}
	cfg.Wrap(schemas.CauseTransport)
	return cfg, nil
}
