package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
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
	// MinBackoff and MaxBackoff bound the pause after an error.
	MinBackoff, MaxBackoff time.Duration
	// Recover, if set, is called when the bus has no streams. The embedded server's
	// method of that name brings them back after the disk was full.
	Recover func() error
}

// DefaultConfig is what a production API server uses.
func DefaultConfig() Config {
	return Config{
		Window:          bus.DefaultWindow,
		CheckpointDelay: time.Second,
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
		metrics: newMetrics(), moved: make(chan struct{}, 1),
	}
}

// Position is the last revision up to which everything is stored in HISTORY, 0
// if the relay has not found out yet.
func (r *Relay) Position() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.position
}

// Run relays until ctx ends, and then returns nil.
func (r *Relay) Run(ctx context.Context) error {
	backoff := r.cfg.MinBackoff
	prevMissing := 0
	for {
		before := r.Position()
		err := r.work(ctx, prevMissing >= maxPrevMissing)
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
		select {
		case <-time.After(backoff/2 + rand.N(backoff)):
		case <-ctx.Done():
			return nil
		}
		backoff = min(2*backoff, r.cfg.MaxBackoff)
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
	if r.cfg.Recover != nil && reason != "fenced" {
		if err := r.cfg.Recover(); err != nil {
			r.log.Error().Err(err).Msg("streams can't be written, changes wait in etcd")
		}
	}
}

// resume is where a session goes on.
type resume struct {
	seq    uint64 // last message of the stream
	rev    int64  // first revision to relay
	skip   int    // messages of that revision that the stream has already
	epoch  string
	resync *gap // not nil if the stream can't be continued
}

// gap is what a resync will have to name.
type gap struct {
	after  int64 // last revision that history has
	reason string
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

// findEnd reads where the stream ends.
func (r *Relay) findEnd(ctx context.Context) (resume, error) {
	if err := r.feed.WaitFor(ctx, 1); err != nil {
		return resume{}, err
	}
	now, err := r.cli.Get(ctx, schemas.Prefix) // linearizable: the revision is etcd's newest
	if err != nil {
		return resume{}, fmt.Errorf("read revision of etcd: %w", err)
	}
	made, err := r.bus.MakeStreams(ctx, now.Header.ClusterId, now.Header.Revision)
	if err != nil {
		return resume{}, err
	}
	head, err := r.bus.Head(ctx, bus.StreamHistory)
	if err != nil {
		return resume{}, err
	}
	checkpoint, err := r.bus.LoadCheckpoint(ctx)
	if err != nil {
		return resume{}, err
	}
	at := resume{seq: head.Seq, epoch: made.Epoch}
	valid := checkpoint.Seq == head.Seq && checkpoint.Epoch == made.Epoch
	if head.Empty {
		at, err = r.resumeEmpty(ctx, at, checkpoint, valid)
		if made.Partial && err == nil && at.resync == nil {
			at.resync = &gap{after: at.rev - 1, reason: "the last state of objects was lost"}
		}
		return at, err
	}
	last, err := r.bus.Message(ctx, bus.StreamHistory, head.Seq)
	if err != nil {
		return resume{}, err
	}
	same, err := r.agrees(ctx, last)
	if err != nil {
		return resume{}, err
	}
	if last.Rev > now.Header.Revision || !same {
		r.log.Warn().Int64("rev", now.Header.Revision).Int64("history", last.Rev).Msg("etcd was set back, making new streams")
		return resume{}, errors.Join(errors.New("etcd was set back"), r.bus.DropStreams(ctx))
	}
	at = resumeAfter(at, last, checkpoint, valid)
	if made.Partial && at.resync == nil {
		at.resync = &gap{after: last.Rev, reason: "the last state of objects was lost"}
	}
	return at, nil
}

// agrees reports whether etcd knows the change that the stream ends with. It
// does not if etcd was restored from a backup and has gone another way since.
func (r *Relay) agrees(ctx context.Context, last schemas.Event) (bool, error) {
	if last.Type != schemas.Added && last.Type != schemas.Modified {
		return true, nil
	}
	resp, err := r.cli.Get(ctx, last.Key.Path(), clientv3.WithRev(last.Rev), clientv3.WithKeysOnly())
	switch {
	case errors.Is(err, rpctypes.ErrCompacted), errors.Is(err, rpctypes.ErrFutureRev):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("read %s at revision %d: %w", last.Key, last.Rev, err)
	default:
		return len(resp.Kvs) == 1 && resp.Kvs[0].ModRevision == last.Rev, nil
	}
}

// resumeAfter decides where to go on after the stream's last message.
func resumeAfter(at resume, last schemas.Event, checkpoint bus.Checkpoint, valid bool) resume {
	switch {
	case last.Type == schemas.Gap:
		at.rev = last.Rev + 1
	case last.Resync != 0:
		at.resync = &gap{after: last.Rev, reason: "a resync was interrupted"}
		return at
	case last.Last():
		at.rev = last.Rev + 1
	default:
		at.rev, at.skip = last.Rev, last.Ord+1
		return at
	}
	if valid {
		at.rev = max(at.rev, checkpoint.Rev+1)
	}
	return at
}

// resumeEmpty decides where to go on when the stream holds no message: from the
// checkpoint, from the beginning of time, or from a gap.
func (r *Relay) resumeEmpty(ctx context.Context, at resume, checkpoint bus.Checkpoint, valid bool) (resume, error) {
	if valid {
		at.rev = checkpoint.Rev + 1
		return at, nil
	}
	known, err := r.bus.LastRevision(ctx, bus.StreamArchive)
	if err != nil {
		return resume{}, err
	}
	state, err := r.bus.LastRevision(ctx, bus.StreamState)
	if err != nil {
		return resume{}, err
	}
	if known == 0 && state == 0 {
		at.rev = 1 // a new cluster: all of etcd's past is new to the stream
		return at, nil
	}
	at.resync = &gap{after: known, reason: "the stream was lost"}
	return at, nil
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

// restart notes where the stream ends when a session begins, and returns the
// session's number.
func (r *Relay) restart(at resume) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.session++
	r.marks, r.acked, r.settled = nil, at.seq, at.seq
	if at.skip > 0 {
		r.settled = 0
	}
	r.moveTo(at.rev - 1)
	return r.session
}

// published notes that messages are on their way, or if there are none that the
// revision is done as soon as those before it are.
func (r *Relay) published(m mark, messages int) {
	r.metrics.published.Add(float64(messages))
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.seq > r.acked {
		r.marks = append(r.marks, m)
		return
	}
	r.finish(m)
}

// stored is called for every message that the stream has acknowledged.
func (r *Relay) stored(session int, seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if session != r.session {
		return
	}
	r.acked = seq
	n := 0
	for n < len(r.marks) && r.marks[n].seq <= seq {
		r.finish(r.marks[n])
		n++
	}
	if r.marks = r.marks[n:]; len(r.marks) == 0 {
		r.marks = nil
	}
}

// finish notes that everything up to a mark is stored. The caller holds mu.
func (r *Relay) finish(m mark) {
	if !m.time.IsZero() {
		r.metrics.lag.Observe(time.Since(m.time).Seconds())
	}
	r.settled = m.seq
	r.moveTo(m.rev)
}

// moveTo sets the position. The caller holds mu.
func (r *Relay) moveTo(rev int64) {
	if rev == r.position {
		return
	}
	r.position = rev
	r.metrics.position.Set(float64(rev))
	select {
	case r.moved <- struct{}{}:
	default:
	}
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
