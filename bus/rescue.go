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
	r      span
	at     uint64 // what lies before is done
	holes  []hole
}

// rescue returns the range as holes, each mended or lost. known are the others of ARCHIVE.
func (c *Client) rescue(ctx context.Context, r span, known []hole) ([]hole, error) {
	mended, err := c.openPackStream(ctx, StreamMended, mendedSubject)
	if err != nil {
		return nil, err
	}
	history, err := c.Head(ctx, StreamHistory)
	if err != nil {
		return nil, err
	}
	old := r.to // end of what HISTORY does not have
	if !history.Empty {
		old = min(old, max(history.First, r.from))
	}
	m := &rescuer{c: c, mended: mended, r: r, at: r.from}
	if err := m.fromPacks(ctx, old); err != nil {
		return nil, err
	}
	m.done(old, mended.last+1)
	if old < r.to {
		first := mended.last + 1
		if err := m.fromHistory(ctx); err != nil {
			return nil, err
		}
		m.done(r.to, first)
	}
	for i := range m.holes {
		if err := c.bound(ctx, &m.holes[i], inOrder(known, m.holes)); err != nil {
			return nil, err
		}
	}
	return m.holes, nil
}

// done notes that all before a sequence is in MENDED from a message on, or lost if there
// is no such message.
func (m *rescuer) done(to, first uint64) {
	if m.at >= to {
		return
	}
	h := hole{From: m.at, To: to}
	if m.mended.last >= first {
		h.First, h.Last = first, m.mended.last
	}
	m.holes = append(m.holes, h)
	m.at = to
}

// fromPacks copies the packs of what lies before a sequence.
func (m *rescuer) fromPacks(ctx context.Context, end uint64) error {
	if m.at >= end {
		return nil
	}
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
		if err == nil {
			_, err = openPack(p.body, nil)
		}
		switch {
		case errors.Is(err, ErrNotFound), errors.Is(err, errPack):
			continue // its part is lost
		case err != nil:
			return err
		case p.from >= end:
			return nil
		}
		m.done(p.from, m.mended.last+1)
		first := m.mended.last + 1
		if err := m.mended.append(ctx, p, 0); err != nil {
			return err
		}
		m.done(min(p.to, end), first)
	}
	return nil
}

// fromHistory packs what HISTORY has of the rest.
func (m *rescuer) fromHistory(ctx context.Context) error {
	w, from := newPackWriter(), m.at
	flush := func(end uint64) error {
		err := m.mended.append(ctx, pack{from: from, to: end, body: w.encode()}, w.events)
		from, w = end, newPackWriter()
		return err
	}
	err := m.c.scan(ctx, scan{stream: StreamHistory, filter: schemas.AllObjects, from: m.at}, func(e schemas.Event) error {
		if e.Seq >= m.r.to {
			return errStop
		}
		w.add(&e)
		if w.events >= packEvents || w.size() >= packBytes {
			return flush(e.Seq + 1)
		}
		return nil
	})
	if err == nil && from < m.r.to {
		err = flush(m.r.to)
	}
	return err
}

// bound finds the revisions around a hole.
func (c *Client) bound(ctx context.Context, h *hole, holes []hole) error {
	head, err := c.Head(ctx, StreamArchive)
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
