package bus

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// readyTimeout bounds how long the embedded server may take to recover its
// streams.
const readyTimeout = 2 * time.Minute

// Server is a NATS server in this process.
type Server struct {
	cfg       ServerConfig
	log       zerolog.Logger
	secret    string // password of in-process connections; new at every start
	nats      *natsserver.Server
	gate      *gate // nil until it is started
	turn      atomic.Uint64
	reopening sync.Mutex
	mu        sync.Mutex
	reopened  chan struct{} // closed and replaced when all streams are closed, to be opened again; guarded by mu
	patience  time.Duration // of mirrors; fixed but in tests
	// maxPending bounds what waits for the clients of EDGE; fixed but in tests.
	maxPending  int
	connections *connections
	clients     zerolog.Logger // of what clients may cause, and so bounded
	stop        context.CancelFunc
	work        sync.WaitGroup // what runs until stop
	damage      *damage
	// traffic is what the clients of this process publish.
	traffic *traffic
}

// accountsConfig declares the two accounts. EDGE can reach exactly these calls
// and no subject that a stream listens on, whatever a client puts into the reply
// field of a message: replies stay within their account. Consumers are asked for by way of
// the gate, which has to know who asks. Clients of EDGE publish requests only, which are
// short: of a message that a client has begun, the server keeps all that came.
const accountsConfig = `
accounts {
  CORE: {
    jetstream: enabled
    exports: [
      {stream: "live.>", accounts: [EDGE]}
      {service: "gate.CONSUMER.CREATE.HISTORY.>", accounts: [EDGE]}
      {service: "$JS.API.CONSUMER.DELETE.HISTORY.*", accounts: [EDGE]}
      {service: "$JS.API.CONSUMER.MSG.NEXT.HISTORY.*", response_type: stream, accounts: [EDGE]}
      {service: "gate.CONSUMER.CREATE.ARCHIVE.>", accounts: [EDGE]}
      {service: "$JS.API.CONSUMER.DELETE.ARCHIVE.*", accounts: [EDGE]}
      {service: "$JS.API.CONSUMER.INFO.ARCHIVE.*", accounts: [EDGE]}
      {service: "$JS.API.CONSUMER.MSG.NEXT.ARCHIVE.*", response_type: stream, accounts: [EDGE]}
      {service: "$JS.API.DIRECT.GET.LASTN.>", accounts: [EDGE]}
    ]
  }
  EDGE: {
    limits: {max_payload: 65536}
    imports: [
      {stream: {account: CORE, subject: "live.>"}}
      {service: {account: CORE, subject: "gate.CONSUMER.CREATE.HISTORY.>"}, to: "bus.API.CONSUMER.CREATE.HISTORY.>", share: true}
      {service: {account: CORE, subject: "$JS.API.CONSUMER.DELETE.HISTORY.*"}, to: "bus.API.CONSUMER.DELETE.HISTORY.*"}
      {service: {account: CORE, subject: "$JS.API.CONSUMER.MSG.NEXT.HISTORY.*"}, to: "bus.API.CONSUMER.MSG.NEXT.HISTORY.*"}
      {service: {account: CORE, subject: "gate.CONSUMER.CREATE.ARCHIVE.>"}, to: "bus.API.CONSUMER.CREATE.ARCHIVE.>", share: true}
      {service: {account: CORE, subject: "$JS.API.CONSUMER.DELETE.ARCHIVE.*"}, to: "bus.API.CONSUMER.DELETE.ARCHIVE.*"}
      {service: {account: CORE, subject: "$JS.API.CONSUMER.INFO.ARCHIVE.*"}, to: "bus.API.CONSUMER.INFO.ARCHIVE.*"}
      {service: {account: CORE, subject: "$JS.API.CONSUMER.MSG.NEXT.ARCHIVE.*"}, to: "bus.API.CONSUMER.MSG.NEXT.ARCHIVE.*"}
      {service: {account: CORE, subject: "$JS.API.DIRECT.GET.LASTN.>"}, to: "bus.API.DIRECT.GET.LASTN.>"}
    ]
  }
}
jetstream { limits { default_max_consumers: -1 } }
`

// NewServer checks the configuration and prepares a server. Start starts it.
func NewServer(cfg ServerConfig, log zerolog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, fmt.Errorf("bus: make secret: %w", err)
	}
	s := &Server{
		cfg: cfg, log: log.With().Str("component", "nats").Logger(), secret: hex.EncodeToString(secret), traffic: newTraffic(),
		patience: mirrorPatience, maxPending: maxPending, connections: newConnections(), damage: newDamage(), reopened: make(chan struct{}),
	}
	s.clients = s.log.Sample(rarely())
	if err := s.newNats(); err != nil {
		return nil, err
	}
	return s, nil
}

// newNats prepares the NATS server itself, which can be started once only.
func (s *Server) newNats() error {
	opts, err := s.options()
	if err != nil {
		return err
	}
	s.nats, err = natsserver.NewServer(opts)
	if err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	s.nats.SetLoggerV2(newNatsLog(s.log, s.damage), s.log.GetLevel() <= zerolog.TraceLevel, false, false)
	return nil
}

func (s *Server) options() (*natsserver.Options, error) {
	opts := &natsserver.Options{}
	if err := opts.ProcessConfigString(accountsConfig); err != nil {
		return nil, fmt.Errorf("bus: accounts: %w", err)
	}
	opts.ServerName = s.cfg.Name
	opts.NoSigs = true
	opts.JetStream = true
	opts.StoreDir = s.cfg.StoreDir
	opts.JetStreamMaxStore = s.cfg.MaxStore
	opts.JetStreamMaxMemory = s.cfg.MaxMemory
	opts.SyncInterval = s.cfg.SyncInterval
	opts.MaxPayload = s.cfg.MaxPayload
	opts.MaxPending = max(natsserver.MAX_PENDING_SIZE, 4*int64(s.cfg.MaxPayload))
	opts.MaxSubs = maxSubscriptions
	opts.MaxConn = maxConnections
	opts.DisableShortFirstPing = true
	opts.CustomClientAuthentication = &authenticator{
		server: s,
		core:   map[string]bool{},
		log:    s.log.Sample(rarely()),
	}
	for _, name := range s.cfg.CoreUsers {
		opts.CustomClientAuthentication.(*authenticator).core[name] = true
	}
	if s.cfg.Listen == "" {
		opts.DontListen = true
		return opts, nil
	}
	host, port, err := net.SplitHostPort(s.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("bus: listen address %q: %w", s.cfg.Listen, err)
	}
	opts.Host = host
	if opts.Port, err = strconv.Atoi(port); err != nil {
		return nil, fmt.Errorf("bus: listen address %q: %w", s.cfg.Listen, err)
	}
	if opts.Port == 0 {
		opts.Port = natsserver.RANDOM_PORT
	}
	opts.TLS = true
	opts.TLSConfig = s.cfg.TLS.Clone()
	opts.TLSTimeout = 5
	return opts, nil
}

// maxSubscriptions bounds what one connection may subscribe to, each of which takes memory.
const maxSubscriptions = 10_000

// maxConnections bounds connections, each of which takes some 50 kB with TLS.
const maxConnections = 20_000

// rarely lets some lines through each minute: clients that are refused again and again would
// fill the disk.
func rarely() zerolog.Sampler { return &zerolog.BurstSampler{Burst: 60, Period: time.Minute} }

// Start starts the server and returns when it serves clients and streams. The
// caller must Close it. A port that is taken is an error, not a retry.
func (s *Server) Start(ctx context.Context) error {
	if err := os.MkdirAll(s.cfg.StoreDir, 0o700); err != nil {
		return fmt.Errorf("bus: store directory: %w", err)
	}
	if err := s.probeListen(); err != nil {
		return err
	}
	started := time.Now()
	err := s.startNats(ctx)
	if err == nil {
		s.gate, err = openGate(s)
	}
	if err != nil {
		s.Close()
		return err
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.work.Go(func() { s.boundClients(ctx) })
	s.work.Go(func() { s.mendReported(ctx) })
	s.log.Info().Str("address", s.Address()).Dur("took", time.Since(started)).Msg("bus is up")
	return nil
}

// mirrorPatience is for how long a mirror that was opened waits before it asks for HISTORY
// (nats-server 2.15.2: scheduleSetupMirrorConsumerRetry). If that is not open yet, it asks
// again after 12 s at the earliest.
const mirrorPatience = 100 * time.Millisecond

// startNats starts the NATS server, with all streams that can be opened.
func (s *Server) startNats(ctx context.Context) error {
	if err := s.mendEverRead(); err != nil {
		return err
	}
	started, took := false, time.Duration(0)
	open := func() error {
		if started {
			if err := s.newNats(); err != nil {
				return err
			}
		}
		started = true
		began := time.Now()
		s.nats.Start()
		err := s.waitReady(ctx)
		took = time.Since(began)
		return err
	}
	closeAll := func() error {
		s.nats.Shutdown()
		s.nats.WaitForShutdown()
		return nil
	}
	if err := s.openGuarded(open, closeAll); err != nil || took < s.patience {
		return err
	}
	// A server that was killed reads all messages, and its mirrors have asked for HISTORY in
	// vain. One that was not knows where they are.
	s.log.Info().Dur("took", took).Msg("streams are opened once more, so that their mirrors follow at once")
	if err := closeAll(); err != nil {
		return err
	}
	return s.openGuarded(open, closeAll)
}

// probeListen tells a taken port before the server, which would end the whole
// process over it.
func (s *Server) probeListen() error {
	if s.cfg.Listen == "" {
		return nil
	}
	l, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	return l.Close()
}

// waitReady asks the server, which has no channel to wait on, until JetStream
// has recovered its streams.
func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		core, err := s.nats.LookupAccount(accountCore)
		listening := s.cfg.Listen == "" || s.nats.Addr() != nil
		if err == nil && s.nats.JetStreamEnabled() && core.JetStreamEnabled() && listening {
			return nil
		}
		if !s.nats.Running() {
			return errors.New("bus: server stopped while starting; its log says why")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("bus: server is not ready: %w", ctx.Err())
		}
	}
}

// Close stops the server and waits until it is gone.
func (s *Server) Close() {
	if s.stop != nil {
		s.stop()
		s.work.Wait()
	}
	if s.gate != nil {
		s.gate.close()
	}
	s.nats.Shutdown()
	s.nats.WaitForShutdown()
}

// Address is where clients of other processes connect, "" if nowhere.
func (s *Server) Address() string {
	if s.cfg.Listen == "" || s.nats.Addr() == nil {
		return ""
	}
	return s.nats.Addr().String()
}

// Healthy is nil while the streams can be written. A full disk makes the server
// switch JetStream off, or give up one stream; Recover brings them back.
func (s *Server) Healthy() error {
	switch {
	case !s.nats.Running():
		return errors.New("bus: server is not running")
	case !s.nats.JetStreamEnabled():
		return fmt.Errorf("bus: streams are off: %w", s.diskError())
	case s.gaveUp():
		return fmt.Errorf("bus: a stream is off: %w", s.diskError())
	default:
		return nil
	}
}

// gaveUp reports that a stream refuses all messages since it failed to write one. It does
// so until JetStream starts anew, which happens by itself only if a mirror failed. The
// server tells it in words only.
func (s *Server) gaveUp() bool {
	health := s.nats.Healthz(&natsserver.HealthzOptions{Account: accountCore, Details: true})
	return slices.ContainsFunc(health.Errors, func(e natsserver.HealthzError) bool {
		return e.Type == natsserver.HealthzErrorStream && strings.Contains(e.Error, "write error")
	})
}

// scarceSpace is how much free space is too little for the streams to be written
// reliably, in bytes.
const scarceSpace = 64 << 20

// diskError says why the streams may have been switched off. It is ErrNoSpace if
// the disk is as good as full.
func (s *Server) diskError() error {
	var stat unix.Statfs_t
	if err := unix.Statfs(s.cfg.StoreDir, &stat); err != nil {
		return fmt.Errorf("store directory %s: %w", s.cfg.StoreDir, err)
	}
	if free := int64(stat.Bavail) * stat.Bsize; free < scarceSpace {
		return fmt.Errorf("%w: %d kB are free in %s", ErrNoSpace, free>>10, s.cfg.StoreDir)
	}
	return errors.New("the server gave up writing; its log says why")
}

// Recover brings the streams back after the disk was full. It is an error as long as the
// reason lasts.
//
// From then on each request to JetStream's API is carried out once more for every time the
// streams came back (nats-server 2.15.2: setJetStreamExportSubs subscribes to $JS.API.> anew,
// shutdownJetStream leaves the old subscription, whose dispatcher hands requests to the same
// server). Nothing outside of the server can end that subscription. A new server in the same
// process would: it would also end all connections in the process and give up its port for
// as long as streams are read from disk, which no client that can follow one server is made
// for. So requests must bear it: consumers are named by who asks for them, and what is made
// behind what was deleted may be deleted with it, which the relay, as after any other loss
// of an empty stream, makes again when it starts over. Publishing and reading are no such
// requests.
func (s *Server) Recover() error {
	if !s.nats.Running() || s.nats.JetStreamEnabled() && !s.gaveUp() {
		return nil
	}
	if err := s.diskError(); errors.Is(err, ErrNoSpace) {
		return fmt.Errorf("bus: streams are off: %w", err)
	}
	if err := s.reopen(nil); err != nil {
		return err
	}
	s.log.Info().Msg("streams are on again")
	return nil
}

// reopen closes all streams, if they are open, and opens them again. Between the two it
// calls fn, if set.
func (s *Server) reopen(fn func() error) error {
	s.reopening.Lock()
	defer s.reopening.Unlock()
	s.turn.Add(1)
	defer s.turn.Add(1)
	closeAll := func() error {
		if err := s.nats.ShutdownJetStream(); err != nil {
			return fmt.Errorf("bus: switch streams off: %w", err)
		}
		return nil
	}
	if s.nats.JetStreamEnabled() {
		if err := closeAll(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	close(s.reopened)
	s.reopened = make(chan struct{})
	s.mu.Unlock()
	var failed error
	if fn != nil {
		failed = fn()
	}
	err := s.openGuarded(func() error {
		err := s.nats.EnableJetStream(&natsserver.JetStreamConfig{
			StoreDir: s.cfg.StoreDir, MaxStore: s.cfg.MaxStore, MaxMemory: s.cfg.MaxMemory, SyncInterval: s.cfg.SyncInterval,
		})
		if err != nil {
			return fmt.Errorf("bus: switch streams on: %w", err)
		}
		return nil
	}, closeAll)
	return errors.Join(failed, err)
}

// whenReopened is a channel that is closed when all streams are closed next, to be opened
// again. Consumers are gone then.
func (s *Server) whenReopened() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reopened
}

// natsLog hands the server's log lines on. They are unstructured, so that the
// line is a field and the message constant. Its warnings and errors are mostly about clients.
type natsLog struct {
	log, clients zerolog.Logger
	damage       *damage
}

func newNatsLog(log zerolog.Logger, d *damage) natsLog {
	return natsLog{log: log, clients: log.Sample(rarely()), damage: d}
}

func (l natsLog) Noticef(format string, v ...any) { l.write(l.log.Debug(), format, v) }
func (l natsLog) Fatalf(format string, v ...any)  { l.write(l.log.Error(), format, v) }
func (l natsLog) Warnf(format string, v ...any) {
	if r, ok := cutOff(fmt.Sprintf(format, v...)); ok {
		l.damage.report(r)
	}
	l.write(l.clients.Warn(), format, v)
}

func (l natsLog) Errorf(format string, v ...any) {
	if r, ok := unreadable(format, v); ok {
		l.damage.report(r)
	}
	l.write(l.clients.Warn(), format, v)
}
func (l natsLog) Debugf(format string, v ...any) { l.write(l.log.Trace(), format, v) }
func (l natsLog) Tracef(format string, v ...any) { l.write(l.log.Trace(), format, v) }

func (natsLog) write(e *zerolog.Event, format string, v []any) {
	if e.Enabled() {
		e.Str("line", fmt.Sprintf(format, v...)).Msg("nats server")
	}
}
