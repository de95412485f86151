package nodeagent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/daemon"
	"github.com/rutter-project/rutter/nodeagent/internal/engine"
	"github.com/rutter-project/rutter/nodeagent/internal/image"
	"github.com/rutter-project/rutter/nodeagent/internal/kubeletapi"
	"github.com/rutter-project/rutter/nodeagent/internal/logfile"
	"github.com/rutter-project/rutter/nodeagent/internal/nodestatus"
	"github.com/rutter-project/rutter/nodeagent/internal/objects"
	"github.com/rutter-project/rutter/nodeagent/internal/podfile"
	"github.com/rutter-project/rutter/nodeagent/internal/podstate"
	"github.com/rutter-project/rutter/nodeagent/internal/podwork"
	"github.com/rutter-project/rutter/nodeagent/internal/runspec"
	"github.com/rutter-project/rutter/nodeagent/internal/volume"
)

// Dependencies are what the agent is given by those who wire it.
type Dependencies struct {
	Client   kubernetes.Interface
	Pods     PodSource
	Network  Network
	Changes  ObjectChanges             // nil: ConfigMaps and Secrets are read anew for each use
	Services corelisters.ServiceLister // nil: containers get no service variables
	Log      zerolog.Logger
}

// Agent is the node agent.
type Agent struct {
	cfg      Config
	deps     Dependencies
	log      zerolog.Logger
	listener net.Listener
	machine  nodestatus.Machine
	ready    chan struct{}

	engine   *engine.Engine
	images   *image.Store
	objects  *objects.Store
	registry *registry
	keeper   *nodestatus.Keeper
	events   *announcer
	unready  atomic.Pointer[string]

	present      []corev1.ContainerImage // as of presentPulls; only report uses both
	presentPulls int
}

// New checks the configuration, makes the node's directories and listens, so
// that a port that is taken shows at once. It starts nothing.
func New(cfg Config, deps Dependencies) (*Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("node agent configuration: %w", err)
	}
	for _, dir := range []string{cfg.podsDir(), cfg.runDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	machine, err := nodestatus.ReadMachine(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	machine.Info.KubeletVersion = cfg.KubeletVersion
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for the node API: %w", err)
	}
	log := deps.Log.With().Str("node", cfg.NodeName).Logger()
	return &Agent{cfg: cfg, deps: deps, log: log, listener: l, machine: machine, ready: make(chan struct{})}, nil
}

// Addr is the address at which the node API is served.
func (a *Agent) Addr() net.Addr { return a.listener.Addr() }

// Ready is closed when the node can run pods.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Close frees what New took, when Run is never called.
func (a *Agent) Close() error { return a.listener.Close() }

// Run is the agent's life. When ctx ends it stops, and the node's pods and
// their containerd go on running for the next agent to adopt.
func (a *Agent) Run(ctx context.Context) error {
	defer func() { _ = a.listener.Close() }()
	if err := volume.Tmpfs(a.cfg.memoryDir(), 0); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	if a.cfg.ContainerdSocket == "" {
		d := daemon.New(a.cfg.daemon(), a.log)
		g.Go(func() error { return d.Run(ctx) })
		select {
		case <-d.Ready():
		case <-ctx.Done():
			return g.Wait()
		}
	}
	e, err := engine.Connect(ctx, engine.Config{Socket: a.cfg.socket(), Namespace: a.cfg.namespace(), Snapshotter: a.cfg.Snapshotter})
	if err != nil {
		return a.stop(g, err)
	}
	defer func() { _ = e.Close() }()
	if err := a.wire(ctx, e, g); err != nil {
		return a.stop(g, err)
	}
	close(a.ready)
	a.log.Info().Stringer("address", a.listener.Addr()).Msg("node agent runs")
	err = g.Wait()
	a.registry.wait()
	a.events.stop()
	return err
}

// stop ends the group with an error of our own.
func (a *Agent) stop(g *errgroup.Group, err error) error {
	g.Go(func() error { return err })
	return errors.Join(g.Wait())
}

// wire builds the parts and starts them in the order in which they need each other.
func (a *Agent) wire(ctx context.Context, e *engine.Engine, g *errgroup.Group) error {
	version, err := e.Version(ctx)
	if err != nil {
		return err
	}
	a.machine.Info.ContainerRuntimeVersion = "containerd://" + version
	watcher, err := logfile.NewWatcher()
	if err != nil {
		return err
	}
	certificate, cas, err := a.certificates()
	if err != nil {
		return err
	}
	a.engine, a.images = e, image.NewStore(e)
	a.objects = objects.New(a.deps.Client, a.deps.Changes != nil)
	a.events = newAnnouncer(ctx, a.deps.Client, a.cfg.NodeName)
	a.keeper = nodestatus.New(nodestatus.Config{
		Name: a.cfg.NodeName, Labels: a.cfg.Labels, Taints: a.cfg.Taints,
		LeaseDuration: a.cfg.LeaseDuration, RenewInterval: a.cfg.RenewInterval,
	}, a.deps.Client, a.report, a.log)
	deps, err := a.workDeps(watcher)
	if err != nil {
		return err
	}
	a.registry = newRegistry(deps, a.log)
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(newCollector(a))
	server := kubeletapi.New(kubeletapi.Config{
		Listener: a.listener, Certificate: certificate, ClientCAs: cas, Node: a.cfg.NodeName, IdleTimeout: a.cfg.StreamTimeout,
	}, &backend{a}, a.deps.Client, metrics, a.log)

	g.Go(func() error { return watcher.Run(ctx) })
	g.Go(func() error { return a.keeper.Run(ctx) })
	if err := a.registry.start(ctx); err != nil {
		return err
	}
	g.Go(func() error { return e.Run(ctx, a.registry, a.log) })
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error {
		return a.again(ctx, "pods", func() error { return a.deps.Pods.Run(ctx, a.cfg.NodeName, a.registry) })
	})
	if a.deps.Changes != nil {
		g.Go(func() error { return a.again(ctx, "object changes", func() error { return a.followChanges(ctx) }) })
	}
	return nil
}

func (a *Agent) workDeps(watcher *logfile.Watcher) (*podwork.Deps, error) {
	spec, err := nodeSpec(a.cfg)
	if err != nil {
		return nil, err
	}
	host, err := os.ReadFile(a.cfg.ResolvConf)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read resolver configuration: %w", err)
	}
	return &podwork.Deps{
		Client: a.deps.Client, Engine: a.engine, Images: a.images, Objects: a.objects, Network: a.deps.Network,
		Logs: watcher, Services: a.services, Announce: a.events.pod, Node: a.facts, Spec: spec,
		Dirs:    podwork.Dirs{Pods: a.cfg.podsDir(), Run: a.cfg.runDir(), Memory: a.cfg.memoryDir(), Logs: a.cfg.LogDir},
		DNS:     podfile.DNS{Servers: a.cfg.ClusterDNS, Domain: a.cfg.ClusterDomain, HostConfig: string(host)},
		Limits:  logfile.Limits{MaxSize: a.cfg.LogMaxSize, MaxFiles: a.cfg.LogMaxFiles},
		Backoff: podstate.Backoff{First: a.cfg.BackoffFirst, Max: a.cfg.BackoffMax},
		Cgroup:  a.cfg.cgroup(), Log: a.log,
	}, nil
}

func nodeSpec(cfg Config) (runspec.Node, error) {
	caps, err := runspec.OwnCapabilities()
	if err != nil {
		return runspec.Node{}, err
	}
	return runspec.Node{
		SeccompDefault: cfg.SeccompDefault, SeccompDir: filepath.Join(cfg.DataDir, "seccomp"), PidsLimit: cfg.PodPidsLimit,
		MinOOMScore: runspec.MinOOMScore(caps), Capabilities: caps, CgroupV2: runspec.CgroupV2(),
	}, nil
}

func (a *Agent) certificates() (tls.Certificate, *x509.CertPool, error) {
	certificate, err := tls.LoadX509KeyPair(a.cfg.CertFile, a.cfg.KeyFile)
	if err != nil {
		return certificate, nil, fmt.Errorf("load serving certificate: %w", err)
	}
	if a.cfg.ClientCAFile == "" {
		return certificate, nil, nil
	}
	pem, err := os.ReadFile(a.cfg.ClientCAFile)
	if err != nil {
		return certificate, nil, fmt.Errorf("load client CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return certificate, nil, fmt.Errorf("load client CA: %s holds no certificate", a.cfg.ClientCAFile)
	}
	return certificate, pool, nil
}

// Waits between tries of a source that ended.
const (
	againFirst = 100 * time.Millisecond
	againMax   = 5 * time.Second
)

// again runs a source until ctx ends.
func (a *Agent) again(ctx context.Context, what string, run func() error) error {
	for wait := againFirst; ctx.Err() == nil; wait = min(2*wait, againMax) {
		began := time.Now()
		err := run()
		if ctx.Err() != nil {
			break
		}
		a.log.Warn().Err(err).Str("what", what).Msg("source ended, starting it again")
		if time.Since(began) > time.Minute {
			wait = againFirst
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return nil
}

func (a *Agent) followChanges(ctx context.Context) error {
	return a.deps.Changes.Run(ctx,
		func(r ObjectRef) { a.registry.refresh(a.objects.Changed(objects.Key(r))) },
		func() { a.registry.refresh(a.objects.ChangedAll()) })
}

// services lists what containers of a namespace are told of.
func (a *Agent) services(namespace string) []*corev1.Service {
	if a.deps.Services == nil {
		return nil
	}
	list, err := a.deps.Services.Services(namespace).List(labels.Everything())
	if err != nil {
		return nil // a lister fails only on a broken selector
	}
	if namespace != metaNamespace {
		if s, err := a.deps.Services.Services(metaNamespace).Get("kubernetes"); err == nil {
			list = append(list, s)
		}
	}
	return list
}

const metaNamespace = "default"

// facts is what pods are told of the node.
func (a *Agent) facts() podwork.NodeFacts {
	f := podwork.NodeFacts{Name: a.cfg.NodeName, Memory: a.machine.Memory, Allocatable: a.allocatable()}
	node := a.keeper.Node()
	if node == nil {
		for _, ip := range nodestatus.Addresses(a.cfg.NodeIPs, nil) {
			f.IPs = append(f.IPs, ip.String())
		}
		return f
	}
	for _, addr := range node.Status.Addresses {
		if addr.Type == corev1.NodeInternalIP {
			f.IPs = append(f.IPs, addr.Address)
		}
	}
	return f
}

func (a *Agent) allocatable() corev1.ResourceList {
	return nodestatus.Allocatable(nodestatus.Capacity(a.machine, a.cfg.MaxPods), a.cfg.Reserved)
}

// report is the node's state for its status.
func (a *Agent) report(node *corev1.Node) (nodestatus.Report, error) {
	pressure, err := nodestatus.ReadPressure(a.cfg.DataDir)
	if err != nil {
		return nodestatus.Report{}, err
	}
	r := nodestatus.Report{
		Name: a.cfg.NodeName, Machine: a.machine, Capacity: nodestatus.Capacity(a.machine, a.cfg.MaxPods), Allocatable: a.allocatable(),
		Addresses: nodestatus.Addresses(a.cfg.NodeIPs, node.Spec.PodCIDRs), Pressure: pressure,
		Port: int32(a.listener.Addr().(*net.TCPAddr).Port),
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := a.engine.Version(ctx); err != nil {
		r.Unready = "container runtime is down: " + err.Error()
	} else if pulls := a.images.Pulls(); a.present == nil || pulls != a.presentPulls {
		if a.present, err = a.images.Present(ctx); err != nil {
			return nodestatus.Report{}, err
		}
		a.presentPulls = pulls
	}
	r.Images = a.present
	a.unready.Store(&r.Unready)
	return r, nil
}
