package bus

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/rutter-project/rutter/schemas"
)

// Truth is what etcd says the stream should hold.
type Truth interface {
	// Bounds are the first revision whose changes can still be read, and the
	// newest revision.
	Bounds(ctx context.Context) (oldest, newest int64, err error)
	// Changes calls fn with every message that the revisions from one to another,
	// both included, have in the stream, in order.
	Changes(ctx context.Context, from, to int64, fn func(schemas.Event) error) error
	// State calls fn with every object as of rev.
	State(ctx context.Context, rev int64, fn func(schemas.Event) error) error
}

// Report is what Verify found. Its counts are of messages, except those of the
// state, which are of objects.
type Report struct {
	// From and To are the revisions compared, both included: what etcd and HISTORY
	// both hold. Changes is how many messages they have according to etcd.
	From    int64 `json:"from"`
	To      int64 `json:"to"`
	Changes int   `json:"changes"`
	// Missing are in etcd and not in the stream, Doubled are in it twice,
	// Unordered came after a later one, Different tell something else than etcd,
	// and Unknown never happened.
	Missing   int `json:"missing"`
	Doubled   int `json:"doubled"`
	Unordered int `json:"unordered"`
	Different int `json:"different"`
	Unknown   int `json:"unknown"`
	// Gaps are the losses that the stream itself names; revisions within them are
	// not counted as missing.
	Gaps []schemas.Event `json:"gaps,omitempty"`
	// Objects is how many objects etcd has; the others are those of them that
	// STATE lacks, those of which it has another revision or content, and those
	// that it has and etcd does not.
	Objects      int `json:"objects"`
	StateMissing int `json:"stateMissing"`
	StateStale   int `json:"stateStale"`
	StateExtra   int `json:"stateExtra"`
	// Examples name the first few findings.
	Examples []string `json:"examples,omitempty"`
}

// maxExamples bounds Report.Examples.
const maxExamples = 20

// OK reports that nothing is wrong. Gaps that are named are not wrong.
func (r *Report) OK() bool {
	return r.Missing == 0 && r.Doubled == 0 && r.Unordered == 0 && r.Different == 0 && r.Unknown == 0 &&
		r.StateMissing == 0 && r.StateStale == 0 && r.StateExtra == 0
}

func (r *Report) found(counter *int, format string, args ...any) {
	*counter++
	if len(r.Examples) < maxExamples {
		r.Examples = append(r.Examples, fmt.Sprintf(format, args...))
	}
}

// place of a message among all that were ever published.
type ordinal struct {
	rev int64
	ord int
}

func (o ordinal) before(p ordinal) bool { return o.rev < p.rev || o.rev == p.rev && o.ord < p.ord }

// print is what is compared of a message.
type fingerprint struct {
	cnt  int
	typ  schemas.EventType
	key  schemas.Key
	prev int64
	body uint64
}

func fingerprintOf(seed maphash.Seed, e schemas.Event) fingerprint {
	return fingerprint{cnt: e.Cnt, typ: e.Type, key: e.Key, prev: e.PrevRev, body: maphash.Bytes(seed, e.Object)}
}

// verifyPatience is how long Verify waits for a relay that lags.
const verifyPatience = 30 * time.Second

// Verify compares HISTORY with etcd over all revisions that both still hold, and
// STATE with etcd's objects. It gives the relay half a minute to pass the revision
// that etcd has when it is called; after that, what is not there is missing.
func (c *Client) Verify(ctx context.Context, truth Truth) (*Report, error) {
	oldest, newest, err := truth.Bounds(ctx)
	if err != nil {
		return nil, err
	}
	v := &verifier{seed: maphash.MakeSeed(), stored: map[ordinal]fingerprint{}, report: &Report{From: oldest, To: newest}}
	expected, err := v.expect(ctx, truth)
	if err != nil {
		return nil, err
	}
	if expected > 0 {
		patient, cancel := context.WithTimeout(ctx, verifyPatience)
		defer cancel()
		if err := c.WaitForRevision(patient, expected); err != nil && patient.Err() == nil || ctx.Err() != nil {
			return nil, errors.Join(err, ctx.Err())
		}
	}
	if err := c.scan(ctx, scan{stream: StreamHistory}, v.read); err != nil {
		return nil, err
	}
	// Read after the messages, so that what was dropped meanwhile is known to be.
	head, err := c.Head(ctx, StreamHistory)
	if err != nil {
		return nil, err
	}
	v.trimmed = v.trimmed || head.Trimmed
	v.compare()
	if err := c.verifyState(ctx, v); err != nil {
		return nil, err
	}
	return v.report, nil
}

// verifier collects what is in the stream and what should be.
type verifier struct {
	seed   maphash.Seed
	report *Report

	wanted  []wanted
	objects []object
	stored  map[ordinal]fingerprint
	last    ordinal
	// first is the place of the first message, or the one after the gap with which
	// the stream begins. It is unknown until begun.
	first   ordinal
	begun   bool
	trimmed bool // the stream has dropped messages, or begins with a gap
}

// object is one that etcd has.
type object struct {
	key  schemas.Key
	rev  int64
	body uint64
}

type wanted struct {
	at ordinal
	fingerprint
}

// expect reads what should be there, and returns the last revision with an
// object in it.
func (v *verifier) expect(ctx context.Context, truth Truth) (int64, error) {
	var last int64
	err := truth.Changes(ctx, v.report.From, v.report.To, func(e schemas.Event) error {
		v.wanted = append(v.wanted, wanted{at: ordinal{e.Rev, e.Ord}, fingerprint: fingerprintOf(v.seed, e)})
		last = e.Rev
		return nil
	})
	if err != nil {
		return 0, err
	}
	// The last change may be compacted, its object is not.
	err = truth.State(ctx, v.report.To, func(e schemas.Event) error {
		v.objects = append(v.objects, object{key: e.Key, rev: e.Rev, body: maphash.Bytes(v.seed, e.Object)})
		last = max(last, e.Rev)
		return nil
	})
	return last, err
}

// read takes one message of the stream.
func (v *verifier) read(e schemas.Event) error {
	switch {
	case e.Type == schemas.Gap:
		v.report.Gaps = append(v.report.Gaps, e)
		v.last = ordinal{e.Rev, e.Cnt}
		if !v.begun {
			v.begun, v.trimmed, v.first = true, true, ordinal{rev: e.Rev + 1}
		}
		return nil
	case e.Resync != 0:
		return nil
	}
	at := ordinal{e.Rev, e.Ord}
	if !v.begun {
		v.begun, v.first = true, at
	}
	if _, twice := v.stored[at]; twice {
		v.report.found(&v.report.Doubled, "revision %d, message %d of %s is in the stream twice", e.Rev, e.Ord, e.Key)
		return nil
	}
	if at.before(v.last) {
		v.report.found(&v.report.Unordered, "revision %d, message %d of %s came after revision %d", e.Rev, e.Ord, e.Key, v.last.rev)
	}
	v.last = at
	v.stored[at] = fingerprintOf(v.seed, e)
	return nil
}

// compare counts the differences over what both sides hold.
func (v *verifier) compare() {
	r := v.report
	for _, w := range v.wanted {
		have, ok := v.stored[w.at]
		switch {
		case ok && have != w.fingerprint:
			r.Changes++
			r.found(&r.Different, "revision %d of %s: etcd and stream differ", w.at.rev, w.key)
		case ok:
			r.Changes++
		case v.trimmed && (!v.begun || w.at.before(v.first)) || v.lost(w.at.rev):
		default:
			r.Changes++
			r.found(&r.Missing, "revision %d, message %d of %s is missing", w.at.rev, w.at.ord, w.key)
		}
		delete(v.stored, w.at)
	}
	for at, have := range v.stored {
		if at.rev >= r.From && at.rev <= r.To {
			r.found(&r.Unknown, "revision %d of %s is in the stream, not in etcd", at.rev, have.key)
		}
	}
	if v.begun && v.trimmed {
		r.From = max(r.From, v.first.rev)
	}
}

// lost reports that a revision lies in a gap that the stream names.
func (v *verifier) lost(rev int64) bool {
	for _, gap := range v.report.Gaps {
		if rev > gap.PrevRev && rev <= gap.Rev {
			return true
		}
	}
	return false
}

// verifyState compares the last messages of all objects with the objects.
func (c *Client) verifyState(ctx context.Context, v *verifier) error {
	r := v.report
	held := map[schemas.Key]schemas.Event{}
	err := c.ReadState(ctx, schemas.AllObjects, func(e schemas.Event) error {
		if e.Type != schemas.Gap {
			e.Object, e.Seq = nil, maphash.Bytes(v.seed, e.Object) // the sequence is of no use here
			held[e.Key] = e
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.Objects = len(v.objects)
	for _, want := range v.objects {
		have, ok := held[want.key]
		delete(held, want.key)
		switch {
		case !ok:
			r.found(&r.StateMissing, "%s is in etcd, not in the state", want.key)
		case have.Rev > r.To: // changed since
		case have.Type == schemas.Deleted || have.Rev != want.rev || have.Seq != want.body:
			r.found(&r.StateStale, "%s is at revision %d in etcd, at %d in the state", want.key, want.rev, have.Rev)
		}
	}
	for key, have := range held {
		if have.Type != schemas.Deleted && have.Rev <= r.To {
			r.found(&r.StateExtra, "%s is in the state, not in etcd", key)
		}
	}
	return nil
}
