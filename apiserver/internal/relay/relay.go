package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rs/zerolog"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// Config is what is fixed for a relay.
type Config struct {
	// Window is how many messages may be on their way to the stream at once.
	Window int
	// CheckpointDelay is how long after a change of position it is saved.
	CheckpointDelay time.Duration
	// StandbyDelay is how long a relay that was fenced off leaves a change to the
	// other relay before it takes over.
	StandbyDelay time.Duration
	// MirrorCheck is how often it is looked whether the mirrors follow the stream.
	MirrorCheck time.Duration
	// MinBackoff and MaxBackoff bound the pause after an error.
	MinBackoff, MaxBackoff time.Duration
	// Recover, if set, is called when the bus has no streams. The embedded server's
	// method of that name brings them back after the disk was full.
	Recover func() error
	// Mended, if set, tells that streams have lost messages and MakeStreams has to look at
	// them: the embedded server's channel of that name.
	Mended <-chan struct{}
	// Resynced, if set, is called when a gap was closed.
	Resynced func()
}

// DefaultConfig is what a production API server uses.
func DefaultConfig() Config {
	return Config{
		Window:          bus.DefaultWindow,
		CheckpointDelay: time.Second,
		StandbyDelay:    100 * time.Millisecond,
		MirrorCheck:     2 * time.Second,
		MinBackoff:      50 * time.Millisecond,
		MaxBackoff:      5 * time.Second,
	}
}

// Relay copies etcd's changes to the bus. New makes one, Run makes it go.
type Relay struct {
	cfg     Config
	cli     *clientv3.Client
	feed    *feed.Feed
	bus     *bus.Client
	log     zerolog.Logger
	metrics *metrics

	mu       sync.Mutex
	session  int           // counts sessions, so that late answers to an old one are told; guarded by mu
	position int64         // everything up to this revision is stored; guarded by mu
	settled  uint64        // last sequence of position, 0 if the stream goes on within a revision; guarded by mu
	acked    uint64        // all up to this sequence is stored; guarded by mu
	marks    []mark        // published but not yet stored, in order; guarded by mu
	moved    chan struct{} // has room for one; wakes the checkpoint writer
	advanced chan struct{} // closed and replaced when position moves; guarded by mu
}

// mark says that once seq is stored, everything up to rev is.
type mark struct {
	seq  uint64
	rev  int64
	time time.Time // the writer's clock, for the lag
}

// New makes a relay that reads what f follows.
func New(cli *clientv3.Client, f *feed.Feed, c *bus.Client, cfg Config, log zerolog.Logger) *Relay {
	return &Relay{
		cfg: cfg, cli: cli, feed: f, bus: c, log: log.With().Str("component", "relay").Logger(),
		metrics: newMetrics(), moved: make(chan struct{}, 1), advanced: make(chan struct{}),
	}
}

// Position is the last revision up to which everything is stored in HISTORY, 0
// if the relay has not found out yet.
func (r *Relay) Position() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.position
}

// WaitFor returns when everything up to rev is stored in HISTORY.
func (r *Relay) WaitFor(ctx context.Context, rev int64) error {
	for {
		r.mu.Lock()
		position, advanced := r.position, r.advanced
		r.mu.Unlock()
		if position >= rev {
			return nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return fmt.Errorf("history is at revision %d, not yet at %d: %w", position, rev, ctx.Err())
		}
	}
}

// Run relays until ctx ends, and then returns nil.
func (r *Relay) Run(ctx context.Context) error {
	backoff := r.cfg.MinBackoff
	prevMissing := 0
	for {
		before := r.Position()
		err := r.untilMended(ctx, func(ctx context.Context) error { return r.work(ctx, prevMissing >= maxPrevMissing) })
		if ctx.Err() != nil {
			return nil
		}
		if r.Position() != before {
			backoff = r.cfg.MinBackoff
		}
		prevMissing++
		if !errors.Is(err, errPrevMissing) {
			prevMissing = 0
		}
		r.noteFailure(err, backoff)
		if errors.Is(err, bus.ErrFenced) {
			if err := r.untilMended(ctx, r.standBy); err != nil && ctx.Err() == nil {
				r.log.Warn().Err(err).Msg("standby ended")
			}
		}
		select {
		case <-time.After(backoff/2 + rand.N(backoff)):
		case <-ctx.Done():
			return nil
		}
		backoff = min(2*backoff, r.cfg.MaxBackoff)
	}
}

var errMended = errors.New("streams have lost messages")

// untilMended calls fn with a context that ends when the streams must be looked at.
func (r *Relay) untilMended(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	mended, done := make(chan bool, 1), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-r.cfg.Mended:
			mended <- true
			cancel()
		case <-ctx.Done():
		}
	}()
	err := fn(ctx)
	cancel()
	<-done
	select {
	case <-mended:
		return errMended
	default:
		return err
	}
}

// maxPrevMissing is how often a missing previous state is tried again before the
// relay resyncs.
const maxPrevMissing = 3

func (r *Relay) noteFailure(err error, backoff time.Duration) {
	reason := "error"
	event := r.log.Warn()
	switch {
	case errors.Is(err, bus.ErrFenced):
		reason, event = "fenced", r.log.Debug()
	case errors.Is(err, bus.ErrNoSpace):
		reason, event = "no_space", r.log.Error()
	}
	r.metrics.restarts.WithLabelValues(reason).Inc()
	event.Err(err).Int64("rev", r.Position()).Dur("backoff", backoff).Msg("relay starts over")
	// Behind a message that a full disk took back, the next one seems fenced.
	if r.cfg.Recover != nil {
		if err := r.cfg.Recover(); err != nil {
			r.log.Error().Err(err).Msg("streams can't be written, changes wait in etcd")
		}
	}
}

// work is one session: it relays from the stream's end until something fails.
func (r *Relay) work(ctx context.Context, forceResync bool) error {
	at, err := r.findEnd(ctx)
	if err != nil {
		return err
	}
	if forceResync && at.resync == nil {
		at.resync = &gap{after: at.rev - 1, reason: "etcd no longer has the state before a change"}
	}
	if at.resync == nil {
		err := r.follow(ctx, at)
		if !errors.Is(err, feed.ErrTooOld) {
			return err
		}
		if at, err = r.findEnd(ctx); err != nil {
			return err
		}
		if at.resync == nil {
			at.resync = &gap{after: at.rev - 1, reason: "etcd has compacted the revisions"}
		}
	}
	at, err = r.resync(ctx, at)
	if err != nil {
		return fmt.Errorf("resync: %w", err)
	}
	return r.follow(ctx, at)
}

// follow appends everything from at on.
func (r *Relay) follow(ctx context.Context, at resume) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	session := r.restart(at)
	window, err := r.bus.OpenWindow(at.seq, r.cfg.Window, func(seq uint64) { r.stored(session, seq) })
	if err != nil {
		return err
	}
	defer window.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() { r.saveCheckpoints(ctx, at.epoch) })
	wg.Go(func() { r.watchMirrors(ctx) })
	wg.Go(func() {
		select {
		case <-window.Failed():
			cancel(window.Err())
		case <-ctx.Done():
		}
	})
	cursor := r.feed.Follow(at.rev)
	defer cursor.Close()
	r.log.Info().Int64("rev", at.rev).Uint64("seq", at.seq).Msg("relay follows etcd")
	skip := at.skip
	for {
		batch, err := cursor.Next(ctx)
		if err != nil {
			return errors.Join(window.Err(), err)
		}
		if err := r.relay(ctx, window, batch, at, &skip); err != nil {
			return errors.Join(window.Err(), err)
		}
	}
}

// relay publishes one batch.
func (r *Relay) relay(ctx context.Context, w *bus.Window, batch feed.Batch, at resume, skip *int) error {
	entries := batch.Entries
	for len(entries) > 0 {
		n := revision(entries)
		messages, err := project(entries[:n], at.epoch)
		if err != nil {
			return err
		}
		if *skip > 0 {
			if entries[0].Rev != at.rev || *skip > len(messages) {
				return fmt.Errorf("stream has %d messages of revision %d, etcd's revision %d has %d",
					*skip, at.rev, entries[0].Rev, len(messages))
			}
			messages, *skip = messages[*skip:], 0
		}
		for _, m := range messages {
			if err := w.Publish(ctx, m.subject, m.event, r.ttl(m.event)); err != nil {
				return err
			}
		}
		if len(messages) > 0 {
			r.published(mark{seq: w.Next() - 1, rev: entries[0].Rev, time: messages[0].event.Header.Time}, len(messages))
		}
		entries = entries[n:]
	}
	r.published(mark{seq: w.Next() - 1, rev: batch.Rev}, 0)
	return nil
}

// ttl keeps tombstones in STATE from staying for ever.
func (r *Relay) ttl(e schemas.Event) time.Duration {
	if e.Type == schemas.Deleted {
		return r.bus.TombstoneTTL()
	}
	return 0
}

// saveCheckpoints saves the position a while after it has changed.
func (r *Relay) saveCheckpoints(ctx context.Context, epoch string) {
	for {
		select {
		case <-r.moved:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(r.cfg.CheckpointDelay):
		case <-ctx.Done():
			return
		}
		r.mu.Lock()
		// By now the stream may be longer. The checkpoint then matches no end and
		// is not used.
		p := bus.Checkpoint{Seq: r.settled, Rev: r.position, Epoch: epoch}
		r.mu.Unlock()
		if p.Seq == 0 {
			continue
		}
		if err := r.bus.SaveCheckpoint(ctx, p); err != nil && ctx.Err() == nil {
			r.log.Warn().Err(err).Int64("rev", p.Rev).Msg("checkpoint not saved")
		}
	}
}
