package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/rutter-project/rutter/schemas"
)

// rescuer saves into MENDED what PACKS and HISTORY have of a range that ARCHIVE has lost.
type rescuer struct {
	c      *Client
	mended *packs
	at     uint64 // what lies before is done
	holes  []hole
}

// rescue returns the range as holes, each mended or lost. known are the others of ARCHIVE.
func (c *Client) rescue(ctx context.Context, r span, known []hole) ([]hole, error) {
	mended, err := c.openPackStream(ctx, StreamMended, mendedSubject)
	if err != nil {
		return nil, err
	}
	held, err := c.dense(ctx, r)
	if err != nil {
		return nil, err
	}
	m := &rescuer{c: c, mended: mended, at: r.from}
	for _, part := range held {
		if err := m.fromPacks(ctx, part.from); err != nil {
			return nil, err
		}
		if err := m.fromHistory(ctx, part.to); err != nil {
			return nil, err
		}
	}
	if err := m.fromPacks(ctx, r.to); err != nil {
		return nil, err
	}
	for i := range m.holes {
		if err := c.bound(ctx, &m.holes[i], inOrder(known, m.holes)); err != nil {
			return nil, err
		}
	}
	return m.holes, nil
}

// done notes that all before a sequence is in MENDED from a message on, so many events, or
// lost if there is no such message.
func (m *rescuer) done(to, first, events uint64) {
	if m.at >= to {
		return
	}
	h := hole{From: m.at, To: to}
	if m.mended.last >= first {
		h.First, h.Last, h.Events = first, m.mended.last, events
	}
	m.at = to
	if n := len(m.holes); n > 0 && !h.mended() && !m.holes[n-1].mended() && m.holes[n-1].To == h.From {
		m.holes[n-1].To = to
		return
	}
	m.holes = append(m.holes, h)
}

// fromPacks copies the packs of what lies before a sequence. What they lack is lost.
func (m *rescuer) fromPacks(ctx context.Context, end uint64) error {
	if m.at >= end {
		return nil
	}
	if err := m.copyPacks(ctx, end); err != nil {
		return err
	}
	m.done(end, m.mended.last+1, 0)
	return nil
}

func (m *rescuer) copyPacks(ctx context.Context, end uint64) error {
	packs, err := m.c.openPacks(ctx)
	if err != nil {
		return err
	}
	at, err := packs.find(ctx, m.at)
	if err != nil {
		return err
	}
	for ; at <= packs.last; at++ {
		p, err := packs.get(ctx, at)
		events := uint64(0)
		if err == nil {
			events, err = p.count(span{max(m.at, p.from), min(p.to, end)})
		}
		switch {
		case errors.Is(err, ErrNotFound), errors.Is(err, errPack):
			continue // its part is lost
		case err != nil:
			return err
		case p.from >= end:
			return nil
		}
		m.done(p.from, m.mended.last+1, 0)
		first := m.mended.last + 1
		if err := m.mended.append(ctx, p, 0); err != nil {
			return err
		}
		m.done(min(p.to, end), first, events)
	}
	return nil
}

// fromHistory packs what lies before a sequence, which HISTORY has.
func (m *rescuer) fromHistory(ctx context.Context, end uint64) error {
	w, from, first, events := newPackWriter(), m.at, m.mended.last+1, uint64(0)
	flush := func(to uint64) error {
		err := m.mended.append(ctx, pack{from: from, to: to, body: w.encode()}, w.events)
		from, w = to, newPackWriter()
		return err
	}
	err := m.c.scan(ctx, scan{stream: StreamHistory, filter: schemas.AllObjects, from: m.at}, func(e schemas.Event) error {
		if e.Seq >= end {
			return errStop
		}
		w.add(&e)
		events++
		if w.events >= packEvents || w.size() >= packBytes {
			return flush(e.Seq + 1)
		}
		return nil
	})
	if err == nil && from < end {
		err = flush(end)
	}
	m.done(end, first, events)
	return err
}

// bound finds the revisions around a hole.
func (c *Client) bound(ctx context.Context, h *hole, holes []hole) error {
	head, err := c.head(ctx, StreamArchive)
	if err != nil {
		return err
	}
	before, _, err := c.divideArchive(ctx, head, holes, func(e schemas.Event) bool { return e.Seq >= h.From })
	if err != nil {
		return err
	}
	if before.Seq != 0 {
		h.After = wholeRevision(before)
	}
	return c.boundBehind(ctx, h, holes)
}

// boundBehind finds the first revision behind a hole, if that is not known.
func (c *Client) boundBehind(ctx context.Context, h *hole, holes []hole) error {
	if h.Rev != 0 {
		return nil
	}
	stream, err := c.js.Stream(ctx, StreamArchive)
	if err != nil {
		return fmt.Errorf("bus: stream %s: %w", StreamArchive, explain(err))
	}
	e, err := c.archiveAt(ctx, stream, holes, h.To)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	h.Rev = e.Rev
	return err
}
