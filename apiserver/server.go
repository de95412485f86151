package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/rutter-project/rutter/apiserver/internal/audit"
	"github.com/rutter-project/rutter/apiserver/internal/bootstrap"
	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/apiserver/internal/history"
	"github.com/rutter-project/rutter/apiserver/internal/kinds"
	"github.com/rutter-project/rutter/apiserver/internal/lane"
	"github.com/rutter-project/rutter/apiserver/internal/policystatus"
	"github.com/rutter-project/rutter/apiserver/internal/relay"
	"github.com/rutter-project/rutter/apiserver/internal/seal"
	"github.com/rutter-project/rutter/apiserver/internal/serve"
	"github.com/rutter-project/rutter/apiserver/internal/store"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// Server is an API server. Make it with New, run it once with Run.
type Server struct {
	cfg      Config
	feed     *feed.Feed
	view     *view.View
	stores   *stores
	relay    *relay.Relay     // nil without a bus
	history  *history.History // nil without a bus
	health   *serve.Health
	listener net.Listener

	loopback      *loopback
	loopbackToken string
	client        *kubernetes.Clientset
	clientConfig  *rest.Config
	informers     informers.SharedInformerFactory

	trust     *trust                   // certificates on disk, and who is believed
	extension *extension               // set before anything is served
	policies  *policystatus.Controller // set before anything is served

	lease      ownLease
	ending     *ending
	flow       flow
	repairs    *kinds.Repairs       // set before anything is served
	start      start                // how far the server is
	identities *kinds.Authenticator // set before anything is served
	guard      guard                // who may read what on the bus
	audit      *audit.Trail         // what is recorded of requests
}

const (
	shutdownTimeout = 10 * time.Second
	readHeaderLimit = 32 * time.Second
	// idleLimit is how long a connection without requests is kept, as upstream has it:
	// clients of Go don't keep them for longer either.
	idleLimit = 90 * time.Second
)

// New checks the configuration, makes what is missing on disk, and listens, so that a
// busy port fails here. It starts nothing.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	sealer, err := seal.Load(cfg.SealFile, func(err error) {
		cfg.Log.Error().Str("component", "seal").Err(err).Msg("key file not taken over; the keys that were there before seal and open")
	})
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("apiserver: listen on %s: %w", cfg.Listen, err)
	}
	s := &Server{
		cfg: cfg, listener: listener, health: &serve.Health{}, start: newStart(), ending: newEnding(),
		feed:     feed.New(cfg.Etcd, cfg.Log.With().Str("component", "feed").Logger()),
		loopback: newLoopback(), loopbackToken: uuid.NewString(),
	}
	s.view = view.New(s.feed.WaitFor)
	s.feed.Subscribe(s.view)
	s.stores = &stores{cfg: cfg, view: s.view, leases: store.NewLeases(cfg.Etcd), sealer: sealer, shapes: shapes(),
		opened: map[schema.GroupVersionResource]*store.Store{}}
	if cfg.Bus != nil {
		s.keepHistory()
	}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	if s.audit, err = audit.New(cfg.Access.Audit); err != nil {
		return nil, errors.Join(fmt.Errorf("apiserver: %w", err), listener.Close())
	}
	return s, nil
}

// prepare makes what certificates are missing, and the loopback client.
func (s *Server) prepare() error {
	hosts := append([]string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost",
		"127.0.0.1", "::1", s.cfg.ServiceCIDR.Addr().Next().String(), s.cfg.Advertise.String(),
	}, s.cfg.Hosts...)
	var err error
	if s.trust, err = newTrust(s.cfg.PKI, hosts); err != nil {
		return err
	}
	s.clientConfig = &rest.Config{
		Host: "http://loopback", BearerToken: s.loopbackToken, QPS: -1, UserAgent: "rutter-apiserver",
		ContentConfig:      rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf"},
		DisableCompression: true,
		Dial:               func(ctx context.Context, _, _ string) (net.Conn, error) { return s.loopback.Dial(ctx) },
	}
	if s.client, err = kubernetes.NewForConfig(s.clientConfig); err != nil {
		return fmt.Errorf("loopback client: %w", err)
	}
	s.informers = withPods(informers.NewSharedInformerFactoryWithOptions(s.client, 0, informers.WithTransform(withoutManagedFields)), s.pods())
	if s.lease, err = newLease(s.client, s.advertised()); err != nil {
		return err
	}
	s.flow, err = s.newFlow()
	return err
}

// Address is where the server listens, for ports chosen by the system.
func (s *Server) Address() netip.AddrPort {
	return netip.MustParseAddrPort(s.listener.Addr().String())
}

// Ready is closed when the server answers everything.
func (s *Server) Ready() <-chan struct{} { return s.start[filled] }

// Run serves until the context ends and the delay after it is over, or something breaks,
// then closes in reverse order.
func (s *Server) Run(told context.Context) error {
	serving, end := context.WithCancel(context.WithoutCancel(told))
	defer end()
	g, ctx := errgroup.WithContext(serving)
	g.Go(func() error { s.ending.wait(told, ctx, s.cfg.Serving.ShutdownDelay); end(); return nil })
	// Requests that are in flight when the server is to stop read what the feed brings.
	reading, read := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return s.feed.Run(reading) })
	g.Go(func() error { return s.view.Forms.Run(ctx) })
	g.Go(func() error { defer read(); return s.serve(ctx) })
	if s.cfg.Bus != nil {
		compactor := relay.NewCompactor(s.cfg.Etcd, s.feed.Revision, s.relay.Position, relay.DefaultCompactorConfig(), s.cfg.Log)
		g.Go(func() error { return s.relay.Run(ctx) })
		g.Go(func() error { return compactor.Run(ctx) })
		g.Go(func() error { return s.history.Run(ctx, s.feed) })
	}
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// keepHistory makes the relay and what answers for the past.
func (s *Server) keepHistory() {
	cfg := relay.DefaultConfig()
	cfg.Recover, cfg.Mended = s.cfg.RecoverBus, s.cfg.BusMended
	cfg.Resynced = func() { s.history.Baseline() }
	s.relay = relay.New(s.cfg.Etcd, s.feed, s.cfg.Bus, cfg, s.cfg.Log)
	past := history.DefaultConfig()
	past.KeyframeEvents, past.CacheBytes = s.cfg.KeyframeEvents, s.cfg.PastCacheBytes
	s.history = history.New(history.Parts{
		Bus: s.cfg.Bus, Frames: s.cfg.Bus, Feed: s.feed, Relay: s.relay, View: s.view, Revision: s.revision, Object: s.objectAt,
	}, past, s.cfg.Log)
}

// revision asks etcd for its revision.
func (s *Server) revision(ctx context.Context) (int64, error) {
	resp, err := s.cfg.Etcd.Get(ctx, healthKey)
	if err != nil {
		return 0, fmt.Errorf("revision of etcd: %w", err)
	}
	return resp.Header.Revision, nil
}

// objectAt reads what etcd has stored at a revision.
func (s *Server) objectAt(ctx context.Context, key schemas.Key, rev int64) ([]byte, error) {
	resp, err := s.cfg.Etcd.Get(ctx, key.Path(), clientv3.WithRev(rev))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s at revision %d: %w", key, rev, err)
	case len(resp.Kvs) == 0:
		return nil, fmt.Errorf("read %s at revision %d: %w", key, rev, errNotStored)
	}
	return schemas.ObjectOf(resp.Kvs[0].Value)
}

var errNotStored = errors.New("etcd has no such object")

// Truth is what etcd says the event stream should hold, for verification.
func Truth(etcd *clientv3.Client) bus.Truth { return relay.NewTruth(etcd) }

func (s *Server) serve(ctx context.Context) (err error) {
	defer s.listener.Close()
	if err := s.feed.WaitFor(ctx, 1); err != nil {
		return err
	}
	admitting, admitted := context.WithCancel(context.WithoutCancel(ctx)) // until the last request is answered
	defer admitted()
	handler, err := s.handler(ctx, admitting)
	if err != nil {
		return fmt.Errorf("apiserver: %w", err)
	}
	if err := s.audit.Start(); err != nil {
		return fmt.Errorf("apiserver: audit: %w", err)
	}
	defer func() { err = errors.Join(err, s.audit.Close()) }()
	g, ctx := errgroup.WithContext(ctx)
	inner := s.httpServer(handler)
	outer := s.httpServer(s.connections(ctx, handler))
	outer.TLSConfig, outer.HTTP2 = s.trust.tlsConfig(), s.cfg.Serving.http2()
	lanes := lane.Attach(outer)
	g.Go(func() error { return closed(inner.Serve(s.loopback)) })
	g.Go(func() error { return s.extension.follow(ctx) })
	g.Go(func() error { s.identities.Follow(ctx, s.tellIdentities); return nil })
	g.Go(func() error { return s.extension.lifecycle.Run(ctx) })
	g.Go(func() error { return s.extension.aggregator.Run(ctx) })
	g.Go(func() error { return s.policies.Run(ctx) })
	g.Go(func() error { return s.runFlow(ctx) })
	kept := make(chan struct{})
	g.Go(func() error {
		defer close(kept)
		if err := s.becomeReady(ctx); err != nil {
			return err
		}
		s.keepUp(ctx)
		return nil
	})
	g.Go(func() error { return closed(lanes.Serve()) })
	g.Go(func() error { return closed(outer.ServeTLS(s.listener, "", "")) })
	g.Go(func() error { s.trust.follow(ctx, s.tellTrust); return nil })
	g.Go(func() error {
		<-ctx.Done()
		<-kept
		s.shutdown(outer, lanes, inner)
		return nil
	})
	return g.Wait()
}

// keepUp looks after what others may have changed, until the context ends.
func (s *Server) keepUp(ctx context.Context) {
	var g sync.WaitGroup
	g.Go(func() { s.keepFlowDefaults(ctx) })
	g.Go(func() { s.keepDelegation(ctx) })
	g.Go(func() { s.repairs.Run(ctx, func() { close(s.start[repaired]) }) })
	g.Go(func() {
		s.lease.run(ctx, func(err error) { s.cfg.Log.Warn().Err(err).Msg("lease of this API server not kept") })
	})
	g.Wait()
}

// tellIdentities logs how a change of the authentication file went.
func (s *Server) tellIdentities(err error) {
	if err != nil {
		s.cfg.Log.Error().Str("component", "authentication").Err(err).Msg("authentication file not taken over; what was there before holds")
		return
	}
	s.cfg.Log.Info().Str("component", "authentication").Msg("authentication file taken over")
}

// becomeReady fills the caches that access decisions need and writes the cluster's
// basics.
func (s *Server) becomeReady(ctx context.Context) error {
	s.informers.Start(ctx.Done())
	close(s.start[begun])
	err := bootstrap.Run(ctx, s.client, bootstrap.Config{
		ServiceCIDR: s.cfg.ServiceCIDR, Address: s.cfg.Advertise, Port: s.Address().Port(), DNS: s.cfg.DNS,
		Delegation: s.trust.delegation(),
	})
	if err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	close(s.start[founded])
	if err := s.flow.defaults.Ensure(ctx); err != nil {
		return fmt.Errorf("flow control: %w", err)
	}
	close(s.start[fair])
	for kind, ok := range s.informers.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return fmt.Errorf("cache of %s did not fill: %w", kind, context.Cause(ctx))
		}
	}
	close(s.start[filled])
	return nil
}

// endWatches ends clients' watches when the server stops: they last for as long as
// clients want, so that waiting for them would be waiting in vain. Clients go on from
// the last revision they saw.
func endWatches(stopping context.Context, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.RawQuery, "watch=") && !strings.Contains(r.URL.Path, "/watch/") {
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(stopping, cancel)()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// shutdown lets requests in flight finish, as far as they do in time. The loopback
// comes last, since they need it, and has no requests but the server's own watches.
func (s *Server) shutdown(outer *http.Server, lanes *lane.Server, inner *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	if s.cfg.Serving.ShutdownRetryAfter {
		defer s.ending.refuse(ctx)() // what is not answered in time is cut off, and ends
	}
	var g errgroup.Group
	g.Go(func() error { return outer.Shutdown(ctx) })
	g.Go(func() error { return lanes.Shutdown(ctx) })
	if err := g.Wait(); err != nil {
		_ = outer.Close()
		_ = lanes.Close()
	}
	last, done := context.WithTimeout(context.Background(), etcdTimeout)
	defer done()
	if err := s.lease.release(last); err != nil {
		s.cfg.Log.Warn().Err(err).Msg("lease of this API server not removed")
	}
	_ = inner.Close()
	s.informers.Shutdown()
}

func closed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (s *Server) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: readHeaderLimit, IdleTimeout: idleLimit, MaxHeaderBytes: 1 << 20,
		ErrorLog: log.New(io.Discard, "", 0), // handshakes that clients break off
	}
}

func (s *Server) advertised() string {
	return net.JoinHostPort(s.cfg.Advertise.String(), strconv.Itoa(int(s.Address().Port())))
}

var audiences = authenticator.Audiences{Issuer}
