package engine

import (
	"sync"

	"k8s.io/client-go/tools/cache"
)

// Writes remembers, for each key, the newest revision that reconciling it has written,
// and tells whether an informer has caught up with that. It is what keeps a controller
// from acting twice on a state that does not show its own last act: revisions are
// ordered, so an informer that has shown a revision has shown all before it.
type Writes struct {
	mu      sync.Mutex
	seen    int64            // newest revision the informer has shown; guarded by mu
	written map[string]int64 // by key; guarded by mu
}

// NewWrites follows the informer of the resource that is written.
func NewWrites(informer cache.SharedIndexInformer) (*Writes, error) {
	w := &Writes{written: map[string]int64{}}
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
	return w, err
}

func (w *Writes) saw(obj any) {
	rev := Revision(obj)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = max(w.seen, rev)
}

// Wrote notes that reconciling key wrote obj.
func (w *Writes) Wrote(key string, obj any) {
	rev := Revision(obj)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written[key] = max(w.written[key], rev)
}

// Behind reports whether the informer has not shown all that was written for key. The
// event that ends this state wakes the key.
func (w *Writes) Behind(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.written[key] <= w.seen {
		delete(w.written, key)
		return false
	}
	return true
}
