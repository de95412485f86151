package feed

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rutter-project/rutter/schemas"
)

// Cursor reads batches at its own pace. It is used by one goroutine.
type Cursor struct {
	feed    *Feed
	rev     int64 // last revision returned
	rewinds int   // of the feed's log, when the cursor was made
	past    *past // not nil while reading from etcd's history
}

// past is a watch of etcd's history, for one cursor that is behind the log.
type past struct {
	cancel    context.CancelFunc
	responses clientv3.WatchChan
}

// Follow makes a cursor whose first batch begins with revision from. It may lie
// in the past, as far as etcd goes back. The caller must Close it.
func (f *Feed) Follow(from int64) *Cursor {
	return &Cursor{feed: f, rev: from - 1, rewinds: f.ring.rewound()}
}

// Close frees what the cursor holds.
func (c *Cursor) Close() { c.leavePast() }

// Next returns the next batch, waiting for it if need be. A batch without
// entries says how far nothing happened. ErrTooOld means that revisions after
// the last batch are lost, ErrRewound that etcd was set back; both end the
// cursor's use. Any other error may be tried again.
func (c *Cursor) Next(ctx context.Context) (Batch, error) {
	for {
		if err := c.feed.WaitFor(ctx, 1); err != nil {
			return Batch{}, err
		}
		b, changed, err := c.feed.ring.after(c.rev, c.rewinds)
		switch {
		case errors.Is(err, ErrRewound):
			return Batch{}, err
		case errors.Is(err, ErrTooOld):
			return c.nextPast(ctx)
		case changed != nil:
			c.leavePast()
			select {
			case <-changed:
			case <-ctx.Done():
				return Batch{}, ctx.Err()
			}
		default:
			c.leavePast()
			return c.take(b), nil
		}
	}
}

// take moves the cursor to the end of b and returns the part of b that is new.
func (c *Cursor) take(b Batch) Batch {
	skip := 0
	for skip < len(b.Entries) && b.Entries[skip].Rev <= c.rev {
		skip++
	}
	b.Entries = b.Entries[skip:]
	c.rev = b.Rev
	return b
}

func (c *Cursor) leavePast() {
	if c.past != nil {
		c.past.cancel()
		c.past = nil
	}
}

// nextPast returns the next batch from etcd's history.
func (c *Cursor) nextPast(ctx context.Context) (Batch, error) {
	if c.past == nil {
		watchCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		c.past = &past{
			cancel:    cancel,
			responses: c.feed.cli.Watch(streamContext(watchCtx, "past"), schemas.Prefix, watchOptions(c.rev+1)...),
		}
		c.feed.log.Debug().Int64("rev", c.rev).Msg("cursor reads from etcd's history")
	}
	for {
		select {
		case <-ctx.Done():
			return Batch{}, ctx.Err()
		case resp, ok := <-c.past.responses:
			if !ok {
				c.leavePast()
				return Batch{}, errors.New("watch of the past closed")
			}
			if err := resp.Err(); err != nil {
				c.leavePast()
				return Batch{}, fmt.Errorf("watch of the past from revision %d: %w", c.rev+1, tooOld(err))
			}
			if b, ok := batchOf(resp, c.rev); ok {
				return c.take(b), nil
			}
		}
	}
}

// tooOld makes etcd's answer to a compacted revision ErrTooOld.
func tooOld(err error) error {
	if errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("%w: %w", ErrTooOld, err)
	}
	return err
}
