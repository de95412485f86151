package bus

import (
	"context"
	"strconv"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/schemas"
)

// tracker knows how far an informer has come: what it was given, and what of
// that its store and handlers do not have yet.
type tracker struct {
	mu      sync.Mutex
	epoch   string               // of the stream that seq is of; guarded by mu
	seq     uint64               // all up to this sequence was given; guarded by mu
	rev     int64                // highest revision given; guarded by mu
	open    map[string]openEvent // given but not yet applied, by namespace/name; guarded by mu
	changed chan struct{}        // closed and replaced with every change somebody waits for; guarded by mu
	waiting int                  // how many wait; guarded by mu
}

type openEvent struct {
	rev     int64
	deleted bool
}

func newTracker() *tracker {
	return &tracker{open: map[string]openEvent{}, changed: make(chan struct{})}
}

// begin notes that the informer is given everything from the start, out of a
// stream of this epoch.
func (t *tracker) begin(epoch string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.epoch, t.seq = epoch, 0
	clear(t.open) // what is still true of it will be given again
}

func (t *tracker) delivered(e schemas.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seq, t.rev = max(t.seq, e.Seq), max(t.rev, e.Rev)
	t.open[e.Key.Namespace+"/"+e.Key.Name] = openEvent{rev: e.Rev, deleted: e.Type == schemas.Deleted}
	t.wake()
}

// passed notes that there is nothing more up to seq.
func (t *tracker) passed(seq uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seq = max(t.seq, seq)
	t.wake()
}

// applied notes that a handler of the informer has seen an object.
func (t *tracker) applied(obj any) {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return
	}
	rev, err := strconv.ParseInt(accessor.GetResourceVersion(), 10, 64)
	if err != nil {
		return
	}
	key := accessor.GetNamespace() + "/" + accessor.GetName()
	t.mu.Lock()
	defer t.mu.Unlock()
	if open, ok := t.open[key]; ok && open.rev <= rev {
		delete(t.open, key)
		t.wake()
	}
}

// wake lets waiters look again. The caller holds mu.
func (t *tracker) wake() {
	if t.waiting > 0 {
		close(t.changed)
		t.changed = make(chan struct{})
	}
}

// wait returns when everything up to seq of an epoch has been given and applied. has tells
// whether the informer's store has an object: the deletion of one that it never
// had is not applied, it is void.
func (t *tracker) wait(ctx context.Context, epoch string, seq uint64, has func(key string) bool) error {
	t.mu.Lock()
	t.waiting++
	defer func() {
		t.waiting--
		t.mu.Unlock()
	}()
	until := int64(-1) // what is given beyond this revision later on need not be applied
	for {
		if t.seq >= seq && t.epoch == epoch {
			if until < 0 {
				until = t.rev
			}
			if !t.openUpTo(until, has) {
				return nil
			}
		}
		changed := t.changed
		t.mu.Unlock()
		select {
		case <-changed:
			t.mu.Lock()
		case <-ctx.Done():
			t.mu.Lock()
			return ctx.Err()
		}
	}
}

// openUpTo reports whether something up to rev has not been applied. The caller
// holds mu.
func (t *tracker) openUpTo(rev int64, has func(key string) bool) bool {
	for key, event := range t.open {
		if event.rev > rev || event.deleted && !has(key) {
			continue
		}
		return true
	}
	return false
}
