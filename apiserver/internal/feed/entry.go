package feed

import (
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rutter-project/rutter/schemas"
)

// Type says what happened to an object.
type Type uint8

// The types of entries.
const (
	Created Type = iota + 1
	Modified
	Deleted
)

// String is the type's name in events.
func (t Type) String() string { return string(t.EventType()) }

// EventType is the type as the bus spells it.
func (t Type) EventType() schemas.EventType {
	switch t {
	case Created:
		return schemas.Added
	case Modified:
		return schemas.Modified
	case Deleted:
		return schemas.Deleted
	default:
		return schemas.EventType(fmt.Sprintf("UNKNOWN(%d)", uint8(t)))
	}
}

// Entry is one change of one object, or in a snapshot one object as it is. Its
// bytes are shared and must not be changed.
type Entry struct {
	// Rev is the revision of the commit.
	Rev int64
	// Ord is the place among the Cnt objects that the revision changed. Both are
	// 0 in a snapshot.
	Ord, Cnt int
	Key      schemas.Key
	Type     Type
	// Value is the stored envelope, Object the object in it. On Deleted, Value is
	// nil and Object is the last state.
	Value, Object []byte
	// Prev is the envelope before the change and PrevRev its revision. They are
	// empty on Created, in a snapshot, and when etcd has compacted them away;
	// PrevMissing tells the last case.
	Prev    []byte
	PrevRev int64
	// HeaderLine is the undecoded header of the change. On Deleted it comes from
	// the cause key of the same transaction and is nil if there was none, which
	// is how an expired lease looks.
	HeaderLine []byte
	// CreateRev is the revision at which the object was created, 0 on Deleted.
	CreateRev int64
}

// PrevMissing reports that there was a previous state but etcd no longer has it.
func (e *Entry) PrevMissing() bool {
	return e.Type != Created && e.Cnt > 0 && e.PrevRev == 0
}

// PrevObject is the object before the change, nil if there was none.
func (e *Entry) PrevObject() []byte {
	if e.Prev == nil {
		return nil
	}
	_, object := split(e.Prev)
	return object
}

// Header decodes who made the change and why. Removal by an expired lease has
// the verb "expire" and no user.
func (e *Entry) Header() (schemas.Header, error) {
	if e.HeaderLine == nil {
		h := schemas.Header{V: schemas.HeaderVersion}
		if e.Type == Deleted {
			h.Verb = "expire"
		}
		return h, nil
	}
	h, err := schemas.DecodeHeader(e.HeaderLine)
	if err != nil {
		return schemas.Header{}, fmt.Errorf("%s at revision %d: %w", e.Key, e.Rev, err)
	}
	return h, nil
}

// size is about how many bytes the entry keeps in memory.
func (e *Entry) size() int {
	n := len(e.Value) + len(e.Prev) + entryOverhead
	if e.Type == Deleted {
		n += len(e.HeaderLine)
	}
	return n
}

const entryOverhead = 256

// Batch is a run of whole revisions: everything that happened after the batch
// before it, up to and including Rev.
type Batch struct {
	Rev     int64
	Entries []Entry
}

// decode turns the events of one watch response into entries. Events of keys
// that are no objects only serve to explain deletes.
func decode(events []*clientv3.Event) []Entry {
	entries := make([]Entry, 0, len(events))
	for len(events) > 0 {
		rev := events[0].Kv.ModRevision
		n := 1
		for n < len(events) && events[n].Kv.ModRevision == rev {
			n++
		}
		entries = appendRevision(entries, events[:n])
		events = events[n:]
	}
	return entries
}

// appendRevision appends the entries of one revision.
func appendRevision(entries []Entry, events []*clientv3.Event) []Entry {
	first := len(entries)
	var cause []byte
	for _, event := range events {
		path := string(event.Kv.Key)
		if event.Type == mvccpb.PUT && strings.HasPrefix(path, schemas.CausePrefix) {
			cause = event.Kv.Value
			continue
		}
		key, err := schemas.ParsePath(path)
		if err != nil {
			continue // a key that is no object only moves the revision on
		}
		entries = append(entries, entryOf(key, event))
	}
	for i := first; i < len(entries); i++ {
		e := &entries[i]
		e.Ord, e.Cnt = i-first, len(entries)-first
		if e.Type == Deleted {
			e.HeaderLine = headerLine(cause)
		}
	}
	return entries
}

func entryOf(key schemas.Key, event *clientv3.Event) Entry {
	e := Entry{Rev: event.Kv.ModRevision, Key: key}
	if event.PrevKv != nil {
		e.Prev, e.PrevRev = event.PrevKv.Value, event.PrevKv.ModRevision
	}
	switch {
	case event.Type == mvccpb.DELETE:
		e.Type = Deleted
		e.Object = e.PrevObject()
	case event.IsCreate():
		e.Type = Created
	default:
		e.Type = Modified
	}
	if e.Type != Deleted {
		e.Value, e.CreateRev = event.Kv.Value, event.Kv.CreateRevision
		e.HeaderLine, e.Object = split(e.Value)
	}
	return e
}

// snapshotEntry is an object as a range read finds it; false if the key is none.
func snapshotEntry(kv *mvccpb.KeyValue) (Entry, bool) {
	key, err := schemas.ParsePath(string(kv.Key))
	if err != nil {
		return Entry{}, false
	}
	e := Entry{Rev: kv.ModRevision, CreateRev: kv.CreateRevision, Key: key, Type: Modified, Value: kv.Value}
	if kv.CreateRevision == kv.ModRevision {
		e.Type = Created
	}
	e.HeaderLine, e.Object = split(kv.Value)
	return e, true
}

// split takes an envelope apart. A value without a header is taken to be a bare
// object: an event must not be lost because of what somebody wrote.
func split(value []byte) (header, object []byte) {
	header, object, err := schemas.SplitValue(value)
	if errors.Is(err, schemas.ErrNoHeader) {
		return nil, value
	}
	return header, object
}

// headerLine is a cause key's value without the newline it may end in.
func headerLine(value []byte) []byte {
	for len(value) > 0 && value[len(value)-1] == '\n' {
		value = value[:len(value)-1]
	}
	if len(value) == 0 {
		return nil
	}
	return value
}
