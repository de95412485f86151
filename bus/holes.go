package bus

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rutter-project/rutter/schemas"
)

// StreamMended holds what ARCHIVE has lost and HISTORY or PACKS still had when that was
// found, as packs: nothing can be put back into a stream in its place.
const StreamMended = "MENDED"

const (
	mendedSubject = "pack.mended"
	// holesKey is where ARCHIVE's metadata name its holes.
	holesKey = "rutter.holes"
	// maxHoles bounds that list, which the server keeps with the stream's configuration.
	maxHoles = 256
	// mendedShare is how much of what packs may take mended ones may.
	mendedShare = 4
)

// hole is a part of ARCHIVE that the stream has lost.
type hole struct {
	// From and To are sequences, To excluded.
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
	// First and Last are the messages of MENDED that have all its changes; 0 if nobody has.
	First uint64 `json:"first,omitempty"`
	Last  uint64 `json:"last,omitempty"`
	// Events is how many changes those are.
	Events uint64 `json:"events,omitempty"`
	// After is the last revision before the hole that is whole, Rev the first behind it; 0 if
	// nothing came behind it yet.
	After int64 `json:"after"`
	Rev   int64 `json:"rev"`
}

func (h hole) mended() bool { return h.First != 0 }

// gap is what a reader is told who has seen everything up to a revision, or only what is
// before the hole.
func (h hole) gap(after int64) schemas.Event {
	return schemas.Event{
		Rev: h.Rev, Cnt: 1, Type: schemas.Gap, PrevRev: max(after, h.After),
		Object: []byte(`{"reason":"the archive has lost these changes"}`),
	}
}

// parseHoles reads the holes in a stream's metadata.
func parseHoles(metadata map[string]string) ([]hole, error) {
	text := metadata[holesKey]
	if text == "" {
		return nil, nil
	}
	var holes []hole
	if err := json.Unmarshal([]byte(text), &holes); err != nil {
		return nil, fmt.Errorf("bus: holes of %s: %w", StreamArchive, err)
	}
	return holes, nil
}

// inOrder are all holes, the first of ARCHIVE first.
func inOrder(holes ...[]hole) []hole {
	all := slices.Concat(holes...)
	slices.SortFunc(all, func(a, b hole) int { return cmp.Compare(a.From, b.From) })
	return all
}

// formatHoles is the metadata of holes, without those before the first message held. Of
// too many the closest are told as one: what lies between is then told as lost.
func formatHoles(holes []hole, first uint64) (string, error) {
	holes = slices.DeleteFunc(inOrder(holes), func(h hole) bool { return h.To <= first })
	for len(holes) > maxHoles {
		best := 1
		for i := 2; i < len(holes); i++ {
			if holes[i].From-holes[i-1].To < holes[best].From-holes[best-1].To {
				best = i
			}
		}
		holes[best-1] = hole{From: holes[best-1].From, To: holes[best].To, After: holes[best-1].After, Rev: holes[best].Rev}
		holes = slices.Delete(holes, best, best+1)
	}
	if len(holes) == 0 {
		return "", nil
	}
	text, err := json.Marshal(holes)
	return string(text), err
}

// span is a range of sequences, To excluded.
type span struct{ from, to uint64 }

// joined are spans in order, those that touch as one.
func joined(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var all []span
	for _, s := range spans {
		if n := len(all); n > 0 && s.from <= all[n-1].to {
			all[n-1].to = max(all[n-1].to, s.to)
			continue
		}
		all = append(all, s)
	}
	return all
}

// outside are the parts of a range that lie in no hole. Holes are in order.
func outside(r span, holes []hole) []span {
	var parts []span
	for _, h := range holes {
		if h.To <= r.from {
			continue
		}
		if h.From >= r.to {
			break
		}
		if h.From > r.from {
			parts = append(parts, span{r.from, h.From})
		}
		r.from = h.To
	}
	if r.from < r.to {
		parts = append(parts, r)
	}
	return parts
}

// scanArchive is scan for ARCHIVE: it calls fn with what is mended in its place too, and
// with a gap for what is lost.
func (c *Client) scanArchive(ctx context.Context, s scan, fn func(schemas.Event) error) error {
	if c.cfg.edge() { // may not look at the stream; it gets what is there
		return c.scan(ctx, s, fn)
	}
	head, err := c.Head(ctx, StreamArchive)
	if err != nil {
		return err
	}
	stopped := false
	tell := func(e schemas.Event) error {
		err := fn(e)
		stopped = errors.Is(err, errStop)
		return err
	}
	for _, h := range head.holes {
		if h.To <= s.from || s.to != 0 && h.From >= s.to {
			continue
		}
		if s.from < h.From {
			before := s
			before.follow = false
			err := c.scan(ctx, before, func(e schemas.Event) error {
				if e.Seq >= h.From {
					return errStop
				}
				s.last, s.last.Object = e, nil
				return tell(e)
			})
			if err != nil || stopped {
				return err
			}
		}
		if err := c.fill(ctx, h, s, tell); err != nil || stopped {
			return ignoreStop(err)
		}
		s.from = h.To
	}
	return c.scan(ctx, s, fn)
}

func ignoreStop(err error) error {
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// fill calls fn with what a scan wants of a hole: its changes, or a gap where they are
// lost.
func (c *Client) fill(ctx context.Context, h hole, s scan, fn func(schemas.Event) error) error {
	after := h.After
	if h.mended() {
		packs, err := c.openMended(ctx, h)
		if err != nil {
			return &scanError{err}
		}
		whole := true
		err = packs.each(ctx, h.First, func(p pack) error {
			if whole = whole && p.from <= max(h.From, s.from); !whole {
				return errPack
			}
			r, err := openPack(p.body, nil)
			for err == nil && r.more() {
				var e schemas.Event
				if e, _, err = r.next(everyEvent); err != nil {
					break
				}
				if e.Seq < h.To {
					after = wholeRevision(e)
				}
				if e.Seq < max(h.From, s.from) || e.Seq >= h.To || !s.wants(e) {
					continue
				}
				if err := fn(e); err != nil {
					return err
				}
			}
			if err == nil {
				s.from = max(s.from, p.to)
			}
			return err
		})
		switch {
		case err == nil && s.from >= h.To:
			return nil
		case err == nil, errors.Is(err, errPack), errors.Is(err, ErrNotFound): // it was not kept, or is damaged
		default:
			return err
		}
	}
	if err := c.boundBehind(ctx, &h, nil); err != nil {
		return &scanError{err}
	}
	if h.Rev == 0 {
		return nil // the archive ends here: what comes next is HISTORY's to say
	}
	return fn(h.gap(after))
}

// wholeRevision is the last revision that is whole when an event is the last one known.
func wholeRevision(e schemas.Event) int64 {
	if e.Last() {
		return e.Rev
	}
	return e.Rev - 1
}

func everyEvent(schemas.EventType, schemas.Key) bool { return true }

// wants reports whether the consumer of a scan would get an event.
func (s *scan) wants(e schemas.Event) bool {
	filters := s.filters
	if len(filters) == 0 {
		filters = []string{s.filter}
	}
	subject := schemas.ResyncSubject
	if e.Type != schemas.Gap {
		subject = e.Key.Subject()
	}
	return slices.ContainsFunc(filters, func(filter string) bool {
		return filter == "" || natsserver.SubjectMatchesFilter(subject, filter)
	})
}

// openMended opens the messages of MENDED that belong to a hole.
func (c *Client) openMended(ctx context.Context, h hole) (*packs, error) {
	p, err := c.openPackStream(ctx, StreamMended, mendedSubject)
	if err != nil {
		return nil, err
	}
	p.first, p.last = max(p.first, h.First), min(p.last, h.Last)
	return p, nil
}

// inHole is the first mended change at or behind a sequence, of those before another
// one. ErrNotFound if there is none. Holes are in order.
func (c *Client) inHole(ctx context.Context, holes []hole, seq, before uint64) (schemas.Event, error) {
	for _, h := range holes {
		if !h.mended() || h.To <= seq {
			continue
		}
		if h.From >= before {
			break
		}
		packs, err := c.openMended(ctx, h)
		if err != nil {
			return schemas.Event{}, err
		}
		at, err := packs.find(ctx, max(seq, h.From))
		if err != nil {
			return schemas.Event{}, err
		}
		for ; at <= packs.last; at++ {
			p, err := packs.get(ctx, at)
			if errors.Is(err, ErrNotFound) || errors.Is(err, errPack) {
				continue
			}
			if err != nil {
				return schemas.Event{}, err
			}
			if e, ok := p.firstAt(max(seq, h.From)); ok && e.Seq < h.To {
				return e, nil
			}
		}
	}
	return schemas.Event{}, ErrNotFound
}

// count is how many events of a pack lie in a range. errPack if not all of it can be read.
func (p pack) count(in span) (uint64, error) {
	n := uint64(0)
	r, err := openPack(p.body, nil)
	for err == nil && r.more() {
		var e schemas.Event
		if e, _, err = r.next(everyEvent); err == nil && e.Seq >= in.from && e.Seq < in.to {
			n++
		}
	}
	return n, err
}

// firstAt is the first event of a pack at or behind a sequence.
func (p pack) firstAt(seq uint64) (schemas.Event, bool) {
	r, err := openPack(p.body, nil)
	for err == nil && r.more() {
		var e schemas.Event
		if e, _, err = r.next(everyEvent); err == nil && e.Seq >= seq {
			return e, true
		}
	}
	return schemas.Event{}, false
}

// archiveAt is the first change in ARCHIVE at or behind a sequence, mended ones included.
// ErrNotFound if there is none.
func (c *Client) archiveAt(ctx context.Context, stream jetstream.Stream, holes []hole, seq uint64) (schemas.Event, error) {
	e, err := c.nextIn(ctx, stream, seq)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return schemas.Event{}, err
	}
	before := e.Seq
	if err != nil {
		before = ^uint64(0)
	}
	mended, missing := c.inHole(ctx, holes, seq, before)
	if !errors.Is(missing, ErrNotFound) {
		return mended, missing
	}
	return e, err
}
