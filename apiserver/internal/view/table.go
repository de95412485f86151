package view

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/btree"
)

// ErrGone says that the log no longer holds the changes right after the asked revision.
// The caller must list again (HTTP 410).
var ErrGone = errors.New("revision is no longer in the log")

// DroppedError is an ErrGone that says up to which revision changes are not in the log.
type DroppedError struct{ Rev int64 }

func (e *DroppedError) Error() string {
	return fmt.Sprintf("%v, which begins after %d", ErrGone, e.Rev)
}

// Is makes it an ErrGone.
func (e *DroppedError) Is(target error) bool { return target == ErrGone }

const (
	treeDegree = 32
	// logCap is how many changes of a resource stay for watchers that resume or lag.
	logCap = 16384
)

// Table is the view of one resource: all objects below one key prefix.
type Table struct {
	prefix string
	frozen bool // belongs to the past: nobody writes to it

	mu      sync.RWMutex
	tree    *btree.BTreeG[*Item]
	log     []Event       // ordered by (Rev, arrival); guarded by mu
	dropped int64         // greatest revision that is no longer in the log; guarded by mu
	rev     int64         // everything up to here has been applied; guarded by mu
	epoch   int64         // raised by reset: cursors of an older epoch are gone; guarded by mu
	base    int64         // log index of log[0]; guarded by mu
	changed chan struct{} // closed and replaced when the log grows; guarded by mu
	touched int64         // revision of the last change, or of the last reset; guarded by mu
	roots   []root        // states that pages of a list are still read from; guarded by mu
	index   *index        // nil until somebody selects; guarded by mu
	bytes   int           // of all stored objects; guarded by mu
	changes int64         // how many there have been; guarded by mu

	indexing sync.Mutex // held while the index is built
}

func newTable(prefix string) *Table {
	return &Table{prefix: prefix, tree: newTree(), changed: make(chan struct{})}
}

func newTree() *btree.BTreeG[*Item] {
	return btree.NewG(treeDegree, func(a, b *Item) bool { return a.Key < b.Key })
}

// Get returns the object at key as of the view's revision.
func (t *Table) Get(key string) (*Item, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.tree.Get(&Item{Key: key})
}

// Len is the number of objects.
func (t *Table) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.tree.Len()
}

// Snapshot is an immutable state of a table at a revision.
type Snapshot struct {
	Rev   int64
	tree  *btree.BTreeG[*Item]
	since int64  // the revision that made the state what it is
	index *index // nil if the snapshot was not made to select from
}

// Snapshot returns the present state. It costs O(1); later writes copy the tree
// nodes they touch.
func (t *Table) Snapshot() Snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.snapshotLocked()
}

func (t *Table) snapshotLocked() Snapshot {
	return Snapshot{Rev: t.rev, since: t.touched, tree: t.tree.Clone()}
}

// Ascend calls yield for every object whose key begins with prefix and is not less
// than from (empty: from the first), in key order, until yield returns false.
func (s Snapshot) Ascend(prefix, from string, yield func(*Item) bool) {
	start := max(prefix, from)
	s.tree.AscendGreaterOrEqual(&Item{Key: start}, func(i *Item) bool {
		return strings.HasPrefix(i.Key, prefix) && yield(i)
	})
}

// Cursor is one watcher's place in the log. It is used by one goroutine.
type Cursor struct {
	table *Table
	epoch int64
	next  int64 // log index of the next event
}

// Cursor returns a cursor that yields the changes after revision rev, or ErrGone.
// A revision in the future is allowed: changes up to it are skipped.
func (t *Table) Cursor(rev int64) (*Cursor, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if rev < t.dropped {
		return nil, &DroppedError{t.dropped}
	}
	i := len(t.log)
	for i > 0 && t.log[i-1].Rev > rev {
		i--
	}
	return &Cursor{table: t, epoch: t.epoch, next: t.base + int64(i)}, nil
}

// SnapshotAndCursor returns the present state and a cursor for what comes after it.
func (t *Table) SnapshotAndCursor() (Snapshot, *Cursor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.snapshotLocked(), &Cursor{table: t, epoch: t.epoch, next: t.base + int64(len(t.log))}
}

// Behind reports whether there are events that Poll has not returned.
func (c *Cursor) Behind() bool {
	c.table.mu.RLock()
	defer c.table.mu.RUnlock()
	return c.epoch != c.table.epoch || c.next < c.table.base+int64(len(c.table.log))
}

// Poll returns the events that are ready, the revision up to which the log has now
// been read, and a channel that is closed when there is more. It never blocks.
// The events are shared and must not be changed. ErrGone ends the cursor.
func (c *Cursor) Poll(limit int) (events []Event, rev int64, more <-chan struct{}, err error) {
	t := c.table
	t.mu.RLock()
	defer t.mu.RUnlock()
	if c.epoch != t.epoch || c.next < t.base {
		return nil, 0, nil, ErrGone
	}
	ready := t.log[c.next-t.base:]
	if len(ready) > limit {
		ready = ready[:limit:limit]
		c.next += int64(limit)
		return ready, ready[limit-1].Rev - 1, closedChannel, nil
	}
	c.next += int64(len(ready))
	return ready[:len(ready):len(ready)], t.rev, t.changed, nil
}

var closedChannel = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Rev is the revision up to which the table is complete.
func (t *Table) Rev() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.rev
}

// Generation tells states of a table apart: two calls return the same value only if no
// object has changed between them.
type Generation struct{ epoch, next int64 }

// Generation is the present one.
func (t *Table) Generation() Generation {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return Generation{epoch: t.epoch, next: t.base + int64(len(t.log))}
}

// apply adds the changes of one revision batch and moves to rev. It returns how many
// bytes are stored then.
func (t *Table) apply(rev int64, events []Event) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range events {
		e := &events[i]
		switch e.Type {
		case Deleted:
			t.tree.Delete(e.Item)
		default:
			t.tree.ReplaceOrInsert(e.Item)
		}
		if t.index != nil {
			t.index.apply(e)
		}
		t.bytes += e.grown()
	}
	t.rev = rev
	if len(events) == 0 {
		return t.bytes // watchers of a quiet resource sleep on; they read rev when they have a use for it
	}
	t.touched = rev
	t.dropRootsLocked()
	t.changes += int64(len(events))
	t.log = append(t.log, events...)
	t.trimLocked()
	t.wakeLocked()
	return t.bytes
}

// trimLocked drops the oldest quarter of a full log, whole revisions at a time. The
// rest is moved to a new array: events handed out stay valid.
func (t *Table) trimLocked() {
	if len(t.log) <= logCap {
		return
	}
	cut := len(t.log) - logCap*3/4
	for cut < len(t.log) && t.log[cut].Rev == t.log[cut-1].Rev {
		cut++
	}
	t.dropped = t.log[cut-1].Rev
	t.base += int64(cut)
	t.log = append(make([]Event, 0, logCap+logCap/8), t.log[cut:]...)
}

func (t *Table) wakeLocked() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// reset replaces everything by the given objects at rev; all cursors are gone. It returns
// how many bytes they have.
func (t *Table) reset(rev int64, items []*Item) int {
	tree, bytes := newTree(), 0
	for _, i := range items {
		tree.ReplaceOrInsert(i)
		bytes += len(i.Object)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tree, t.log, t.base, t.bytes = tree, nil, 0, bytes
	t.dropped, t.rev, t.touched = rev, rev, rev
	t.index, t.roots = nil, nil
	t.epoch++
	t.wakeLocked()
	return bytes
}
