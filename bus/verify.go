package bus

import (
	"context"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

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
	// Archive is ARCHIVE beside HISTORY, Packs is PACKS beside ARCHIVE, each over what both
	// hold: the past is read from these.
	Archive Copy `json:"archive"`
	Packs   Copy `json:"packs"`
	// Examples name the first few findings.
	Examples []string `json:"examples,omitempty"`
}

// maxExamples bounds Report.Examples.
const maxExamples = 20

// OK reports that nothing is wrong. Gaps that are named are not wrong.
func (r *Report) OK() bool {
	return r.Missing == 0 && r.Doubled == 0 && r.Unordered == 0 && r.Different == 0 && r.Unknown == 0 &&
		r.StateMissing == 0 && r.StateStale == 0 && r.StateExtra == 0 && r.Archive.ok() && r.Packs.ok()
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

// Verify compares HISTORY with etcd over all revisions that both still hold, STATE with
// etcd's objects, and the copies that the past is read from with HISTORY. It gives the
// relay half a minute to pass the revision that etcd has when it is called; after that,
// what is not there is missing.
//
// It reads both sides at once and remembers no more than maxLate of what one side has and
// the other has not yet, a few words for every object, and one pack.
func (c *Client) Verify(ctx context.Context, truth Truth) (*Report, error) {
	oldest, newest, err := truth.Bounds(ctx)
	if err != nil {
		return nil, err
	}
	begin, err := c.Head(ctx, StreamHistory)
	if err != nil {
		return nil, err
	}
	v := &verifier{c: c, seed: maphash.MakeSeed(), report: &Report{From: oldest, To: newest}, late: map[ordinal]fingerprint{}, recent: map[ordinal]bool{}}
	// Gaps first: what lies in one is not missing.
	if err := c.scan(ctx, scan{stream: StreamHistory, filter: schemas.ResyncSubject}, v.gap); err != nil {
		return nil, err
	}
	if err := v.compare(ctx, truth); err != nil {
		return nil, err
	}
	// Read after the messages, so that what was dropped meanwhile is known to be.
	head, err := c.Head(ctx, StreamHistory)
	if err != nil {
		return nil, err
	}
	if head.Epoch != begin.Epoch {
		c.log.Info().Str("epoch", head.Epoch).Msg("the stream was made anew, comparing again")
		return c.Verify(ctx, truth)
	}
	v.finish(v.trimmed || head.Trimmed)
	if err := c.verifyState(ctx, v, truth); err != nil {
		return nil, err
	}
	if err := c.verifyArchive(ctx, v.report); err != nil {
		return nil, err
	}
	if err := c.verifyPacks(ctx, v.report); err != nil {
		return nil, err
	}
	return v.report, nil
}

const (
	// maxLate is how many messages may be out of their place and still be told from
	// missing ones.
	maxLate = 1 << 16
	// maxAhead is how many messages are read from etcd ahead of the stream.
	maxAhead = 1 << 12
)

// verifier walks along stream and truth, which have the same order if all is well.
type verifier struct {
	c      *Client
	seed   maphash.Seed
	report *Report

	truth <-chan wanted
	next  *wanted // taken from truth and not yet compared
	lastW ordinal

	last   ordinal                 // highest place seen in the stream
	seq    uint64                  // last message read
	late   map[ordinal]fingerprint // due and not seen, the newest of them
	order  []ordinal               // of late, oldest first
	recent map[ordinal]bool        // seen, the newest of them
	seen   []ordinal               // of recent, oldest first

	// first is the place of the first message, or the one after the gap with which
	// the stream begins. It is unknown until begun.
	first   ordinal
	begun   bool
	trimmed bool // the stream begins with a gap
	// early counts what is due before first: missing, unless the stream was trimmed.
	early    int
	examples []string // of early
}

type wanted struct {
	at ordinal
	fingerprint
}

// compare reads both sides side by side.
func (v *verifier) compare(ctx context.Context, truth Truth) error {
	g, ctx := errgroup.WithContext(ctx)
	ahead := make(chan wanted, maxAhead)
	v.truth = ahead
	g.Go(func() error {
		defer close(ahead)
		return truth.Changes(ctx, v.report.From, v.report.To, func(e schemas.Event) error {
			select {
			case ahead <- wanted{at: ordinal{e.Rev, e.Ord}, fingerprint: fingerprintOf(v.seed, v.c.fit(e))}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	g.Go(func() error { return v.readStream(ctx) })
	return g.Wait()
}

// readStream reads HISTORY to its end, and again when the relay has added what is due.
func (v *verifier) readStream(ctx context.Context) error {
	patient, cancel := context.WithTimeout(ctx, verifyPatience)
	defer cancel()
	for waited := false; ; waited = true {
		before := v.seq
		if err := v.c.scan(ctx, scan{stream: StreamHistory, from: v.seq + 1}, v.read); err != nil {
			return err
		}
		due := v.due()
		if due == nil {
			return ctx.Err()
		}
		if waited && v.seq == before { // the relay has passed it, and it is not there
			v.overdue(ordinal{rev: math.MaxInt64})
			return nil
		}
		err := v.c.WaitForRevision(patient, due.at.rev)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case patient.Err() != nil:
			v.overdue(ordinal{rev: math.MaxInt64})
			return nil
		case err != nil:
			return err
		}
	}
}

// due is the next message that the stream should have.
func (v *verifier) due() *wanted {
	for w := v.peek(); w != nil; w = v.peek() {
		if !v.lost(w.at.rev) {
			return w
		}
		v.next = nil
	}
	return nil
}

// peek is the next message due, nil at the end.
func (v *verifier) peek() *wanted {
	if v.next == nil {
		if w, ok := <-v.truth; ok {
			v.next, v.lastW = &w, w.at
		}
	}
	return v.next
}

// overdue notes everything that is due before a place and has not come.
func (v *verifier) overdue(at ordinal) {
	for w := v.peek(); w != nil && w.at.before(at); w = v.peek() {
		v.next = nil
		switch {
		case v.lost(w.at.rev):
		case !v.begun || w.at.before(v.first):
			v.early++
			if len(v.examples) < maxExamples {
				v.examples = append(v.examples, missing(w.at, w.key))
			}
		default:
			v.report.Changes++
			v.late[w.at] = w.fingerprint
			v.order = append(v.order, w.at)
			v.giveUp(maxLate)
		}
	}
}

// giveUp calls the oldest late messages missing until at most keep are left.
func (v *verifier) giveUp(keep int) {
	for len(v.late) > keep {
		at := v.order[0]
		v.order = v.order[1:]
		if w, ok := v.late[at]; ok {
			v.report.found(&v.report.Missing, "%s", missing(at, w.key))
			delete(v.late, at)
		}
	}
}

func missing(at ordinal, key schemas.Key) string {
	return fmt.Sprintf("revision %d, message %d of %s is missing", at.rev, at.ord, key)
}

// gap takes one gap that the stream names.
func (v *verifier) gap(e schemas.Event) error {
	v.report.Gaps = append(v.report.Gaps, e)
	return nil
}

// newGap takes a gap that the stream did not name yet when the comparison began.
func (v *verifier) newGap(e schemas.Event) {
	if slices.ContainsFunc(v.report.Gaps, func(known schemas.Event) bool { return known.Seq == e.Seq }) {
		return
	}
	v.report.Gaps = append(v.report.Gaps, e)
	for at := range v.late {
		if v.lost(at.rev) {
			delete(v.late, at)
			v.report.Changes--
		}
	}
}

// read takes one message of the stream.
func (v *verifier) read(e schemas.Event) error {
	v.seq = e.Seq
	switch {
	case e.Type == schemas.Gap:
		v.newGap(e)
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
	if v.recent[at] {
		v.report.found(&v.report.Doubled, "revision %d, message %d of %s is in the stream twice", e.Rev, e.Ord, e.Key)
		return nil
	}
	v.remember(at)
	print := fingerprintOf(v.seed, e)
	if at.before(v.last) {
		v.report.found(&v.report.Unordered, "revision %d, message %d of %s came after revision %d", e.Rev, e.Ord, e.Key, v.last.rev)
		if want, ok := v.late[at]; ok {
			delete(v.late, at)
			v.match(at, want, print)
			return nil
		}
		v.unknown(at, e.Key)
		return nil
	}
	v.last = at
	v.overdue(at)
	if w := v.peek(); w != nil && w.at == at {
		v.next = nil
		v.report.Changes++
		v.match(at, w.fingerprint, print)
		return nil
	}
	v.unknown(at, e.Key)
	return nil
}

func (v *verifier) match(at ordinal, want, have fingerprint) {
	if want != have {
		v.report.found(&v.report.Different, "revision %d of %s: etcd and stream differ", at.rev, want.key)
	}
}

func (v *verifier) unknown(at ordinal, key schemas.Key) {
	if at.rev >= v.report.From && at.rev <= v.report.To {
		v.report.found(&v.report.Unknown, "revision %d of %s is in the stream, not in etcd", at.rev, key)
	}
}

func (v *verifier) remember(at ordinal) {
	v.recent[at] = true
	v.seen = append(v.seen, at)
	if len(v.seen) > maxLate {
		delete(v.recent, v.seen[0])
		v.seen = v.seen[1:]
	}
}

// finish decides about what never came.
func (v *verifier) finish(trimmed bool) {
	r := v.report
	v.giveUp(0)
	if !trimmed {
		r.Changes += v.early
		r.Missing += v.early
		r.Examples = append(r.Examples, v.examples[:min(len(v.examples), maxExamples-len(r.Examples))]...)
	}
	if v.begun && trimmed {
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

// object is what is known of one that etcd or the state has.
type object struct {
	rev  int64 // in etcd, 0 if it has none
	body uint64
	have int64 // in the state, 0 if it has none
	same bool  // both have the same content
	gone bool  // the state has a tombstone
}

// verifyState compares the last messages of all objects with the objects.
func (c *Client) verifyState(ctx context.Context, v *verifier, truth Truth) error {
	r := v.report
	objects := map[schemas.Key]object{}
	newest := int64(0)
	err := truth.State(ctx, r.To, func(e schemas.Event) error {
		objects[e.Key] = object{rev: e.Rev, body: maphash.Bytes(v.seed, c.fit(e).Object)}
		newest = max(newest, e.Rev)
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.waitState(ctx, max(newest, v.lastW.rev)); err != nil {
		return err
	}
	err = c.ReadState(ctx, schemas.AllObjects, func(e schemas.Event) error {
		o := objects[e.Key]
		if e.Type == schemas.Gap || o.rev == 0 && (e.Type == schemas.Deleted || e.Rev > r.To) {
			return nil
		}
		o.have, o.gone, o.same = e.Rev, e.Type == schemas.Deleted, maphash.Bytes(v.seed, e.Object) == o.body
		objects[e.Key] = o
		return nil
	})
	if err != nil {
		return err
	}
	for key, o := range objects {
		if o.rev > 0 {
			r.Objects++
		}
		switch {
		case o.rev == 0:
			r.found(&r.StateExtra, "%s is in the state, not in etcd", key)
		case o.have == 0:
			r.found(&r.StateMissing, "%s is in etcd, not in the state", key)
		case o.have > r.To: // changed since
		case o.gone || o.have != o.rev || !o.same:
			r.found(&r.StateStale, "%s is at revision %d in etcd, at %d in the state", key, o.rev, o.have)
		}
	}
	return nil
}

// waitState gives the mirror and the relay time to come to a revision. If they do not,
// what STATE lacks is told.
func (c *Client) waitState(ctx context.Context, rev int64) error {
	if rev == 0 {
		return nil
	}
	patient, cancel := context.WithTimeout(ctx, verifyPatience)
	defer cancel()
	if err := c.WaitForRevision(patient, rev); err != nil && patient.Err() == nil {
		return err
	}
	return ctx.Err()
}
