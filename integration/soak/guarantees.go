package soak

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/rutter-project/rutter/schemas"
)

// Change is what etcd says happened to one object at one revision.
type Change struct {
	Rev     int64
	Key     schemas.Key
	Deleted bool
	// PrevRev is the revision of the object's previous state, 0 if it was created.
	PrevRev int64
	// Header is who wrote it: the first line of the value, for a deletion that of the
	// cause in the same transaction. Nil if etcd itself removed the object.
	Header *schemas.Header
	// Object is the new state, for a deletion the last one.
	Object []byte
	// From and To are the nodes that the object was and is bound to, if it is a pod.
	From, To string
}

// Record is one message of the stream.
type Record struct {
	Seq     uint64
	Subject string
	Event   schemas.Event
}

// Guarantees are all rules, by name.
func Guarantees() map[string]func([]Change, []Record) error {
	return map[string]func([]Change, []Record) error{
		"complete":         Complete,
		"unique":           func(_ []Change, stream []Record) error { return Unique(stream) },
		"ordered":          func(_ []Change, stream []Record) error { return Ordered(stream) },
		"atomic revisions": func(_ []Change, stream []Record) error { return AtomicRevisions(stream) },
		"faithful bodies":  FaithfulBodies,
		"nothing invented": NothingInvented,
		"one epoch":        func(_ []Change, stream []Record) error { return OneEpoch(stream) },
		"no gaps":          func(_ []Change, stream []Record) error { return NoGaps(stream) },
	}
}

// slot is where a message belongs. Several pods of one node may change at one revision.
type slot struct {
	rev     int64
	subject string
	key     schemas.Key
}

func slotOf(r *Record) slot { return slot{r.Event.Rev, r.Subject, r.Event.Key} }

// wanted are the messages that a history must have in the stream.
func wanted(history []Change) map[slot]wantedRecord {
	all := make(map[slot]wantedRecord, 2*len(history))
	for i := range history {
		c := &history[i]
		kind := schemas.Modified
		switch {
		case c.Deleted:
			kind = schemas.Deleted
		case c.PrevRev == 0:
			kind = schemas.Added
		}
		all[slot{c.Rev, c.Key.Subject(), c.Key}] = wantedRecord{c, kind}
		if c.From != "" && (c.Deleted || c.From != c.To) {
			left := schemas.Left
			if c.Deleted {
				left = schemas.Deleted
			}
			all[slot{c.Rev, schemas.NodeRoute(c.From), c.Key}] = wantedRecord{c, left}
		}
		if c.To != "" && !c.Deleted {
			bound := schemas.Modified
			if c.From != c.To {
				bound = schemas.Added
			}
			all[slot{c.Rev, schemas.NodeRoute(c.To), c.Key}] = wantedRecord{c, bound}
		}
	}
	return all
}

type wantedRecord struct {
	change *Change
	kind   schemas.EventType
}

// Complete means: every change is in the stream, and on the routes of the nodes it concerns.
func Complete(history []Change, stream []Record) error {
	have := make(map[slot]bool, len(stream))
	for i := range stream {
		have[slotOf(&stream[i])] = true
	}
	for s := range wanted(history) {
		if !have[s] {
			return fmt.Errorf("revision %d has no message on %s", s.rev, s.subject)
		}
	}
	return nil
}

// Unique means: no message is in the stream twice.
func Unique(stream []Record) error {
	seen := make(map[slot]uint64, len(stream))
	for i := range stream {
		s := slotOf(&stream[i])
		if first, twice := seen[s]; twice {
			return fmt.Errorf("revision %d on %s is message %d and message %d", s.rev, s.subject, first, stream[i].Seq)
		}
		seen[s] = stream[i].Seq
	}
	return nil
}

// Ordered means: sequence numbers have no holes, and messages come by revision and ordinal,
// whatever the writers' clocks said.
func Ordered(stream []Record) error {
	for i := 1; i < len(stream); i++ {
		a, b := &stream[i-1], &stream[i]
		if b.Seq != a.Seq+1 {
			return fmt.Errorf("message %d follows message %d", b.Seq, a.Seq)
		}
		if b.Event.Rev < a.Event.Rev || b.Event.Rev == a.Event.Rev && b.Event.Ord <= a.Event.Ord {
			return fmt.Errorf("message %d has revision %d.%d, the one before it %d.%d", b.Seq, b.Event.Rev, b.Event.Ord, a.Event.Rev, a.Event.Ord)
		}
	}
	return nil
}

// AtomicRevisions means: the messages of one revision are numbered without a hole, and say how
// many they are; the last of them is on an object's subject.
func AtomicRevisions(stream []Record) error {
	for i := 0; i < len(stream); {
		first := &stream[i]
		n := 0
		for i+n < len(stream) && stream[i+n].Event.Rev == first.Event.Rev {
			e := &stream[i+n].Event
			if e.Ord != n || e.Cnt != first.Event.Cnt {
				return fmt.Errorf("message %d is %d of %d of revision %d, want %d of %d", stream[i+n].Seq, e.Ord, e.Cnt, e.Rev, n, first.Event.Cnt)
			}
			n++
		}
		if n != first.Event.Cnt {
			return fmt.Errorf("revision %d has %d messages and says %d", first.Event.Rev, n, first.Event.Cnt)
		}
		if _, err := schemas.ParseSubject(stream[i+n-1].Subject); err != nil {
			return fmt.Errorf("revision %d ends on %s, which is no object's subject", first.Event.Rev, stream[i+n-1].Subject)
		}
		i += n
	}
	return nil
}

// FaithfulBodies means: each message tells the change that etcd has, byte for byte, with who
// made it and why.
func FaithfulBodies(history []Change, stream []Record) error {
	want := wanted(history)
	for i := range stream {
		r := &stream[i]
		w, ok := want[slotOf(r)]
		if !ok {
			continue // NothingInvented tells
		}
		if err := faithful(w, &r.Event); err != nil {
			return fmt.Errorf("message %d, revision %d on %s: %w", r.Seq, r.Event.Rev, r.Subject, err)
		}
	}
	return nil
}

func faithful(w wantedRecord, e *schemas.Event) error {
	switch {
	case e.Type != w.kind:
		return fmt.Errorf("type %s, want %s", e.Type, w.kind)
	case e.PrevRev != w.change.PrevRev:
		return fmt.Errorf("previous revision %d, want %d", e.PrevRev, w.change.PrevRev)
	case w.kind != schemas.Left && !bytes.Equal(e.Object, w.change.Object):
		return fmt.Errorf("body %.80q, want %.80q", e.Object, w.change.Object)
	}
	if w.change.Header == nil {
		if e.Header.User != "" || e.Header.Verb != "expire" {
			return fmt.Errorf("etcd itself removed the object, and the message names %q and %q", e.Header.User, e.Header.Verb)
		}
		return nil
	}
	have, err := json.Marshal(e.Header)
	if err != nil {
		return err
	}
	want, err := json.Marshal(w.change.Header)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, want) {
		return fmt.Errorf("header %s, want %s", have, want)
	}
	return nil
}

// NothingInvented means: the stream has nothing that did not happen.
func NothingInvented(history []Change, stream []Record) error {
	want := wanted(history)
	for i := range stream {
		s := slotOf(&stream[i])
		if _, ok := want[s]; !ok {
			return fmt.Errorf("message %d tells of revision %d on %s, which etcd does not know", stream[i].Seq, s.rev, s.subject)
		}
	}
	return nil
}

// NoGaps means: while etcd has everything, nothing is declared lost and nothing is made up for.
func NoGaps(stream []Record) error {
	for i := range stream {
		if e := &stream[i].Event; e.Type == schemas.Gap || e.Resync != 0 {
			return fmt.Errorf("message %d is of a resync (%s, revision %d): %s", stream[i].Seq, e.Type, e.Rev, e.Object)
		}
	}
	return nil
}

// OneEpoch means: the stream was not made anew on the way.
func OneEpoch(stream []Record) error {
	for i := range stream {
		if have, want := stream[i].Event.Epoch, stream[0].Event.Epoch; have != want {
			return fmt.Errorf("message %d is of epoch %q, the first one of %q", stream[i].Seq, have, want)
		}
	}
	return nil
}

// Continued means: a stream goes on where it ended.
func Continued(last Record, stream []Record) error {
	if len(stream) == 0 {
		return nil
	}
	pair := []Record{last, stream[0]}
	return errors.Join(OneEpoch(pair), Ordered(pair))
}

// Mirrored means: a mirror has the messages on objects' subjects, with their sequence numbers.
func Mirrored(stream, mirror []Record) error {
	i := 0
	for j := range stream {
		s := &stream[j]
		if _, err := schemas.ParseSubject(s.Subject); err != nil {
			continue
		}
		if i == len(mirror) {
			return fmt.Errorf("message %d is not in the mirror", s.Seq)
		}
		m := &mirror[i]
		if m.Seq != s.Seq || m.Subject != s.Subject || m.Event.Rev != s.Event.Rev || !bytes.Equal(m.Event.Object, s.Event.Object) {
			return fmt.Errorf("message %d on %s is message %d on %s in the mirror", s.Seq, s.Subject, m.Seq, m.Subject)
		}
		i++
	}
	if i != len(mirror) {
		return fmt.Errorf("the mirror has message %d, the stream does not", mirror[i].Seq)
	}
	return nil
}
