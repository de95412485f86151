package history

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// maxResolved bounds the answers that are remembered.
const maxResolved = 4096

// Resolve finds the revision that a point means, and checks that it is held. The error
// is an *Error.
func (h *History) Resolve(ctx context.Context, p Point) (Instant, error) {
	found, err := h.resolve(ctx, p)
	var refused *Error
	switch {
	case err == nil:
		return found, nil
	case !errors.As(err, &refused):
		refused = &Error{Kind: Unavailable, Reason: "the event log does not answer", Err: err}
	}
	answer := *refused
	answer.Instant = p.Text
	if answer.Kind != Invalid {
		h.bounds(ctx, &answer)
	}
	return Instant{}, &answer
}

// bounds says in a refusal what is held, as far as that can be found out.
func (h *History) bounds(ctx context.Context, e *Error) {
	if held, err := h.holding(ctx); err == nil {
		e.Oldest = held.oldest
	}
	if rev := h.parts.Feed.Revision(); e.Oldest.Rev != 0 {
		e.Newest = Instant{Rev: rev, Time: h.Now().UTC()}
	}
	if e.Gap != nil {
		e.Gap = h.dated(ctx, *e.Gap)
	}
}

// dated adds when the last change before a gap was made, if that can be found out.
func (h *History) dated(ctx context.Context, g Gap) *Gap {
	if at, err := h.timeOf(ctx, g.From.Rev); err == nil {
		g.From.Time = at
	}
	return &g
}

func (h *History) resolve(ctx context.Context, p Point) (Instant, error) {
	if p.Present() {
		rev, err := h.parts.Revision(ctx)
		return Instant{Rev: rev, Time: h.Now().UTC()}, err
	}
	if p.Mark != "" {
		rev, err := h.marked(ctx, p.Mark)
		if err != nil {
			return Instant{}, err
		}
		p = Point{Text: schemas.MarkValue(rev), Rev: rev}
	}
	held, err := h.holding(ctx)
	if err != nil {
		return Instant{}, err
	}
	key := p.Text
	if p.Rev == 0 {
		key = p.At.UTC().Format(time.RFC3339Nano)
	}
	h.mu.Lock()
	known, ok := h.resolved[key]
	h.mu.Unlock()
	final := true
	if !ok && p.Rev != 0 {
		known, final, err = h.resolveRevision(ctx, p.Rev, held)
	} else if !ok {
		known, final, err = h.resolveTime(ctx, p.At, held)
	}
	if err != nil {
		return Instant{}, err
	}
	if err := held.check(known.Rev); err != nil {
		return Instant{}, err
	}
	if final {
		h.remember(key, known)
	}
	return known, nil
}

func (h *History) remember(key string, i Instant) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.resolved) >= maxResolved {
		clear(h.resolved)
	}
	h.resolved[key] = i
}

// check refuses what is not held.
func (h *held) check(rev int64) error {
	if h.oldest.Rev == 0 || rev < h.oldest.Rev {
		return &Error{Kind: Expired}
	}
	for i := range h.gaps {
		if g := &h.gaps[i]; g.From.Rev < rev && rev < g.To.Rev {
			return &Error{Kind: InGap, Gap: g}
		}
	}
	return nil
}

// resolveRevision finds when a revision was made. final tells that the answer stays.
func (h *History) resolveRevision(ctx context.Context, rev int64, held *held) (Instant, bool, error) {
	newest := h.parts.Feed.Revision()
	if rev > newest {
		var err error
		if newest, err = h.parts.Revision(ctx); err != nil {
			return Instant{}, false, err
		}
	}
	if rev > newest {
		return Instant{}, false, &Error{Kind: Future}
	}
	if err := held.check(rev); err != nil {
		return Instant{}, false, err
	}
	if err := h.settle(ctx, rev); err != nil {
		return Instant{}, false, err
	}
	at, err := h.timeOf(ctx, rev)
	return Instant{Rev: rev, Time: at}, true, err
}

// timeOf is when the last change up to a revision was made; zero if there was none.
func (h *History) timeOf(ctx context.Context, rev int64) (time.Time, error) {
	before, behind, err := h.parts.Bus.Divide(ctx, func(e schemas.Event) bool { return effective(e) > rev })
	switch {
	case err != nil:
		return time.Time{}, err
	case before.Seq != 0:
		return eventTime(before), nil
	}
	held, err := h.holding(ctx)
	switch {
	case err != nil:
		return time.Time{}, err
	case len(held.frames) > 0 && held.frames[0].Rev <= rev:
		return held.frames[0].Time, nil
	case behind.Seq != 0:
		return eventTime(behind), nil
	default:
		return time.Time{}, nil
	}
}

// resolveTime finds the last revision up to a time.
func (h *History) resolveTime(ctx context.Context, at time.Time, held *held) (Instant, bool, error) {
	if at.After(h.Now()) {
		return Instant{}, false, &Error{Kind: Future}
	}
	if held.oldest.Rev == 0 || at.Before(held.oldest.Time) {
		return Instant{}, false, &Error{Kind: Expired}
	}
	before, behind, err := h.divideAt(ctx, at)
	if err != nil {
		return Instant{}, false, err
	}
	if behind.Resync != 0 || (before.Resync != 0 && before.Type != schemas.Gap) {
		if gap := held.gapAt(effective(behind), effective(before)); gap != nil {
			return Instant{}, false, &Error{Kind: InGap, Gap: gap}
		}
	}
	if gap := held.across(before, behind); gap != nil {
		return Instant{}, false, &Error{Kind: InGap, Gap: gap}
	}
	rev := before.Rev
	if before.Seq != 0 && !before.Last() {
		rev-- // the rest of this revision was recorded later
	}
	if behind.Seq == 0 {
		return Instant{Rev: max(rev, held.oldest.Rev), Time: at}, false, nil
	}
	rev, err = h.late(ctx, at, rev, behind)
	return Instant{Rev: max(rev, held.oldest.Rev), Time: at}, true, err
}

// divideAt divides the log at a time. If nothing was recorded later, it makes sure that
// nothing will be that belongs before.
func (h *History) divideAt(ctx context.Context, at time.Time) (before, behind schemas.Event, err error) {
	after := func(e schemas.Event) bool { return e.Recorded.After(at) }
	before, behind, err = h.parts.Bus.Divide(ctx, after)
	if err != nil || behind.Seq != 0 {
		return before, behind, err
	}
	newest, err := h.parts.Revision(ctx)
	if err != nil {
		return before, behind, err
	}
	if err := h.settle(ctx, newest); err != nil {
		return before, behind, err
	}
	return h.parts.Bus.Divide(ctx, after)
}

// gapAt is the gap that one of two revisions closes.
func (h *held) gapAt(revs ...int64) *Gap {
	for _, rev := range revs {
		for i := range h.gaps {
			if h.gaps[i].To.Rev == rev {
				return &h.gaps[i]
			}
		}
	}
	return nil
}

// late looks, from the first change that was recorded after a time, for changes that
// were made by then: the log may have been away. Changes of unknown time count with the
// next known one.
func (h *History) late(ctx context.Context, at time.Time, rev int64, behind schemas.Event) (int64, error) {
	err := h.parts.Bus.ReadRange(ctx, bus.Range{From: behind.Seq, Urgent: true}, func(e schemas.Event) error {
		switch {
		case e.Resync != 0:
			return bus.ErrStop
		case e.Header.Time.IsZero():
			return nil
		case e.Header.Time.After(at):
			return bus.ErrStop
		case e.Last():
			rev = e.Rev
		default: // the rest of the revision follows
		}
		return nil
	})
	return rev, err
}

func gapReason(e schemas.Event) string {
	var body struct {
		Reason string `json:"reason"`
	}
	if err := json.Unmarshal(e.Object, &body); err != nil || body.Reason == "" {
		return "changes are lost"
	}
	return body.Reason
}
