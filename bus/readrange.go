package bus

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/rutter-project/rutter/schemas"
)

// Range says which part of ARCHIVE to read.
type Range struct {
	// Filter is a subject filter, as schemas.Filter makes them; "" is everything.
	// Gaps are told whatever the filter.
	Filter string
	// From is the sequence to begin with, or the next one there is; 0 for the first.
	// With Follow, what is missing between is told as a gap.
	From uint64
	// Follow goes on with changes as they come, until the context ends.
	Follow bool
	// Urgent takes all the processor time it can get. Otherwise a long read gives way to
	// changes that are being published.
	Urgent bool
	// Fleeting says that fn is done with an event's Object when it returns, so that the
	// memory can be used again. A long read then makes next to no garbage, whose collection
	// would hold up others.
	Fleeting bool
	// Ready, if not nil, is called whenever the stream has begun to send. What
	// happens from then on is not missed.
	Ready func()
}

// ErrStop ends ReadRange early, without being an error.
var ErrStop = errStop

// ReadRange calls fn for every change in a part of ARCHIVE, in order and each once.
// Where the archive no longer has changes, fn gets an event of type GAP. fn may
// take its time: that holds up nobody else. Who keeps an event's Object for long copies it:
// it is a part of something larger.
func (c *Client) ReadRange(ctx context.Context, r Range, fn func(schemas.Event) error) error {
	a := archiveReader{c: c, r: r, fn: fn, next: r.From, pace: pacer{traffic: c.traffic}}
	err := a.readPacks(ctx)
	var failed *scanError
	if errors.As(err, &failed) && ctx.Err() == nil {
		c.log.Debug().Err(err).Msg("packs not read, going on with the archive")
		err = nil
	}
	if err == nil {
		err = a.scan(ctx, 0)
	}
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// archiveReader reads a part of ARCHIVE: what is packed from packs, the rest as it is.
type archiveReader struct {
	c    *Client
	r    Range
	fn   func(schemas.Event) error
	pace pacer
	next uint64        // everything before this sequence has been told
	last schemas.Event // told last
	room []byte        // for the next pack
}

// readPacks tells what there is in packs, and what lies between them, and stops where they
// end. It leaves to scan what packs are no help with: few events, those of one object,
// which the stream finds by itself, and a place that the stream no longer has.
func (a *archiveReader) readPacks(ctx context.Context) error {
	key, ok := a.filter()
	if a.c.cfg.edge() || !ok {
		return nil
	}
	head, err := a.c.Head(ctx, StreamArchive)
	if err != nil {
		return &scanError{err}
	}
	if a.next < head.First && (!a.r.Follow || a.next == 0) {
		a.next = head.First
	}
	if head.Empty || a.next < head.First || a.next+packEvents > head.Seq {
		return nil
	}
	packs, err := a.c.openPacks(ctx)
	if err != nil {
		return &scanError{err}
	}
	at, err := packs.find(ctx, a.next)
	if err != nil {
		return &scanError{err}
	}
	if at > packs.last {
		return nil
	}
	if a.r.Ready != nil {
		a.r.Ready()
	}
	return packs.each(ctx, at, func(p pack) error {
		switch {
		case p.to > head.Seq+1: // the archive lost its end and is getting it back
			return &scanError{errPack}
		case p.to <= a.next:
			return nil
		case p.from > a.next:
			if err := a.scan(ctx, p.from); err != nil {
				return err
			}
		}
		return a.unpack(ctx, p, func(t schemas.EventType, k schemas.Key) bool {
			return t == schemas.Gap || matches(key, k)
		})
	})
}

// filter is the range's filter as a key whose fields may be schemas.AnyToken; false if it
// is of one object, or of another form.
func (a *archiveReader) filter() (schemas.Key, bool) {
	if a.r.Filter == "" || a.r.Filter == schemas.AllObjects {
		return schemas.Key{Group: schemas.AnyToken, Resource: schemas.AnyToken, Namespace: schemas.AnyToken, Name: schemas.AnyToken}, true
	}
	if !strings.ContainsAny(a.r.Filter, "*>") {
		return schemas.Key{}, false
	}
	key, err := schemas.ParseFilter(a.r.Filter)
	return key, err == nil
}

func matches(want, k schemas.Key) bool {
	fits := func(want, is string) bool { return want == schemas.AnyToken || want == is }
	return fits(want.Resource, k.Resource) && fits(want.Namespace, k.Namespace) && fits(want.Group, k.Group) && fits(want.Name, k.Name)
}

// unpack tells what is in a pack. If it can't be read, the archive is.
func (a *archiveReader) unpack(ctx context.Context, p pack, keep func(schemas.EventType, schemas.Key) bool) error {
	r, err := openPack(p.body, a.room)
	if err == nil && a.r.Fleeting {
		a.room = r.room
	}
	for err == nil && r.more() {
		var e schemas.Event
		var kept bool
		if e, kept, err = r.next(keep); err != nil {
			break
		}
		if kept && e.Seq >= a.next {
			if err := a.tell(e); err != nil {
				return err
			}
		}
		if err := a.giveWay(ctx); err != nil {
			return err
		}
	}
	if err != nil {
		a.c.log.Warn().Err(err).Uint64("from", p.from).Uint64("to", p.to).Msg("pack is damaged, reading the archive instead")
		return a.scan(ctx, p.to)
	}
	a.next = p.to
	return nil
}

// scan tells what ARCHIVE has from the next sequence up to another one, that one excluded;
// 0 for its end, or for ever if it is to be followed.
func (a *archiveReader) scan(ctx context.Context, to uint64) error {
	s := scan{stream: StreamArchive, from: a.next, to: to, last: a.last, follow: a.r.Follow && to == 0, gentle: !a.r.Urgent && a.c.traffic.flows()}
	switch a.r.Filter {
	case "", schemas.AllObjects:
		s.filters = []string{schemas.AllObjects}
	default:
		s.filters = []string{a.r.Filter, schemas.ResyncSubject}
	}
	s.lost = func(last, next schemas.Event) error { return a.fn(trimmedGap(last.Rev, next)) }
	if s.follow {
		s.ready = a.r.Ready
	}
	stopped := false
	err := a.c.scanArchive(ctx, s, func(e schemas.Event) error {
		switch {
		case e.Lost():
			err := a.fn(e)
			stopped = errors.Is(err, errStop)
			return err
		case to != 0 && e.Seq >= to:
			return errStop
		}
		if err := a.tell(e); err != nil {
			stopped = errors.Is(err, errStop)
			return err
		}
		if s.follow && time.Since(e.Recorded) < scanFresh {
			return nil // it keeps up
		}
		return a.giveWay(ctx)
	})
	if stopped {
		return errStop
	}
	if err == nil && to != 0 {
		a.next = to
	}
	return err
}

func (a *archiveReader) tell(e schemas.Event) error {
	if err := a.fn(e); err != nil {
		return err
	}
	a.next = e.Seq + 1
	a.last, a.last.Object = e, nil
	return nil
}

// giveWay pauses for changes that are being published.
func (a *archiveReader) giveWay(ctx context.Context) error {
	if a.r.Urgent {
		return nil
	}
	return a.pace.step(ctx)
}
