package view

import (
	"slices"
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
// All of it is immutable and replaced as a whole.
type brief struct {
	decoded atomic.Pointer[decoded]
	record  atomic.Pointer[Record]
	frames  atomic.Pointer[[]frame]
}

type decoded struct {
	obj   runtime.Object
	owner any
}

// FrameKind tells apart the frames that are made of one change. Form is any comparable
// value.
type FrameKind struct {
	Form  any
	Event string
	// Last tells that the frame is of the object before the change.
	Last bool
}

// frame is what watchers in one form are sent.
type frame struct {
	kind  FrameKind
	bytes []byte
}

// keep returns what is kept of the item.
func (i *Item) keep() *brief {
	for {
		held := i.brief.Load()
		if held != nil {
			if b := held.Value(); b != nil {
				return b
			}
		}
		b := &brief{}
		w := weak.Make(b)
		if i.brief.CompareAndSwap(held, &w) {
			return b
		}
	}
}

// Frame returns the frame of a kind, if it was made and is still there: one change is
// encoded once for all its watchers of a form. It must not be changed.
func (i *Item) Frame(kind FrameKind) ([]byte, bool) {
	if frames := i.keep().frames.Load(); frames != nil {
		for n := range *frames {
			if f := &(*frames)[n]; f.kind == kind {
				return f.bytes, true
			}
		}
	}
	return nil, false
}

// KeepFrame keeps a frame for others.
func (i *Item) KeepFrame(kind FrameKind, bytes []byte) {
	b := i.keep()
	for {
		old := b.frames.Load()
		var frames []frame
		if old != nil {
			frames = *old
		}
		frames = append(slices.Clip(frames), frame{kind, bytes})
		if b.frames.CompareAndSwap(old, &frames) {
			return
		}
	}
}

// Decoded returns the object, calling decode unless an earlier result for the same
// owner is still there: versions of a custom resource share items but not objects. The
// result is shared: callers must not change it.
func (i *Item) Decoded(owner any, decode func(object []byte, rev int64) (runtime.Object, error)) (runtime.Object, error) {
	b := i.keep()
	if d := b.decoded.Load(); d != nil && d.owner == owner {
		return d.obj, nil
	}
	obj, err := decode(i.Object, i.Rev)
	if err != nil {
		return nil, err
	}
	b.decoded.Store(&decoded{obj, owner})
	return obj, nil
}

// Record returns what selectors look at.
func (i *Item) Record(shape *Shape) *Record {
	b := i.keep()
	if r := b.record.Load(); r != nil && r.shape == shape {
		return r
	}
	r := shape.record(i.Object)
	b.record.Store(r)
	return r
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

// grown is by how many bytes there is more stored than before.
func (e *Event) grown() int {
	var n int
	if e.Type != Deleted {
		n = len(e.Item.Object)
	}
	if e.Prev != nil {
		n -= len(e.Prev.Object)
	}
	return n
}
