package schemas

import (
	"encoding/json"
	"time"
)

// EventType says what an event means to its reader.
type EventType string

// The types of events.
const (
	Added    EventType = "ADDED"    // the object was created
	Modified EventType = "MODIFIED" // the object was changed
	Deleted  EventType = "DELETED"  // the object is gone; Event.Object is its last state
	Left     EventType = "LEFT"     // on a node's route: the pod is no longer bound to this node
	Bookmark EventType = "BOOKMARK" // no change: everything up to Event.Rev has been seen
	Gap      EventType = "GAP"      // changes between Event.PrevRev and Event.Rev, both excluded, are lost
)

// Event is one committed change of one object. A gap has no Key; its Object is
// a JSON object with the member "reason".
type Event struct {
	// Rev is etcd's revision of the commit: the object's new resourceVersion.
	Rev int64
	// Ord is the place of this message among the Cnt messages that the revision
	// has in the stream. Messages to nodes' routes count like any other and come
	// before those of the objects.
	Ord, Cnt int
	Type     EventType
	Key      Key
	// PrevRev is the revision of the object's previous state, 0 if it had none.
	// On a gap it is the last revision before the gap.
	PrevRev int64
	Header  Header
	// Object is the object as stored, without resourceVersion. On Deleted and
	// Left it is the last state.
	Object []byte
	// DataRef stands for an Object that is too large for the bus: the path at which
	// the API serves it, below "/at/rev-N". Object is then empty.
	DataRef string
	// Resync is not 0 on events that stand for changes lost in a gap: the
	// revision at which the state was read.
	Resync int64
	// Epoch names the cluster and the generation of the stream, divided by a
	// dot. Sequence numbers of different epochs can't be compared.
	Epoch string

	// Seq and Recorded are the stream sequence and the time at which the stream
	// took the event. Readers know them from the message's envelope; they are
	// not part of the message.
	Seq      uint64
	Recorded time.Time
}

// Last reports whether this is the last message of its revision.
func (e Event) Last() bool { return e.Ord == e.Cnt-1 }

// Lost reports whether this is a gap that a reader found, not one that a resync closed: no
// state follows it.
func (e Event) Lost() bool { return e.Type == Gap && e.Resync == 0 }

// eventJSON is the event as tools print it. Its shape is event.schema.json, which is
// generated from it.
type eventJSON struct {
	// etcd revision of the commit; the object's new resourceVersion.
	Rev int64 `json:"rev" schema:"minimum=0"`
	// Place among the messages of this revision.
	Ord int `json:"ord" schema:"minimum=0"`
	// How many messages this revision has in the stream.
	Cnt int `json:"cnt" schema:"minimum=0"`
	// What happened.
	Type EventType `json:"type"`
	// The object; absent on a gap.
	Key *Key `json:"key,omitempty"`
	// Revision of the object's previous state; on a gap, the last revision before it.
	PrevRev int64 `json:"prevRev,omitempty" schema:"minimum=1"`
	// Who made the change and why.
	Header *Header `json:"header,omitempty"`
	// Present on events that stand for lost changes: the revision at which the state was read.
	Resync int64 `json:"resync,omitempty" schema:"minimum=1"`
	// Cluster and generation of the stream, divided by a dot.
	Epoch string `json:"epoch,omitempty"`
	// Sequence number in the stream.
	Seq uint64 `json:"seq,omitempty" schema:"minimum=1"`
	// When the stream took the event.
	Recorded *time.Time `json:"recorded,omitempty"`
	// Where the API serves an object that is too large for the bus, instead of object.
	DataRef string `json:"dataRef,omitempty"`
	// The object as stored, without resourceVersion; on DELETED and LEFT its last state.
	Object json.RawMessage `json:"object,omitempty"`
}

// MarshalJSON writes the event in the shape of event.schema.json.
func (e Event) MarshalJSON() ([]byte, error) {
	out := eventJSON{
		Rev: e.Rev, Ord: e.Ord, Cnt: e.Cnt, Type: e.Type, PrevRev: e.PrevRev,
		Resync: e.Resync, Epoch: e.Epoch, Seq: e.Seq, DataRef: e.DataRef, Object: e.Object,
	}
	if e.Key != (Key{}) {
		out.Key = &e.Key
	}
	if e.Header.V != 0 {
		out.Header = &e.Header
	}
	if !e.Recorded.IsZero() {
		out.Recorded = &e.Recorded
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (e *Event) UnmarshalJSON(data []byte) error {
	var in eventJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*e = Event{
		Rev: in.Rev, Ord: in.Ord, Cnt: in.Cnt, Type: in.Type, PrevRev: in.PrevRev,
		Resync: in.Resync, Epoch: in.Epoch, Seq: in.Seq, DataRef: in.DataRef, Object: in.Object,
	}
	if in.Key != nil {
		e.Key = *in.Key
	}
	if in.Header != nil {
		e.Header = *in.Header
	}
	if in.Recorded != nil {
		e.Recorded = *in.Recorded
	}
	return nil
}
