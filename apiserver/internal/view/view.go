package view

import (
	"context"
	"strings"
	"sync"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/schemas"
)

// View is all tables of one API server. It is a feed.Sink.
type View struct {
	// Forms keeps what is made of items, for whoever reads.
	Forms *Forms

	mu     sync.RWMutex
	tables map[string]*Table // by prefix; guarded by mu
	rev    int64             // guarded by mu

	// Wait blocks until everything up to a revision has been applied; set once.
	wait func(ctx context.Context, rev int64) error
}

var _ feed.Sink = (*View)(nil)

// formsLeast is how many bytes of other forms than the stored one may be kept at least.
// Otherwise it is as many as are stored, so that a list of everything can be kept in two
// or three forms: pods in protobuf are half as long as what is stored, rows of a table a
// tenth.
const formsLeast = 64 << 20

// New returns an empty view. wait is how a reader waits until the feed has applied a
// revision that etcd has committed.
func New(wait func(ctx context.Context, rev int64) error) *View {
	return &View{Forms: NewForms(formsLeast), tables: map[string]*Table{}, wait: wait}
}

// Table returns the view of the resource below prefix ("/rutter/registry/core/pods").
func (v *View) Table(prefix string) *Table {
	v.mu.RLock()
	t, ok := v.tables[prefix]
	v.mu.RUnlock()
	if ok {
		return t
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.tableLocked(prefix)
}

func (v *View) tableLocked(prefix string) *Table {
	t, ok := v.tables[prefix]
	if !ok {
		t = newTable(prefix)
		t.dropped, t.rev, t.touched = v.rev, v.rev, v.rev
		v.tables[prefix] = t
	}
	return t
}

// WaitFor blocks until everything committed up to rev can be read.
func (v *View) WaitFor(ctx context.Context, rev int64) error { return v.wait(ctx, rev) }

// Rev is the revision up to which the view is complete.
func (v *View) Rev() int64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.rev
}

// Reset implements feed.Sink: forget everything, hold these objects.
func (v *View) Reset(rev int64, entries []feed.Entry) error {
	items := map[string][]*Item{}
	for i := range entries {
		e := &entries[i]
		prefix := prefixOf(e.Key)
		items[prefix] = append(items[prefix], itemOf(e))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for prefix := range items {
		v.tableLocked(prefix)
	}
	var bytes int
	for prefix, t := range v.tables {
		bytes += t.reset(rev, items[prefix])
	}
	v.rev = rev
	v.Forms.Allow(max(formsLeast, bytes))
	return nil
}

// Apply implements feed.Sink: the changes of the next revisions. Every table moves to
// the batch's revision, so that a watcher of a quiet resource makes progress too.
func (v *View) Apply(batch feed.Batch) {
	v.mu.Lock()
	defer v.mu.Unlock()
	changes := map[*Table][]Event{}
	for i := range batch.Entries {
		e := &batch.Entries[i]
		t := v.tableLocked(prefixOf(e.Key))
		changes[t] = append(changes[t], t.event(e, changes[t]))
	}
	var bytes int
	for _, t := range v.tables {
		bytes += t.apply(batch.Rev, changes[t])
	}
	for _, events := range changes {
		for i := range events {
			v.Forms.forget(events[i].Prev)
		}
	}
	v.Forms.Allow(max(formsLeast, bytes))
	v.rev = batch.Rev
}

// event turns an entry into an event, with the item that the table (or an earlier
// event of the same batch) holds as the previous one.
func (t *Table) event(e *feed.Entry, pending []Event) Event {
	item := itemOf(e)
	ev := Event{Rev: e.Rev, Item: item, Prev: t.previous(item.Key, pending)}
	if ev.Prev != nil {
		item.Key = ev.Prev.Key // one string for all versions, in the trees and in the index
	}
	switch {
	case e.Type == feed.Deleted:
		ev.Type = Deleted
	case ev.Prev == nil:
		ev.Type = Created
	default:
		ev.Type = Modified
	}
	return ev
}

func (t *Table) previous(key string, pending []Event) *Item {
	for i := len(pending) - 1; i >= 0; i-- {
		if pending[i].Item.Key != key {
			continue
		}
		if pending[i].Type == Deleted {
			return nil
		}
		return pending[i].Item
	}
	item, ok := t.Get(key)
	if !ok {
		return nil
	}
	return item
}

func itemOf(e *feed.Entry) *Item {
	return &Item{Key: e.Key.Path(), Rev: e.Rev, Object: e.Object, Created: e.CreateRev}
}

// prefixOf is the table an object belongs to.
func prefixOf(k schemas.Key) string {
	group := k.Group
	if group == "" {
		group = "core"
	}
	var b strings.Builder
	b.WriteString(schemas.RegistryPrefix)
	b.WriteString(group)
	b.WriteByte('/')
	b.WriteString(k.Resource)
	return b.String()
}
