package bus

import (
	"context"
	"errors"
	"slices"
)

// findOldHoles compares how many changes PACKS says there were with how many ARCHIVE has,
// also where HISTORY no longer has any.
func (c *Client) findOldHoles(ctx context.Context, first uint64, known []hole) ([]span, error) {
	packs, err := c.openPacks(ctx)
	if err != nil || packs.first > packs.last {
		return nil, err
	}
	at, err := packs.find(ctx, first)
	if errors.Is(err, errPack) || err == nil && at >= packs.last {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w := witness{c: c, packs: packs, known: known}
	low, err := w.at(ctx, at, packs.last)
	if err != nil || low.seq == 0 {
		return nil, err
	}
	high, err := w.at(ctx, packs.last, packs.last+1)
	if err != nil || high.seq == 0 {
		return nil, err
	}
	return w.between(ctx, low, high)
}

func asHoles(spans []span) []hole {
	holes := make([]hole, len(spans))
	for i, s := range spans {
		holes[i] = hole{From: s.from, To: s.to}
	}
	return holes
}

// witness looks for holes between packs.
type witness struct {
	c     *Client
	packs *packs
	known []hole
}

// at is the first pack from one place to before another that tells a total; zero if there
// is none.
func (w *witness) at(ctx context.Context, seq, before uint64) (pack, error) {
	for ; seq < before; seq++ {
		p, err := w.packs.get(ctx, seq)
		switch {
		case errors.Is(err, ErrNotFound), errors.Is(err, errPack):
			continue
		case err != nil || p.total != 0:
			return p, err
		}
	}
	return pack{}, nil
}

// between are the ranges of packs behind low, up to high, of which ARCHIVE lacks something.
func (w *witness) between(ctx context.Context, low, high pack) ([]span, error) {
	if low.seq >= high.seq || low.to >= high.to || low.total > high.total { // PACKS was begun anew
		return nil, nil
	}
	holed := slices.ContainsFunc(w.known, func(h hole) bool { return h.From < high.to && h.To > low.to })
	if !holed {
		have, err := w.c.countAtMost(ctx, StreamArchive, low.to, high.to-1)
		if err != nil || have >= high.total-low.total {
			return nil, err
		}
		if have == 0 {
			return []span{{low.to, high.to}}, nil
		}
	}
	middle, err := w.at(ctx, low.seq+(high.seq-low.seq+1)/2, high.seq)
	if err == nil && middle.seq == 0 { // the upper half is gone
		middle, err = w.at(ctx, low.seq+1, high.seq)
	}
	switch {
	case err != nil:
		return nil, err
	case middle.seq == 0 && holed:
		return nil, nil
	case middle.seq == 0:
		return []span{{low.to, high.to}}, nil
	}
	before, err := w.between(ctx, low, middle)
	if err != nil {
		return nil, err
	}
	behind, err := w.between(ctx, middle, high)
	return append(before, behind...), err
}
