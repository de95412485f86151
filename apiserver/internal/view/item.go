package view

import (
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

	decoded atomic.Pointer[weak.Pointer[decoded]]
	frame   atomic.Pointer[weak.Pointer[frame]]
}

// frame is what watchers send for the change that made the item.
type frame struct{ bytes []byte }

// Frame returns the bytes that build makes, calling it unless an earlier result is
// still there: one change is encoded once for all its watchers. Like decoded objects,
// frames are kept until the next garbage collection. The result must not be changed.
func (i *Item) Frame(build func() []byte) []byte {
	if w := i.frame.Load(); w != nil {
		if f := w.Value(); f != nil {
			return f.bytes
		}
	}
	f := &frame{bytes: build()}
	w := weak.Make(f)
	i.frame.Store(&w)
	return f.bytes
}

type decoded struct {
	obj   runtime.Object
	owner any
}

// Decoded returns the object, calling decode unless an earlier result for the same
// owner is still there: versions of a custom resource share items but not objects.
// Results are kept until the next garbage collection: long enough for one change to
// reach all its watchers, without holding every object twice. The result is shared:
// callers must not change it.
func (i *Item) Decoded(owner any, decode func(object []byte, rev int64) (runtime.Object, error)) (runtime.Object, error) {
	if w := i.decoded.Load(); w != nil {
		if d := w.Value(); d != nil && d.owner == owner {
			return d.obj, nil
		}
	}
	obj, err := decode(i.Object, i.Rev)
	if err != nil {
		return nil, err
	}
	w := weak.Make(&decoded{obj: obj, owner: owner})
	i.decoded.Store(&w)
	return obj, nil
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
