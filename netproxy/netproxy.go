package netproxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/netproxy/datapath"
	"github.com/rutter-project/rutter/netproxy/dns"
)

// retryAfter is how long a batch that could not be written waits before it is tried again.
const retryAfter = time.Second

// Informers are what the proxy follows. They are started by whoever owns them.
type Informers interface {
	Services() cache.SharedIndexInformer
	EndpointSlices() cache.SharedIndexInformer
	Nodes() cache.SharedIndexInformer
}

// Proxy is a node's network. Make one with New, then Run it.
type Proxy struct {
	cfg       Config
	informers Informers
	log       zerolog.Logger
	feed      *feed
	metrics   *metrics
	ready     chan struct{} // closed once pods can be attached
	locks     [64]sync.Mutex

	mu       sync.RWMutex // held for reading while datapath and ipam are in use
	datapath *datapath.Datapath
	ipam     *ipam

	// Used by Run only.
	cidrs    []netip.Prefix
	problems map[types.NamespacedName]datapath.Problem
}

// New prepares a node's network; it does nothing yet.
func New(cfg Config, informers Informers, log zerolog.Logger) (*Proxy, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	return &Proxy{
		cfg: cfg, informers: informers,
		log:      log.With().Str("component", "netproxy").Str("node", cfg.Datapath.Node).Logger(),
		feed:     newFeed(cfg.Datapath.Node),
		metrics:  newMetrics(),
		ready:    make(chan struct{}),
		problems: map[types.NamespacedName]datapath.Problem{},
	}, nil
}

// Collector exposes the proxy's metrics.
func (p *Proxy) Collector() prometheus.Collector { return p.metrics }

// Ready is closed once services work and pods can be attached.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// Run follows the informers until the context ends. It needs their first lists and this node's pod range to begin.
// What is in the kernel stays when it returns.
func (p *Proxy) Run(ctx context.Context) error {
	defer p.stop()
	forget, err := p.follow(ctx)
	if err != nil {
		return err
	}
	defer forget()
	cidrs, err := p.awaitCIDRs(ctx)
	if err != nil {
		return ignoreEnd(ctx, err)
	}
	if err := p.start(cidrs); err != nil {
		return err
	}
	server, err := p.dnsServer()
	if err != nil {
		return err
	}
	p.feed.retry(p.cfg.DNS.Service) // it is served even before it exists
	if err := p.first(); err != nil {
		return errors.Join(err, server.Close())
	}
	close(p.ready)
	p.log.Info().Int("mtu", p.datapath.MTU()).Msg("network ready")
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { return p.loop(ctx) })
	return g.Wait()
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// start opens the datapath and connects the pods of a former process.
func (p *Proxy) start(cidrs []netip.Prefix) error {
	cfg := p.cfg.Datapath
	cfg.PodCIDRs = cidrs
	d, err := datapath.Open(cfg, p.log)
	if err != nil {
		return err
	}
	m, err := openIPAM(p.cfg.StateDir, cidrs, p.log)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	for _, l := range m.all() {
		found, err := d.AdoptPod(datapath.Pod(l))
		if err != nil {
			p.log.Error().Err(err).Str("namespace", l.Namespace).Str("name", l.Name).Msg("pod of a former process not connected")
		}
		if found {
			p.log.Debug().Str("namespace", l.Namespace).Str("name", l.Name).Msg("pod adopted")
		}
	}
	p.mu.Lock()
	p.datapath, p.ipam, p.cidrs = d, m, cidrs
	p.mu.Unlock()
	p.metrics.datapath.Store(d)
	return nil
}

// stop closes the datapath, which goes on in the kernel.
func (p *Proxy) stop() {
	p.metrics.datapath.Store(nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.datapath == nil {
		return
	}
	if err := p.datapath.Close(); err != nil {
		p.log.Warn().Err(err).Msg("datapath not closed cleanly")
	}
	p.datapath = nil
}

// first fills the tables, removes what nobody wants any more, and only then lets the programs decide.
func (p *Proxy) first() error {
	if err := p.step(); err != nil {
		return err
	}
	if err := p.datapath.Prune(); err != nil {
		return err
	}
	return p.datapath.Activate()
}

// loop applies changes as they come. The one timer runs only while something rests.
func (p *Proxy) loop(ctx context.Context) error {
	timer := time.NewTimer(datapath.Quarantine)
	defer timer.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.feed.wake:
			err := p.step()
			if err == nil && failed { // what was given up meanwhile is known to the tables only
				err = p.datapath.Prune()
			}
			failed = err != nil
			if failed {
				p.log.Error().Err(err).Msg("changes not applied")
				p.metrics.failures.Inc()
				p.feed.everythingAfter(ctx, retryAfter)
			}
			timer.Reset(datapath.Quarantine)
		case <-timer.C:
			released, more := p.datapath.GC()
			if more {
				timer.Reset(datapath.Quarantine)
			}
			if released {
				p.retryProblems()
			}
		}
	}
}

// step applies all changes there are.
func (p *Proxy) step() error {
	w := p.feed.take()
	start := time.Now()
	if w.peers != nil {
		lost, err := p.datapath.SetPeers(w.peers)
		if err != nil {
			return err
		}
		for _, name := range lost {
			p.log.Warn().Str("name", name).Msg("node has no address outside the pod ranges: its pods cannot be reached")
		}
		if now := p.feed.ownCIDRs(); !slices.Equal(now, p.cidrs) {
			p.log.Error().Stringers("was", stringers(p.cidrs)).Stringers("now", stringers(now)).
				Msg("pod range of this node changed: restart it without pods")
		}
	}
	changes := make([]datapath.Change, len(w.names))
	for i, name := range w.names {
		svc := w.services[i]
		if name == p.cfg.DNS.Service {
			svc = withDNS(svc, p.cfg.DNS, p.nodeDNS())
		}
		changes[i] = datapath.Change{Name: name, Service: svc}
	}
	result, err := p.datapath.Apply(changes)
	if err != nil {
		return err
	}
	p.metrics.apply.Observe(time.Since(start).Seconds())
	if !w.since.IsZero() {
		p.metrics.follow.Observe(time.Since(w.since).Seconds())
	}
	p.report(w, result.Problems)
	if result.Freed {
		p.retryProblems()
	}
	return nil
}

// retryProblems tries services again that may succeed now.
func (p *Proxy) retryProblems() {
	var names []types.NamespacedName
	for name, problem := range p.problems {
		if problem.Retry {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		p.feed.retry(names...)
	}
}

// report logs what is new among the problems and counts them all.
func (p *Proxy) report(w work, found []datapath.Problem) {
	was := map[types.NamespacedName]datapath.Problem{}
	for i, name := range w.names {
		if old, ok := p.problems[name]; ok {
			was[name] = old
			delete(p.problems, name)
		}
		for _, problem := range w.services[i].Problems {
			p.problems[name] = datapath.Problem{Service: name, Problem: problem}
		}
	}
	for _, problem := range found {
		p.problems[problem.Service] = problem
	}
	p.metrics.problems.Reset()
	for name, problem := range p.problems {
		p.metrics.problems.WithLabelValues(problem.Reason).Inc()
		if old, known := was[name]; known && old == problem || !slices.Contains(w.names, name) {
			continue
		}
		p.log.Warn().Str("kind", "Service").Str("namespace", name.Namespace).Str("name", name.Name).
			Str("reason", problem.Reason).Str("detail", problem.Message).Msg("service cannot be served as wished")
	}
}

func stringers[T fmt.Stringer](all []T) []fmt.Stringer {
	out := make([]fmt.Stringer, len(all))
	for i, v := range all {
		out[i] = v
	}
	return out
}

// nodeDNS is where this node's DNS server listens.
func (p *Proxy) nodeDNS() []netip.AddrPort {
	var out []netip.AddrPort
	for _, cidr := range p.feed.ownCIDRs() {
		out = append(out, netip.AddrPortFrom(datapath.HostAddr(cidr), p.cfg.DNS.Port))
	}
	return out
}

func (p *Proxy) dnsServer() (*dns.Server, error) {
	server, err := dns.New(dns.Config{
		Domain: p.cfg.DNS.Domain, Listen: p.nodeDNS(), Addrs: p.cfg.DNS.VIPs, ResolvConf: p.cfg.DNS.ResolvConf,
		Inside: func(fn func() error) error { return datapath.InNetNS(p.cfg.Datapath.NetNS, fn) },
	}, p.feed, p.log)
	if err != nil {
		return nil, err
	}
	return server, server.Listen()
}

// Destroy removes all that a node's network has made, on disk and in the kernel. No Proxy of the node may be running.
func Destroy(cfg Config) error {
	return errors.Join(datapath.Destroy(cfg.Datapath), os.RemoveAll(cfg.StateDir))
}
