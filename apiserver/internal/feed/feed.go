package feed

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/metadata"

	"github.com/rutter-project/rutter/schemas"
)

// Sink takes everything the feed learns, synchronously and in order.
type Sink interface {
	// Reset replaces all that the sink holds by the state at rev. The entries are
	// ordered by etcd key. An error makes the feed read a new snapshot.
	Reset(rev int64, entries []Entry) error
	// Apply takes one batch. It must not block on anything but its own work: the
	// watch waits for it.
	Apply(b Batch)
}

// Config is what is fixed for a feed.
type Config struct {
	// LogBytes is about how much memory the log for cursors takes.
	LogBytes int
	// PageSize is how many keys one read of the snapshot asks for.
	PageSize int64
	// ProgressGrace is how long WaitFor trusts that a write below the prefix is on
	// its way before it asks etcd how far the watch has come.
	ProgressGrace time.Duration
	// ProgressRetry is how long it waits for the answer before it asks again.
	ProgressRetry time.Duration
	// MinBackoff and MaxBackoff bound the pause after a failure of etcd.
	MinBackoff, MaxBackoff time.Duration
}

// DefaultConfig is what a production API server uses.
func DefaultConfig() Config {
	return Config{
		LogBytes:      16 << 20,
		PageSize:      1000,
		ProgressGrace: 2 * time.Millisecond,
		ProgressRetry: 100 * time.Millisecond,
		MinBackoff:    20 * time.Millisecond,
		MaxBackoff:    5 * time.Second,
	}
}

// Feed follows etcd. New makes one, Run makes it go.
type Feed struct {
	cfg   Config
	cli   *clientv3.Client
	log   zerolog.Logger
	sinks []Sink
	ring  *ring

	head    atomic.Int64  // last revision that all sinks have taken
	cluster atomic.Uint64 // etcd's cluster id, 0 before the first snapshot
	resets  atomic.Int64
	asked   chan struct{} // wakes the goroutine that asks for progress

	mu      sync.Mutex
	waiters map[*waiter]struct{} // guarded by mu
}

// waiter is one call of WaitFor.
type waiter struct {
	rev  int64
	done chan struct{}
}

// errStale says that the feed can't resume and needs a new snapshot.
var errStale = errors.New("watch can't be resumed")

// New makes a feed with DefaultConfig.
func New(cli *clientv3.Client, log zerolog.Logger) *Feed {
	return NewWithConfig(cli, DefaultConfig(), log)
}

// NewWithConfig makes a feed.
func NewWithConfig(cli *clientv3.Client, cfg Config, log zerolog.Logger) *Feed {
	return &Feed{
		cfg:     cfg,
		cli:     cli,
		log:     log.With().Str("component", "feed").Logger(),
		ring:    newRing(cfg.LogBytes),
		asked:   make(chan struct{}, 1),
		waiters: map[*waiter]struct{}{},
	}
}

// Subscribe adds a sink. It must be called before Run.
func (f *Feed) Subscribe(s Sink) { f.sinks = append(f.sinks, s) }

// Revision is the last revision that all sinks have taken, 0 before the first
// snapshot.
func (f *Feed) Revision() int64 { return f.head.Load() }

// ClusterID is etcd's cluster id, 0 before the first snapshot.
func (f *Feed) ClusterID() uint64 { return f.cluster.Load() }

// Resets is how many snapshots have been read.
func (f *Feed) Resets() int64 { return f.resets.Load() }

// Run follows etcd until ctx ends, and then returns nil. It survives any failure
// of etcd.
func (f *Feed) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.askProgress(ctx) })
	g.Go(func() error { return f.follow(ctx) })
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// follow repeats snapshot and watch until ctx ends.
func (f *Feed) follow(ctx context.Context) error {
	stale := true
	backoff := f.cfg.MinBackoff
	for ctx.Err() == nil {
		before := f.Revision()
		err := f.cycle(ctx, stale)
		if ctx.Err() != nil {
			break
		}
		stale = errors.Is(err, errStale) || f.Revision() == 0
		if f.Revision() != before {
			backoff = f.cfg.MinBackoff
		}
		f.log.Warn().Err(err).Int64("rev", f.Revision()).Dur("backoff", backoff).Msg("watch on etcd ended, resuming")
		if !pause(ctx, backoff/2+rand.N(backoff)) {
			break
		}
		backoff = min(2*backoff, f.cfg.MaxBackoff)
	}
	return ctx.Err()
}

// cycle reads a snapshot if the feed is stale, and watches until that ends.
func (f *Feed) cycle(ctx context.Context, stale bool) error {
	if stale {
		if err := f.snapshot(ctx); err != nil {
			return fmt.Errorf("%w: %w", errStale, err)
		}
	}
	return f.watch(ctx)
}

// snapshot reads all objects at one revision and resets the sinks to it.
func (f *Feed) snapshot(ctx context.Context) error {
	start := time.Now()
	rev, entries, cluster, err := ReadState(ctx, f.cli, 0, f.cfg.PageSize)
	if err != nil {
		return err
	}
	for _, s := range f.sinks {
		if err := s.Reset(rev, entries); err != nil {
			return fmt.Errorf("reset to revision %d: %w", rev, err)
		}
	}
	f.cluster.Store(cluster)
	f.resets.Add(1)
	f.ring.reset(rev)
	f.advance(rev)
	f.log.Info().Int64("rev", rev).Int("objects", len(entries)).Dur("took", time.Since(start)).Msg("snapshot read")
	return nil
}

// ReadState reads all objects as of rev, ordered by etcd key, page by page; rev
// 0 means now. It returns the revision read and etcd's cluster id. A revision
// that etcd has compacted away is ErrTooOld.
func ReadState(ctx context.Context, cli *clientv3.Client, rev, pageSize int64) (int64, []Entry, uint64, error) {
	var entries []Entry
	var cluster uint64
	from, end := schemas.RegistryPrefix, clientv3.GetPrefixRangeEnd(schemas.RegistryPrefix)
	for {
		resp, err := cli.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(rev))
		if err != nil {
			return 0, nil, 0, fmt.Errorf("read state at revision %d: %w", rev, tooOld(err))
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		cluster = resp.Header.ClusterId
		if entries == nil {
			entries = make([]Entry, 0, resp.Count)
		}
		for _, kv := range resp.Kvs {
			if e, ok := snapshotEntry(kv); ok {
				entries = append(entries, e)
			}
		}
		if !resp.More {
			return rev, entries, cluster, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// streamName keeps the feed's watch on a gRPC stream of its own: etcd answers a
// request for progress only when every watch on the stream has caught up.
const streamName = "rutter-stream"

func watchOptions(rev int64) []clientv3.OpOption {
	return []clientv3.OpOption{
		clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithProgressNotify(),
		clientv3.WithCreatedNotify(), clientv3.WithRev(rev),
	}
}

func streamContext(ctx context.Context, name string) context.Context {
	return metadata.AppendToOutgoingContext(clientv3.WithRequireLeader(ctx), streamName, name)
}

// watch applies all that follows the head until the watch breaks.
func (f *Feed) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	head := f.Revision()
	for resp := range f.cli.Watch(streamContext(ctx, "feed"), schemas.Prefix, watchOptions(head+1)...) {
		if err := resp.Err(); err != nil {
			if resp.CompactRevision != 0 {
				return fmt.Errorf("%w: compacted at %d: %w", errStale, resp.CompactRevision, err)
			}
			return fmt.Errorf("watch from revision %d: %w", head+1, err)
		}
		if resp.Created && (resp.Header.Revision < f.Revision() || resp.Header.ClusterId != f.ClusterID()) {
			return fmt.Errorf("%w: etcd is at revision %d, was at %d", errStale, resp.Header.Revision, f.Revision())
		}
		if b, ok := batchOf(resp, f.Revision()); ok {
			f.apply(b)
		}
	}
	return errors.New("watch channel closed")
}

// batchOf is the batch that a watch response means to somebody who has seen
// everything up to seen; false if it says nothing new.
func batchOf(resp clientv3.WatchResponse, seen int64) (Batch, bool) {
	if resp.IsProgressNotify() {
		return Batch{Rev: resp.Header.Revision}, resp.Header.Revision > seen
	}
	if len(resp.Events) == 0 {
		return Batch{}, false
	}
	// The header's revision may be ahead of a watch that is still catching up.
	rev := resp.Events[len(resp.Events)-1].Kv.ModRevision
	return Batch{Rev: rev, Entries: decode(resp.Events)}, rev > seen
}

// apply hands a batch to cursors and sinks and lets waiters go.
func (f *Feed) apply(b Batch) {
	f.ring.append(b)
	for _, s := range f.sinks {
		s.Apply(b)
	}
	f.advance(b.Rev)
}

func (f *Feed) advance(rev int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.head.Store(rev)
	for w := range f.waiters {
		if w.rev <= rev {
			close(w.done)
			delete(f.waiters, w)
		}
	}
}

// WaitFor returns when all sinks have taken everything up to rev. It may wait
// for a revision that no object has, and for the first snapshot with rev 1.
func (f *Feed) WaitFor(ctx context.Context, rev int64) error {
	if f.Revision() >= rev {
		return nil
	}
	w := &waiter{rev: rev, done: make(chan struct{})}
	f.mu.Lock()
	if f.Revision() >= rev {
		f.mu.Unlock()
		return nil
	}
	f.waiters[w] = struct{}{}
	f.mu.Unlock()
	select {
	case f.asked <- struct{}{}:
	default: // the asker is awake already
	}
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		f.mu.Lock()
		delete(f.waiters, w)
		f.mu.Unlock()
		return fmt.Errorf("wait for revision %d, at %d: %w", rev, f.Revision(), ctx.Err())
	}
}

// askProgress asks etcd how far the watch has come while somebody waits for a
// revision that may have changed nothing below the prefix. It sleeps otherwise.
func (f *Feed) askProgress(ctx context.Context) error {
	for {
		select {
		case <-f.asked:
		case <-ctx.Done():
			return ctx.Err()
		}
		ask := time.Now().Add(f.cfg.ProgressGrace)
		for f.waiting() {
			timer := time.NewTimer(time.Until(ask))
			select {
			case <-timer.C:
				f.requestProgress(ctx)
				ask = time.Now().Add(f.cfg.ProgressRetry)
			case <-f.asked: // somebody new: asking again need not wait for the old answer
				ask = earlier(ask, time.Now().Add(f.cfg.ProgressGrace))
			case <-ctx.Done():
			}
			timer.Stop()
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
}

func (f *Feed) requestProgress(ctx context.Context) {
	if f.Revision() == 0 || !f.waiting() {
		return
	}
	if err := f.cli.RequestProgress(streamContext(ctx, "feed")); err != nil && ctx.Err() == nil {
		f.log.Debug().Err(err).Msg("request for progress failed")
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (f *Feed) waiting() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiters) > 0
}

// pause waits for d; false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
