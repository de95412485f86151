package view

import (
	"context"
	"sync"

	"github.com/google/btree"
)

// replayAhead is how many changes may wait for a watcher that reads slowly.
const replayAhead = 1024

// Replay tells a watcher what happened in the past, as it is given to it. One goroutine
// calls Add, Seen and End, another one Poll and Behind: whoever gives waits for the one
// who takes.
type Replay struct {
	tree *btree.BTreeG[*Item] // the state after the last Add; owned by the giver

	mu    sync.Mutex
	ready []Event       // guarded by mu
	seen  int64         // everything up to here has been given; guarded by mu
	err   error         // how it ended; guarded by mu
	more  chan struct{} // closed and replaced when there is something to take; guarded by mu
	room  chan struct{} // has one token when something was taken
}

var _ Follower = (*Replay)(nil)

// NewReplay begins with the state of a resource.
func NewReplay(t *Table) *Replay {
	s := t.Snapshot()
	return &Replay{tree: s.tree, seen: s.Rev, more: make(chan struct{}), room: make(chan struct{}, 1)}
}

// Add gives the next change: an object as it is now, or one without Object that is gone.
// It waits while the watcher is too far behind. If quiet, the change is before what the
// watcher wants to hear of.
func (r *Replay) Add(ctx context.Context, item *Item, quiet bool) error {
	e := Event{Rev: item.Rev, Type: Modified, Item: item}
	if item.Object == nil {
		was, ok := r.tree.Delete(item)
		if !ok {
			return nil
		}
		e.Type, e.Prev, e.Item = Deleted, was, &Item{Key: item.Key, Rev: item.Rev, Object: was.Object}
	} else if was, ok := r.tree.ReplaceOrInsert(item); ok {
		e.Prev = was
	} else {
		e.Type = Created
	}
	if quiet {
		return nil
	}
	for {
		r.mu.Lock()
		if len(r.ready) < replayAhead {
			r.ready = append(r.ready, e)
			r.wakeLocked()
			r.mu.Unlock()
			return nil
		}
		r.mu.Unlock()
		select {
		case <-r.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Seen says that everything up to a revision has been given.
func (r *Replay) Seen(rev int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = max(r.seen, rev)
}

// End says that nothing comes any more, because of err. The watcher takes first what is
// there.
func (r *Replay) End(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	r.wakeLocked()
}

func (r *Replay) wakeLocked() {
	close(r.more)
	r.more = make(chan struct{})
}

// Poll implements Follower.
func (r *Replay) Poll(limit int) (events []Event, rev int64, more <-chan struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ready) == 0 {
		if r.err != nil {
			return nil, r.seen, nil, r.err
		}
		return nil, r.seen, r.more, nil
	}
	n := min(limit, len(r.ready))
	events, r.ready = r.ready[:n:n], r.ready[n:]
	select {
	case r.room <- struct{}{}:
	default:
	}
	if len(r.ready) > 0 || r.err != nil {
		return events, events[n-1].Rev - 1, closedChannel, nil
	}
	return events, events[n-1].Rev - 1, r.more, nil
}

// Behind implements Follower.
func (r *Replay) Behind() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ready) > 0 || r.err != nil
}
