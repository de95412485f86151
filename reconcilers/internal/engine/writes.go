package engine

import (
	"fmt"
	"sync"

	"k8s.io/client-go/tools/cache"
)

// Writes remembers, for each key, the newest revision that reconciling it has written,
// and tells whether an informer has caught up with that. It is what keeps a controller
// from acting twice on a state that does not show its own last act: revisions are
// ordered, so an informer that has shown a revision has shown all before it.
type Writes struct {
	wake func(key string, rev int64)

	mu      sync.Mutex
	seen    int64               // newest revision the informer has shown; guarded by mu
	written map[string]int64    // by key, what was not shown yet; guarded by mu
	waiting map[string]struct{} // keys that were told to wait; guarded by mu
}

// NewWrites follows the informer of the resource that is written. wake queues a key
// that was found behind when the informer has caught up; Controller.Enqueue is one.
func NewWrites(informer cache.SharedIndexInformer, wake func(key string, rev int64)) (*Writes, error) {
	w := &Writes{wake: wake, written: map[string]int64{}, waiting: map[string]struct{}{}}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    w.saw,
		UpdateFunc: func(_, obj any) { w.saw(obj) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			w.saw(obj)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("follow writes: %w", err)
	}
	return w, nil
}

// saw notes what the informer has shown. It wakes who waits for that: the controller's
// own handler may have been called, and have found the key behind, before this one.
func (w *Writes) saw(obj any) {
	rev := Revision(obj)
	var caughtUp []string
	w.mu.Lock()
	w.seen = max(w.seen, rev)
	for key, written := range w.written {
		if written > w.seen {
			continue
		}
		delete(w.written, key)
		if _, waits := w.waiting[key]; waits {
			delete(w.waiting, key)
			caughtUp = append(caughtUp, key)
		}
	}
	w.mu.Unlock()
	for _, key := range caughtUp {
		w.wake(key, rev)
	}
}

// Wrote notes that reconciling key wrote obj.
func (w *Writes) Wrote(key string, obj any) {
	rev := Revision(obj)
	w.mu.Lock()
	defer w.mu.Unlock()
	if rev > max(w.seen, w.written[key]) {
		w.written[key] = rev
	}
}

// Behind reports whether the informer has not shown all that was written for key. The
// key is woken when it has.
func (w *Writes) Behind(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.written[key] <= w.seen {
		return false
	}
	w.waiting[key] = struct{}{}
	return true
}
