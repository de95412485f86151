package view

import (
	"sync"
	"sync/atomic"
	"weak"

	"k8s.io/apimachinery/pkg/runtime"
)

// Item is one stored object at one revision. It is immutable; what is cached in it
// can always be made again.
type Item struct {
	Key    string // etcd key
	Rev    int64  // mod revision: the object's resourceVersion
	Object []byte // the stored JSON, without resourceVersion, sealed if its kind is
	// Created is the revision at which the object was created, 0 if it is deleted or
	// the item does not come from the view.
	Created int64

	brief atomic.Pointer[weak.Pointer[brief]]
	forms atomic.Pointer[[]*form] // replaced as a whole, by a Forms that holds its lock
}

// brief is what was made of an item and is kept until the next garbage collection: long
// enough for one change to reach all its watchers, without holding every object twice.
type brief struct {
	mu      sync.Mutex
	decoded runtime.Object
	owner   any // of decoded
	record  *Record
	shape   *Shape // of record
	frames  []frame
}

// frame is what watchers in one form are sent.
type frame struct {
	form  any
	bytes []byte
}

// keep returns what is kept of the item, with its lock held.
func (i *Item) keep() *brief {
	for {
		held := i.brief.Load()
		if held != nil {
			if b := held.Value(); b != nil {
				b.mu.Lock()
				return b
			}
		}
		b := &brief{}
		w := weak.Make(b)
		b.mu.Lock()
		if i.brief.CompareAndSwap(held, &w) {
			return b
		}
	}
}

// Frame returns the bytes that build makes for a form, calling it unless an earlier
// result is still there: one change is encoded once for all its watchers of a form, which
// is any comparable value. The result must not be changed.
func (i *Item) Frame(form any, build func() ([]byte, error)) ([]byte, error) {
	b := i.keep()
	for _, f := range b.frames {
		if f.form == form {
			b.mu.Unlock()
			return f.bytes, nil
		}
	}
	b.mu.Unlock() // build may ask for other things that are kept
	bytes, err := build()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.frames = append(b.frames, frame{form, bytes})
	return bytes, nil
}

// Decoded returns the object, calling decode unless an earlier result for the same
// owner is still there: versions of a custom resource share items but not objects. The
// result is shared: callers must not change it.
func (i *Item) Decoded(owner any, decode func(object []byte, rev int64) (runtime.Object, error)) (runtime.Object, error) {
	b := i.keep()
	if b.decoded != nil && b.owner == owner {
		defer b.mu.Unlock()
		return b.decoded, nil
	}
	b.mu.Unlock()
	obj, err := decode(i.Object, i.Rev)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.decoded, b.owner = obj, owner
	return obj, nil
}

// Record returns what selectors look at.
func (i *Item) Record(shape *Shape) *Record {
	b := i.keep()
	defer b.mu.Unlock()
	if b.record == nil || b.shape != shape {
		b.record, b.shape = shape.record(i.Object), shape
	}
	return b.record
}

// EventType says what a change did to an object.
type EventType uint8

// The kinds of change. Expiry by lease is a delete.
const (
	Created EventType = iota + 1
	Modified
	Deleted
)

// Event is one committed change of one object. Item is the object after the change;
// for Deleted it is the last object with the revision of the delete. Prev is the
// object before the change, nil for Created.
type Event struct {
	Rev  int64
	Type EventType
	Item *Item
	Prev *Item
}
