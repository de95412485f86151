package bus

import (
	"context"
	"errors"
	"reflect"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rutter-project/rutter/schemas"
)

// Copy is what Verify found of a stream that repeats another one.
type Copy struct {
	// Events is how many changes were compared.
	Events int `json:"events"`
	// Missing are those that the copy should have and lacks, Different those that it
	// tells otherwise, and Extra those that it has beyond the other stream's.
	Missing   int `json:"missing"`
	Different int `json:"different"`
	Extra     int `json:"extra"`
	// Damaged is how many messages of the copy can't be read.
	Damaged int `json:"damaged"`
}

func (c Copy) ok() bool { return c == Copy{Events: c.Events} }

// copyCheck walks along a copy and its original, which have the same order.
type copyCheck struct {
	c      *Client
	report *Report
	found  *Copy
	copy   string // stream
	of     string // stream
	// kept tells the first sequence of the original that the copy still keeps.
	kept func(ctx context.Context) (uint64, error)
	// rewritten says that the original may have lost its end and have been written again
	// since: the same messages, recorded later.
	rewritten bool

	original <-chan schemas.Event
	next     *schemas.Event // taken from original and not yet compared
}

// aheadEvents is how many whole events are read ahead of their comparison.
const aheadEvents = 8

// beside reads a stream while fn compares a copy with it.
func (k *copyCheck) beside(ctx context.Context, s scan, fn func(ctx context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	original, done := make(chan schemas.Event, aheadEvents), make(chan struct{})
	k.original = original
	g.Go(func() error {
		defer close(original)
		read := k.c.scan
		if s.stream == StreamArchive {
			read = k.c.scanArchive
		}
		return read(ctx, s, func(e schemas.Event) error {
			if e.Lost() {
				return nil
			}
			select {
			case original <- e:
				return nil
			case <-done:
				return errStop
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	g.Go(func() error {
		defer close(done)
		return fn(ctx)
	})
	return g.Wait()
}

// peek is the original's next event, nil at its end.
func (k *copyCheck) peek() *schemas.Event {
	if k.next == nil {
		if e, ok := <-k.original; ok {
			k.next = &e
		}
	}
	return k.next
}

// skip leaves out what the original has before a sequence.
func (k *copyCheck) skip(to uint64) {
	for e := k.peek(); e != nil && e.Seq < to; e = k.peek() {
		k.next = nil
	}
}

// pass leaves out what the original has of a gap that the copy names.
func (k *copyCheck) pass(gap schemas.Event) {
	for e := k.peek(); e != nil && e.Rev < gap.Rev; e = k.peek() {
		k.next = nil
	}
}

// lacks notes that the copy has nothing before a sequence that was not compared yet.
func (k *copyCheck) lacks(ctx context.Context, to uint64) error {
	e := k.peek()
	if e == nil || e.Seq >= to {
		return nil
	}
	kept, err := k.kept(ctx) // asked now: retention may have dropped it a moment ago
	if err != nil {
		return err
	}
	for ; e != nil && e.Seq < to; e = k.peek() {
		if k.next = nil; e.Seq >= kept {
			k.found.Events++
			k.report.found(&k.found.Missing, "%s lacks revision %d, message %d of %s", k.copy, e.Rev, e.Ord, e.Key)
		}
	}
	return nil
}

// has compares one event of the copy.
func (k *copyCheck) has(ctx context.Context, e schemas.Event) error {
	if err := k.lacks(ctx, e.Seq); err != nil {
		return err
	}
	o := k.peek()
	if o == nil || o.Seq != e.Seq {
		head, err := k.c.Head(ctx, k.of)
		if err == nil && e.Seq >= head.First {
			k.report.found(&k.found.Extra, "%s has revision %d, message %d of %s, %s has not", k.copy, e.Rev, e.Ord, e.Key, k.of)
		}
		return err
	}
	k.next = nil
	k.found.Events++
	if k.rewritten {
		e.Recorded = o.Recorded
	}
	if !sameEvent(*o, e) {
		k.report.found(&k.found.Different, "revision %d, message %d of %s: %s and %s differ", o.Rev, o.Ord, o.Key, k.of, k.copy)
	}
	return nil
}

// sameEvent compares all that is told of a change.
func sameEvent(a, b schemas.Event) bool {
	same := a.Recorded.Equal(b.Recorded) && a.Header.Time.Equal(b.Header.Time)
	a.Recorded, b.Recorded, a.Header.Time, b.Header.Time = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	return same && reflect.DeepEqual(a, b)
}

// verifyArchive compares ARCHIVE with HISTORY, over what HISTORY still holds.
func (c *Client) verifyArchive(ctx context.Context, r *Report) error {
	patient, cancel := context.WithTimeout(ctx, verifyPatience)
	defer cancel()
	if err := c.WaitMirror(patient, StreamArchive); err != nil && patient.Err() == nil {
		return err // a mirror that does not come is told by what it lacks
	}
	err := c.Gaps(ctx, func(e schemas.Event) error {
		if e.Lost() {
			r.Gaps = append(r.Gaps, e)
		}
		return nil
	})
	if err != nil {
		return err
	}
	history, err := c.Head(ctx, StreamHistory)
	if err != nil {
		return err
	}
	archive, err := c.Head(ctx, StreamArchive)
	if err != nil {
		return err
	}
	from := max(history.First, archive.First)
	if history.Empty || from > history.Seq {
		return nil
	}
	k := &copyCheck{c: c, report: r, found: &r.Archive, copy: StreamArchive, of: StreamHistory, kept: c.firstOf(StreamArchive), rewritten: true}
	upTo := func(fn func(e schemas.Event) error) func(e schemas.Event) error {
		return func(e schemas.Event) error {
			if e.Seq > history.Seq {
				return errStop
			}
			return fn(e)
		}
	}
	return k.beside(ctx, scan{stream: StreamHistory, filter: schemas.AllObjects, from: from}, func(ctx context.Context) error {
		err := c.scanArchive(ctx, scan{stream: StreamArchive, filter: schemas.AllObjects, from: from}, upTo(func(e schemas.Event) error {
			if e.Lost() {
				k.pass(e)
				return nil
			}
			return k.has(ctx, e)
		}))
		if err != nil {
			return err
		}
		return k.lacks(ctx, history.Seq+1)
	})
}

// firstOf asks where a stream begins.
func (c *Client) firstOf(stream string) func(ctx context.Context) (uint64, error) {
	return func(ctx context.Context) (uint64, error) {
		head, err := c.Head(ctx, stream)
		return head.First, err
	}
}

// verifyPacks compares PACKS with ARCHIVE over what is packed. It holds one pack in
// memory.
func (c *Client) verifyPacks(ctx context.Context, r *Report) error {
	packs, err := c.openPacks(ctx)
	if err != nil || packs.first > packs.last {
		return err
	}
	head, err := c.Head(ctx, StreamArchive)
	if err != nil {
		return err
	}
	everything := func(context.Context) (uint64, error) { return 0, nil } // a pack that is there keeps all it had
	p := &packCheck{packs: packs, first: head.First,
		copyCheck: copyCheck{c: c, report: r, found: &r.Packs, copy: StreamPacks, of: StreamArchive, kept: everything}}
	return p.beside(ctx, scan{stream: StreamArchive, filter: schemas.AllObjects, from: head.First}, func(ctx context.Context) error {
		for seq := packs.first; seq <= packs.last; seq++ {
			if err := p.pack(ctx, seq); err != nil {
				return err
			}
		}
		return nil
	})
}

// packCheck compares packs with the archive.
type packCheck struct {
	copyCheck
	packs *packs
	first uint64 // of ARCHIVE, when the comparison began
	room  []byte
}

// pack compares one pack. What lies between packs is read in the archive, and may.
func (p *packCheck) pack(ctx context.Context, seq uint64) error {
	found, err := p.packs.get(ctx, seq)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case errors.Is(err, errPack):
		p.report.found(&p.found.Damaged, "%s", err)
		return nil
	case err != nil:
		return err
	}
	p.skip(found.from)
	r, err := openPack(found.body, p.room)
	if err == nil {
		p.room = r.room
		err = p.events(ctx, r)
	}
	switch {
	case errors.Is(err, errPack):
		p.report.found(&p.found.Damaged, "pack %d, of the messages %d to %d of %s: %s", seq, found.from, found.to-1, p.of, err)
		p.skip(found.to)
		return nil
	case err != nil:
		return err
	default:
		return p.lacks(ctx, found.to)
	}
}

// events compares what is in a pack.
func (p *packCheck) events(ctx context.Context, r *packReader) error {
	for r.more() {
		e, _, err := r.next(func(schemas.EventType, schemas.Key) bool { return true })
		if err != nil {
			return err
		}
		if e.Seq < p.first { // the archive has dropped it
			continue
		}
		if err := p.has(ctx, e); err != nil {
			return err
		}
	}
	return nil
}
