package view

import (
	"slices"
	"strings"
	"time"
)

// indexedFrom is from how many objects on an index is worth having.
const indexedFrom = 256

// Selective returns the present state, ready to be selected from. The first call builds
// the index of the table, without holding up the feed. The past has no index: states of
// it are made by the hundred, and seldom selected from.
func (t *Table) Selective(shape *Shape) Snapshot {
	if t.wantsIndex(shape) {
		t.buildIndex(shape)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.snapshotLocked()
	if t.index != nil && t.index.shape == shape {
		s.index = t.index.clone()
	}
	return s
}

func (t *Table) wantsIndex(shape *Shape) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return !t.frozen && t.tree.Len() >= indexedFrom && (t.index == nil || t.index.shape != shape)
}

// buildIndex makes an index of a snapshot and then of what has happened since.
func (t *Table) buildIndex(shape *Shape) {
	t.indexing.Lock()
	defer t.indexing.Unlock()
	for t.wantsIndex(shape) { // else somebody else was faster
		snap, cursor := t.SnapshotAndCursor()
		x := newIndex(shape)
		snap.tree.Ascend(func(i *Item) bool { x.replace(nil, i); return true })
		t.installIndex(x, cursor)
	}
}

// installIndex brings an index up to date and puts it in place, unless the table was reset
// or the log has been trimmed under it.
func (t *Table) installIndex(x *index, cursor *Cursor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cursor.epoch != t.epoch || cursor.next < t.base {
		return
	}
	for i := range t.log[cursor.next-t.base:] {
		x.apply(&t.log[cursor.next-t.base+int64(i)])
	}
	t.index = x
}

// Select calls yield for every object that matches, whose key begins with prefix and is
// not less than from, in key order, until yield returns false. It returns how many objects
// were looked at for that.
func (s Snapshot) Select(prefix, from string, selector Selector, yield func(*Item) bool) (read int) {
	matching := func(i *Item) bool { read++; return !selector.Matches(i) || yield(i) }
	if s.index == nil || selector.Empty() {
		s.Ascend(prefix, from, matching)
		return read
	}
	conditions := s.index.conditions(selector)
	keys, ok := s.index.narrow(conditions, prefix, from, s.tree.Len()/scanFrom)
	if !ok {
		s.Ascend(prefix, from, matching)
		return read
	}
	if decides(selector, conditions) {
		matching = func(i *Item) bool { read++; return yield(i) }
	}
	for _, key := range keys {
		if i, there := s.tree.Get(&Item{Key: key}); there && !matching(i) {
			break
		}
	}
	return read
}

const (
	// rootsKept and rootAge bound what is held for readers of pages: states that differ
	// from the present one, for as long as a reader may take between two pages.
	rootsKept = 4
	rootAge   = time.Minute
	// restsKept is for how many places of a state it is known how many objects follow:
	// one for each list that is being read page by page.
	restsKept = 256
)

// Place is where a page of a list begins: at the first key with a prefix that is not less
// than From.
type Place struct{ Prefix, From string }

// root is a state of the table, and the last revision at which it is known to be that.
type root struct {
	snap  Snapshot
	last  int64
	used  time.Time
	rests map[Place]int64 // how many objects there are from a place on
}

func (r *root) keepRest(at Place, n int64) {
	if n <= 0 {
		return
	}
	if r.rests == nil || len(r.rests) >= restsKept {
		r.rests = map[Place]int64{}
	}
	r.rests[at] = n
}

// At returns the state at exactly rev, if it is the present one or was retained.
func (t *Table) At(rev int64) (Snapshot, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.touched <= rev && rev <= t.rev {
		s := t.snapshotLocked()
		s.Rev = rev
		return s, true
	}
	for i := range t.roots {
		if r := &t.roots[i]; r.snap.since <= rev && rev <= r.last {
			r.used = time.Now()
			s := r.snap
			s.Rev = rev
			return s, true
		}
	}
	return Snapshot{}, false
}

// Retain keeps a state for a while, so that the next page of a list can be read from it.
// It costs nothing until the table changes. If rest is not 0, it is how many objects there
// are from the next page's place on, and CountFrom need not count them.
func (t *Table) Retain(s Snapshot, next Place, rest int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.frozen {
		return
	}
	now := time.Now()
	for i := range t.roots {
		if r := &t.roots[i]; r.snap.since == s.since {
			r.last, r.used = max(r.last, s.Rev), now
			r.keepRest(next, rest)
			return
		}
	}
	if len(t.roots) == rootsKept {
		oldest := slices.MinFunc(t.roots, func(a, b root) int { return a.used.Compare(b.used) })
		t.roots = slices.DeleteFunc(t.roots, func(r root) bool { return r.snap.since == oldest.snap.since })
	}
	r := root{snap: s, last: s.Rev, used: now}
	r.keepRest(next, rest)
	t.roots = append(t.roots, r)
}

// CountFrom is how many objects a snapshot of the table has from a place on. The end of a
// list is far from most of its pages: only its first page counts, others know from the one
// before.
func (t *Table) CountFrom(s Snapshot, at Place) int64 {
	if n, ok := t.rest(s, at); ok {
		return n
	}
	var n int64
	s.Ascend(at.Prefix, at.From, func(*Item) bool { n++; return true })
	return n
}

func (t *Table) rest(s Snapshot, at Place) (int64, bool) {
	if at.From == "" && strings.TrimSuffix(at.Prefix, "/") == t.prefix {
		return int64(s.tree.Len()), true
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for i := range t.roots {
		if r := &t.roots[i]; r.snap.since == s.since {
			n, ok := r.rests[at]
			return n, ok
		}
	}
	return 0, false
}

// dropRootsLocked forgets states that nobody has read from lately.
func (t *Table) dropRootsLocked() {
	if len(t.roots) == 0 {
		return
	}
	now := time.Now()
	t.roots = slices.DeleteFunc(t.roots, func(r root) bool { return now.Sub(r.used) > rootAge })
}
