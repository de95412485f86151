package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// Place is a place between events: behind one of a revision, or behind all of it.
type Place struct {
	Rev   int64
	Ord   int
	Whole bool
}

// covers reports that an event does not come after the place.
func (p Place) covers(e schemas.Event) bool {
	return e.Rev < p.Rev || (e.Rev == p.Rev && (p.Whole || e.Ord <= p.Ord))
}

// seen is the last revision before the place of which surely nothing lies behind it.
func (p Place) seen() int64 {
	if p.Whole {
		return p.Rev
	}
	return p.Rev - 1
}

// Query asks for events.
type Query struct {
	// Key's fields may be schemas.AnyToken.
	Key schemas.Key
	// Since and Until bound the revisions, both included; nil for the oldest held, or
	// with Follow from now on, and for the newest.
	Since, Until *Point
	// Behind begins after an event, instead of Since.
	Behind *Place
	Follow bool
	// Ready, if not nil, is called when nothing that happens from then on is missed.
	Ready func()
}

// ErrStop ends Events early, without being an error.
var ErrStop = bus.ErrStop

// plan is a query, looked up.
type plan struct {
	from  uint64
	since int64 // first revision wanted
	until int64 // last one, 0 for no end
	gap   *schemas.Event
}

// Events calls fn with what a query asks for, in order, gaps included. An event's Object is
// fn's until it returns. Errors of type *Error say that a bound is not right.
func (h *History) Events(ctx context.Context, q Query, fn func(schemas.Event) error) error {
	p, err := h.plan(ctx, q)
	if err != nil {
		return err
	}
	if p.gap != nil {
		if err := fn(*p.gap); err != nil {
			return ignoreStop(err)
		}
	}
	filter := schemas.Filter(q.Key)
	if q.Key.Group == schemas.AnyToken && q.Key.Resource == schemas.AnyToken && q.Key.Namespace == schemas.AnyToken && q.Key.Name == schemas.AnyToken {
		filter = schemas.AllObjects
	}
	return h.parts.Bus.ReadRange(ctx, bus.Range{Filter: filter, From: p.from, Follow: q.Follow, Fleeting: true, Ready: q.Ready}, func(e schemas.Event) error {
		switch {
		case p.until != 0 && effective(e) > p.until:
			return bus.ErrStop
		case effective(e) < p.since, q.Behind != nil && q.Behind.covers(e):
			return nil
		default:
			return fn(e)
		}
	})
}

func ignoreStop(err error) error {
	if errors.Is(err, ErrStop) {
		return nil
	}
	return err
}

// plan finds where a query begins and ends.
func (h *History) plan(ctx context.Context, q Query) (plan, error) {
	held, err := h.holding(ctx)
	if err != nil {
		return plan{}, err
	}
	p := plan{from: held.head.First}
	var seen int64 // what lies up to there is not asked for
	if !q.Follow {
		if p.until, err = h.until(ctx, q.Until); err != nil {
			return plan{}, err
		}
	}
	switch {
	case q.Behind != nil:
		p.since, seen = q.Behind.Rev, q.Behind.seen()
	case q.Since != nil:
		if p.since, err = h.since(ctx, *q.Since); err != nil {
			return plan{}, err
		}
		seen = p.since - 1
		if q.Until != nil && p.since > p.until+1 { // what begins right after the end is empty
			reason := fmt.Sprintf("it is after %q, where the events asked for end", q.Until.Text)
			return plan{}, &Error{Kind: Invalid, Instant: q.Since.Text, Reason: reason}
		}
	case q.Follow:
		head, err := h.parts.Bus.Head(ctx, bus.StreamArchive)
		p.from = head.Seq + 1
		return p, err
	default:
		return p, nil
	}
	before, behind, err := h.parts.Bus.Divide(ctx, func(e schemas.Event) bool { return effective(e) >= p.since })
	if err != nil {
		return plan{}, err
	}
	if p.from = behind.Seq; behind.Seq == 0 {
		head, err := h.parts.Bus.Head(ctx, bus.StreamArchive)
		if p.from = head.Seq + 1; err != nil {
			return plan{}, err
		}
	}
	whole := held.whole()
	if q.Since != nil && p.since == held.oldest.Rev {
		seen = max(seen, min(whole, p.since)) // begins with a state that is held
	}
	if held.head.Trimmed && behind.Seq == held.first.Seq && whole > seen && held.first.Type != schemas.Gap {
		p.gap = lostEvent(max(seen, 0), whole+1, held.head.Epoch, "the stream no longer keeps these changes")
	}
	if lost := held.across(before, behind); lost != nil && seen+1 < lost.behind { // it begins within
		p.gap = lostEvent(max(seen, lost.From.Rev), lost.behind, held.head.Epoch, lost.Reason)
	}
	return p, nil
}

// lostEvent tells a reader who knows everything up to a revision that what lies before
// another one is lost.
func lostEvent(after, rev int64, epoch, reason string) *schemas.Event {
	text, _ := json.Marshal(map[string]string{"reason": reason}) // strings always encode
	return &schemas.Event{Rev: rev, Cnt: 1, Type: schemas.Gap, PrevRev: after, Epoch: epoch, Object: text}
}

// until is the last revision wanted, once the log has it.
func (h *History) until(ctx context.Context, point *Point) (int64, error) {
	if point == nil || point.Present() {
		rev, err := h.parts.Revision(ctx)
		if err == nil {
			err = h.settle(ctx, rev)
		}
		return rev, err
	}
	return h.bound(ctx, *point)
}

// since is the first revision wanted. What is before all that is held begins there, and
// is told as a gap.
func (h *History) since(ctx context.Context, point Point) (int64, error) {
	if point.Rev != 0 {
		return h.bound(ctx, point)
	}
	rev, err := h.bound(ctx, point)
	return rev + 1, err
}

// bound is the revision of a point, whether or not its state can be made.
func (h *History) bound(ctx context.Context, point Point) (int64, error) {
	i, err := h.Resolve(ctx, point)
	var refused *Error
	switch {
	case err == nil:
		return i.Rev, nil
	case errors.As(err, &refused) && refused.Kind == Expired:
		return max(point.Rev, 0), nil
	case errors.As(err, &refused) && refused.Kind == InGap && point.Rev != 0:
		return point.Rev, nil
	case errors.As(err, &refused) && refused.Kind == InGap:
		return refused.Gap.From.Rev, nil
	default:
		return 0, err
	}
}

// Objects calls fn with the objects of a state that a key asks for, whose fields may be
// schemas.AnyToken, in the order of their keys: each as the event by which somebody learns
// of it who knows nothing.
func Objects(p *view.Past, key schemas.Key, fn func(schemas.Event) error) error {
	fits := func(want, is string) bool { return want == schemas.AnyToken || want == is }
	var items []*view.Item
	p.Each(func(i *view.Item) bool {
		items = append(items, i)
		return true
	})
	slices.SortFunc(items, func(a, b *view.Item) int { return strings.Compare(a.Key, b.Key) })
	for _, i := range items {
		k, err := schemas.ParsePath(i.Key)
		if err != nil {
			return err
		}
		if !fits(key.Group, k.Group) || !fits(key.Resource, k.Resource) || !fits(key.Namespace, k.Namespace) || !fits(key.Name, k.Name) {
			continue
		}
		if err := fn(schemas.Event{Rev: i.Rev, Cnt: 1, Type: schemas.Added, Key: k, Object: i.Object}); err != nil {
			return ignoreStop(err)
		}
	}
	return nil
}
