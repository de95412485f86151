package history

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// Open makes what requests read who ask for a span: a state, and if the span is played
// what came after it.
func (h *History) Open(ctx context.Context, span Span) (*view.Reader, error) {
	from, err := h.Resolve(ctx, span.From)
	if err != nil {
		return nil, err
	}
	p := &player{history: h, from: from, speed: span.Speed}
	if span.To != nil {
		if p.to, err = h.Resolve(ctx, *span.To); err != nil {
			return nil, err
		}
		if err := h.playable(ctx, span, from, p.to); err != nil {
			return nil, err
		}
	}
	if p.base, err = h.at(ctx, from); err != nil {
		return nil, err
	}
	reader := &view.Reader{Past: p.base.Past, At: from.Time}
	if span.To != nil {
		reader.Replay = p.replay
	}
	return reader, nil
}

// playable refuses a span that ends before it begins, or that changes are missing from.
func (h *History) playable(ctx context.Context, span Span, from, to Instant) error {
	text := span.From.Text + ".." + span.To.Text
	if to.Rev < from.Rev {
		return &Error{Kind: Invalid, Instant: text, Reason: fmt.Sprintf("it ends at %s, before it begins at %s", to, from)}
	}
	held, err := h.holding(ctx)
	if err != nil {
		return err
	}
	for _, g := range held.gaps {
		if g.From.Rev < to.Rev && g.To.Rev > from.Rev {
			refused := &Error{Kind: InGap, Instant: text, Gap: &g}
			h.bounds(ctx, refused)
			return refused
		}
	}
	return h.settle(ctx, to.Rev)
}

// player plays a span to any number of watches, each from where it wants to begin.
type player struct {
	history  *History
	base     *state
	from, to Instant
	speed    float64 // 0: as fast as it goes
}

// replay is a view.Reader's.
func (p *player) replay(ctx context.Context, prefix string, after int64) (view.Follower, func(), error) {
	table := p.base.Table(prefix)
	if after < p.from.Rev {
		return nil, nil, view.ErrGone
	}
	if after >= p.to.Rev { // nothing happens any more
		cursor, err := table.Cursor(after)
		return cursor, func() {}, err
	}
	if p.base.seq == noSeq {
		return nil, nil, &Error{Kind: Unavailable, Instant: p.from.String(), Reason: "the event log does not answer"}
	}
	began := p.from.Time
	if after > p.from.Rev {
		var err error
		if began, err = p.history.timeOf(ctx, after); err != nil {
			return nil, nil, err
		}
	}
	r := view.NewReplay(table)
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	pace := pacer{start: time.Now(), began: began, speed: p.speed}
	running.Go(func() { r.End(p.play(ctx, r, prefix, after, pace)) })
	return r, func() { cancel(); running.Wait() }, nil
}

// play gives a replay what the log has of a resource, and returns how that ended.
func (p *player) play(ctx context.Context, r *view.Replay, prefix string, after int64, pace pacer) error {
	group, resource, _ := strings.Cut(strings.TrimPrefix(prefix, schemas.RegistryPrefix), "/")
	if group == "core" {
		group = ""
	}
	r.Seen(after)
	filter := schemas.SubjectPrefix(group, resource, "")
	err := p.history.parts.Bus.ReadRange(ctx, bus.Range{Filter: filter, From: p.base.seq + 1, Fleeting: true}, func(e schemas.Event) error {
		rev := effective(e)
		switch {
		case rev > p.to.Rev:
			return bus.ErrStop
		case rev <= p.from.Rev, e.Type == schemas.Gap:
			return nil
		}
		quiet := e.Rev <= after
		if !quiet {
			if err := pace.wait(ctx, eventTime(e)); err != nil {
				return err
			}
		}
		item, err := p.history.itemOf(ctx, e)
		if err != nil {
			return err
		}
		return r.Add(ctx, item, quiet)
	})
	if err == nil {
		err = pace.wait(ctx, p.to.Time)
	}
	if err != nil {
		return err
	}
	r.Seen(p.to.Rev)
	return view.ErrEnd
}

// pacer turns times of the past into times of its replay.
type pacer struct {
	start time.Time // when the replay began
	began time.Time // what time it was then, in the past
	speed float64   // 0: everything is due at once
}

// due is how long after the start something of the past comes.
func (p pacer) due(at time.Time) time.Duration {
	if p.speed == 0 || at.Before(p.began) {
		return 0
	}
	return time.Duration(float64(at.Sub(p.began)) / p.speed)
}

func (p pacer) wait(ctx context.Context, at time.Time) error {
	left := p.due(at) - time.Since(p.start)
	if left <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
