package feed

import (
	"errors"
	"sort"
	"sync"
)

// ErrTooOld says that a revision is no longer held: neither in memory nor, where
// a cursor may go there, in etcd.
var ErrTooOld = errors.New("revision is no longer held")

// ErrRewound says that etcd was set back to an earlier revision, so that what a
// cursor has returned may not have happened.
var ErrRewound = errors.New("etcd was set back to an earlier revision")

// ring holds the newest batches, bounded by bytes. It covers the revisions
// after floor up to head without a hole.
type ring struct {
	maxBytes int

	mu      sync.Mutex
	batches []Batch
	bytes   int
	floor   int64         // everything after floor is held; guarded by mu; only reset lowers it
	head    int64         // last revision held; guarded by mu
	rewinds int           // how often reset has lowered head; guarded by mu
	changed chan struct{} // closed and replaced when floor or head move; guarded by mu
}

func newRing(maxBytes int) *ring {
	return &ring{maxBytes: maxBytes, changed: make(chan struct{})}
}

// reset empties the ring: nothing up to rev is held.
func (r *ring) reset(rev int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rev < r.head {
		r.rewinds++
	}
	r.batches, r.bytes, r.floor, r.head = nil, 0, rev, rev
	r.wake()
}

func (r *ring) append(b Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.head = b.Rev
	if len(b.Entries) > 0 {
		r.batches = append(r.batches, b)
		r.bytes += batchSize(b)
		r.trim()
	}
	r.wake()
}

// trim drops the oldest batches beyond maxBytes, but never the newest.
func (r *ring) trim() {
	drop := 0
	for r.bytes > r.maxBytes && drop < len(r.batches)-1 {
		r.bytes -= batchSize(r.batches[drop])
		r.floor = r.batches[drop].Rev
		r.batches[drop] = Batch{}
		drop++
	}
	r.batches = r.batches[drop:]
}

func (r *ring) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *ring) rewound() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rewinds
}

// after returns the first batch that reaches beyond rev. If there is none yet,
// it returns a channel that is closed when there may be. ErrTooOld if a
// revision after rev has been dropped, ErrRewound if etcd went back in time
// since the reader saw the given number of rewinds.
func (r *ring) after(rev int64, rewinds int) (Batch, <-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rewinds != r.rewinds {
		return Batch{}, nil, ErrRewound
	}
	if rev < r.floor {
		return Batch{}, nil, ErrTooOld
	}
	i := sort.Search(len(r.batches), func(i int) bool { return r.batches[i].Rev > rev })
	switch {
	case i < len(r.batches):
		return r.batches[i], nil, nil
	case r.head > rev:
		return Batch{Rev: r.head}, nil, nil
	default:
		return Batch{}, r.changed, nil
	}
}

func batchSize(b Batch) int {
	n := 0
	for i := range b.Entries {
		n += b.Entries[i].size()
	}
	return n
}

// size is about how many bytes the ring holds.
func (r *ring) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}
