package view

import (
	"context"
	"errors"
	"time"

	"github.com/rutter-project/rutter/schemas"
)

// ErrEnd says that a watch of the past has told everything there is: what it replays
// ends here.
var ErrEnd = errors.New("the replay has ended")

// Past is the whole state at one revision. It never changes; any number of requests read
// it at once.
type Past struct {
	Rev int64
	// Time is when the revision was made.
	Time time.Time
	// Bytes is about how much memory the state takes, if nobody else holds its objects.
	Bytes int64
	// Objects is how many there are.
	Objects int

	tables map[string]*Table // by prefix
}

// Follower tells a watcher what happens: a Cursor, or a replay of the past.
type Follower interface {
	// Poll returns the events that are ready, the revision up to which all has now been
	// told, and a channel that is closed when there is more. It never blocks.
	Poll(limit int) (events []Event, rev int64, more <-chan struct{}, err error)
	// Behind reports whether there are events that Poll has not returned.
	Behind() bool
}

var _ Follower = (*Cursor)(nil)

// Reader is what a request reads instead of the present.
type Reader struct {
	*Past
	// At is the instant that was asked for: Rev is the last revision up to it.
	At time.Time
	// Replay, if not nil, tells what happened after a revision to the objects of a
	// resource, at the pace that was asked for. The watch ends with ErrEnd. stop frees
	// what it holds and waits until that is done.
	Replay func(ctx context.Context, prefix string, after int64) (f Follower, stop func(), err error)
}

type readerKey struct{}

// WithPast returns a context whose requests read the past.
func WithPast(ctx context.Context, r *Reader) context.Context {
	return context.WithValue(ctx, readerKey{}, r)
}

// WithoutPast returns a context whose requests read the present.
func WithoutPast(ctx context.Context) context.Context {
	if PastOf(ctx) == nil {
		return ctx
	}
	return WithPast(ctx, nil)
}

// PastOf is what WithPast has put into the context, nil for the present.
func PastOf(ctx context.Context) *Reader {
	r, _ := ctx.Value(readerKey{}).(*Reader)
	return r
}

// InstantOf is as of when a context's requests read, and whether that is the past.
func InstantOf(ctx context.Context) (time.Time, bool) {
	r := PastOf(ctx)
	if r == nil {
		return time.Time{}, false
	}
	return r.At, true
}

// Past is the present state of all tables, at one revision. Later writes copy the tree
// nodes they touch.
func (v *View) Past(at time.Time) *Past {
	v.mu.RLock()
	p := &Past{Rev: v.rev, Time: at, tables: make(map[string]*Table, len(v.tables))}
	for prefix, t := range v.tables {
		p.tables[prefix] = frozen(prefix, t.Snapshot(), p.Rev)
	}
	v.mu.RUnlock()
	p.Each(func(i *Item) bool { p.count(i, 1); return true })
	return p
}

// NewPast is the state at a revision that lies after base's: base with some objects
// changed. base nil is an empty cluster. Items without an Object are gone.
func NewPast(rev int64, at time.Time, base *Past, changed map[schemas.Key]*Item) *Past {
	p := &Past{Rev: rev, Time: at, tables: map[string]*Table{}}
	if base != nil {
		p.Bytes, p.Objects = base.Bytes, base.Objects
		for prefix, t := range base.tables {
			p.tables[prefix] = frozen(prefix, t.Snapshot(), rev)
		}
	}
	for key, item := range changed {
		prefix := prefixOf(key)
		t, ok := p.tables[prefix]
		if !ok {
			t = frozen(prefix, Snapshot{tree: newTree()}, rev)
			p.tables[prefix] = t
		}
		var was *Item
		var had bool
		if item.Object == nil {
			was, had = t.tree.Delete(item)
		} else {
			was, had = t.tree.ReplaceOrInsert(item)
			p.count(item, 1)
		}
		if had {
			p.count(was, -1)
		}
	}
	return p
}

const itemOverhead = 160

func (p *Past) count(i *Item, n int) {
	p.Objects += n
	p.Bytes += int64(n * (len(i.Object) + len(i.Key) + itemOverhead))
}

// frozen is a table that nobody writes to.
func frozen(prefix string, s Snapshot, rev int64) *Table {
	t := newTable(prefix)
	t.frozen = true
	t.tree, t.rev, t.dropped, t.touched = s.tree, rev, rev, rev
	return t
}

// Table is the state of one resource. Its watchers hear nothing, for ever.
func (p *Past) Table(prefix string) *Table {
	if t, ok := p.tables[prefix]; ok {
		return t
	}
	return frozen(prefix, Snapshot{tree: newTree()}, p.Rev)
}

// Each calls yield for every object until it returns false: those of one resource in
// the order of their keys.
func (p *Past) Each(yield func(*Item) bool) {
	for prefix, t := range p.tables {
		more := true
		t.Snapshot().Ascend(prefix, "", func(i *Item) bool {
			more = yield(i)
			return more
		})
		if !more {
			return
		}
	}
}
