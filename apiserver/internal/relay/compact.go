package relay

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// CompactorConfig is what is fixed for a compactor.
type CompactorConfig struct {
	// Keep is for how long etcd keeps revisions at least.
	Keep time.Duration
	// Interval is how often the compactor looks. It asks nobody: the positions are
	// this process's own.
	Interval time.Duration
	// Settle is how old a position of the relay has to be before compaction relies on
	// it: longer than the bus takes to flush what it has acknowledged, so that etcd
	// still has whatever a loss of power takes from the stream.
	Settle time.Duration
	// MaxHold is how long a relay that does not advance may hold compaction back.
	// After that, changes will be lost to history, which the relay then names.
	MaxHold time.Duration
}

// DefaultCompactorConfig is what a production API server uses. Settle covers the two
// minutes after which a NATS server flushes that was not told otherwise.
func DefaultCompactorConfig() CompactorConfig {
	return CompactorConfig{Keep: 5 * time.Minute, Interval: time.Minute, Settle: 3 * time.Minute, MaxHold: 12 * time.Hour}
}

// Compactor orders etcd's compaction, never past what the relay has stored. One
// in a cluster is enough, more do no harm.
type Compactor struct {
	cfg      CompactorConfig
	cli      *clientv3.Client
	revision func() int64
	position func() int64
	log      zerolog.Logger
	plan     plan
}

// NewCompactor makes a compactor. revision is the newest revision known and
// position the relay's.
func NewCompactor(cli *clientv3.Client, revision, position func() int64, cfg CompactorConfig, log zerolog.Logger) *Compactor {
	return &Compactor{
		cfg: cfg, cli: cli, revision: revision, position: position,
		log: log.With().Str("component", "compactor").Logger(),
	}
}

// Run compacts until ctx ends, and then returns nil.
func (c *Compactor) Run(ctx context.Context) error {
	ticker := time.NewTicker(c.cfg.Interval)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			c.tick(ctx, now)
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *Compactor) tick(ctx context.Context, now time.Time) {
	rev := c.plan.next(now, c.revision(), c.position(), c.cfg)
	if rev == 0 {
		return
	}
	_, err := c.cli.Compact(ctx, rev)
	switch {
	case err == nil:
		c.log.Debug().Int64("rev", rev).Msg("etcd compacted")
	case errors.Is(err, rpctypes.ErrCompacted): // somebody else was faster
	default:
		c.log.Warn().Err(err).Int64("rev", rev).Msg("etcd not compacted")
		return
	}
	c.plan.done = rev
}

// plan decides what to compact. It only computes.
type plan struct {
	newest   samples // revisions
	position samples // of the relay
	done     int64   // last revision compacted
}

// next is the revision to compact at, 0 for none.
func (p *plan) next(now time.Time, newest, position int64, cfg CompactorConfig) int64 {
	p.newest.add(now, newest)
	p.position.add(now, position)
	rev := min(p.newest.before(now.Add(-cfg.Keep)), position-1, p.position.before(now.Add(-cfg.Settle))-1)
	rev = max(rev, p.newest.before(now.Add(-cfg.MaxHold)))
	p.newest.forget(now.Add(-cfg.MaxHold))
	p.position.forget(now.Add(-cfg.Settle))
	if rev <= p.done {
		return 0
	}
	return rev
}

// samples are what a revision was when, oldest first.
type samples []sample

type sample struct {
	at  time.Time
	rev int64
}

// add notes a revision if it is another than before.
func (s *samples) add(at time.Time, rev int64) {
	if n := len(*s); n == 0 || (*s)[n-1].rev != rev {
		*s = append(*s, sample{at: at, rev: rev})
	}
}

// before is the newest revision that was known at an instant, 0 if none was.
func (s samples) before(at time.Time) int64 {
	var rev int64
	for _, one := range s {
		if one.at.After(at) {
			break
		}
		rev = one.rev
	}
	return rev
}

// forget drops samples that no later call needs.
func (s *samples) forget(at time.Time) {
	for len(*s) > 1 && !(*s)[1].at.After(at) {
		*s = (*s)[1:]
	}
}
