package history

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// state is a past and the place in ARCHIVE from which it can be carried on.
type state struct {
	*view.Past
	seq  uint64 // every later change lies behind this sequence
	used uint64 // when it was last asked for, as a count; guarded by states.mu
}

// states are those that were asked for, bounded by bytes.
type states struct {
	max int64

	mu    sync.Mutex
	byRev map[int64]*state // guarded by mu
	bytes int64            // guarded by mu
	uses  uint64           // guarded by mu
}

func newStates(maxBytes int64) *states {
	return &states{max: maxBytes, byRev: map[int64]*state{}}
}

// get is the state at a revision, nil if it is not there.
func (s *states) get(rev int64) *state {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.byRev[rev]
	if st != nil {
		s.uses++
		st.used = s.uses
	}
	return st
}

// before is the newest state from one revision to another, nil if there is none.
func (s *states) before(from, to int64) *state {
	s.mu.Lock()
	defer s.mu.Unlock()
	var best *state
	for rev, st := range s.byRev {
		if rev >= from && rev <= to && (best == nil || rev > best.Rev) {
			best = st
		}
	}
	return best
}

// put keeps a state, and lets go of those that were not asked for the longest.
func (s *states) put(st *state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byRev[st.Rev] != nil {
		return
	}
	s.uses++
	st.used = s.uses
	s.byRev[st.Rev] = st
	s.bytes += st.Bytes
	for s.bytes > s.max && len(s.byRev) > 1 {
		oldest := st
		for _, other := range s.byRev {
			if other.used < oldest.used {
				oldest = other
			}
		}
		delete(s.byRev, oldest.Rev)
		s.bytes -= oldest.Bytes
	}
}

// size is how many states are kept and how many bytes they take.
func (s *states) size() (int, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byRev), s.bytes
}

// flight is a state in the making.
type flight struct {
	done  chan struct{}
	state *state
	err   error
}

// At is the state at an instant that Resolve has found.
func (h *History) At(ctx context.Context, i Instant) (*view.Past, error) {
	st, err := h.at(ctx, i)
	if err != nil {
		return nil, err
	}
	return st.Past, nil
}

func (h *History) at(ctx context.Context, i Instant) (*state, error) {
	if st := h.states.get(i.Rev); st != nil {
		return st, nil
	}
	h.mu.Lock()
	f, making := h.flights[i.Rev]
	if !making {
		f = &flight{done: make(chan struct{})}
		h.flights[i.Rev] = f
	}
	h.mu.Unlock()
	if making {
		select {
		case <-f.done:
			return f.state, f.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.state, f.err = h.makeOnce(ctx, i)
	h.mu.Lock()
	delete(h.flights, i.Rev)
	h.mu.Unlock()
	close(f.done)
	return f.state, f.err
}

// makeOnce makes a state for all who wait for it, so that it does not end with the first
// one's request.
func (h *History) makeOnce(ctx context.Context, i Instant) (*state, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.cfg.BuildTimeout)
	defer cancel()
	select {
	case h.builds <- struct{}{}:
		defer func() { <-h.builds }()
	case <-ctx.Done():
		return nil, &Error{Kind: Unavailable, Instant: i.String(), Reason: "too many other instants are being made", Err: ctx.Err()}
	}
	started := time.Now()
	st, err := h.make(ctx, i)
	if err != nil {
		return nil, &Error{Kind: Unavailable, Instant: i.String(), Reason: "its state could not be made", Err: err}
	}
	h.states.put(st)
	h.log.Debug().Int64("rev", i.Rev).Int("objects", st.Objects).Dur("took", time.Since(started)).Msg("state made")
	return st, nil
}

func (h *History) make(ctx context.Context, i Instant) (*state, error) {
	if i.Rev > h.parts.View.Rev() {
		if err := h.parts.Feed.WaitFor(ctx, i.Rev); err != nil {
			return nil, err
		}
	}
	if h.parts.View.Rev() == i.Rev { // the present needs no log
		if p := h.parts.View.Past(i.Time); p.Rev == i.Rev {
			return h.present(ctx, p), nil
		}
	}
	before, err := h.settled(ctx, i.Rev)
	if err != nil {
		return nil, err
	}
	base, err := h.base(ctx, i.Rev)
	if err != nil {
		return nil, err
	}
	st, err := h.forward(ctx, base, i)
	if err != nil {
		return nil, err
	}
	after, err := h.openingsOf(ctx)
	if err == nil && after != before { // what was read may have ended too early
		err = &Error{Kind: Unavailable, Reason: "the event log was opened anew meanwhile"}
	}
	return st, err
}

// present makes a state of the view's. It can't be carried on if the log is away.
func (h *History) present(ctx context.Context, p *view.Past) *state {
	st := &state{Past: p, seq: noSeq}
	if h.settle(ctx, p.Rev) != nil {
		return st
	}
	_, behind, err := h.parts.Bus.Divide(ctx, func(e schemas.Event) bool { return effective(e) > p.Rev })
	if err != nil {
		return st
	}
	if st.seq = behind.Seq - 1; behind.Seq == 0 {
		if head, err := h.parts.Bus.Head(ctx, bus.StreamArchive); err == nil {
			st.seq = head.Seq
		}
	}
	return st
}

// noSeq says that a state can't be carried on.
const noSeq = ^uint64(0)

// base is the newest state at or before a revision from which the log leads to it.
func (h *History) base(ctx context.Context, rev int64) (*state, error) {
	held, err := h.holding(ctx)
	if err != nil {
		return nil, err
	}
	if err := held.check(rev); err != nil {
		return nil, err
	}
	frames := held.frames
	for len(frames) > 0 && frames[len(frames)-1].Rev > rev {
		frames = frames[:len(frames)-1]
	}
	from := held.oldest.Rev
	if len(frames) > 0 {
		from = frames[len(frames)-1].Rev
	}
	if st := h.states.before(from, rev); st != nil && st.seq != noSeq {
		return st, nil
	}
	for ; len(frames) > 0; frames = frames[:len(frames)-1] {
		k := frames[len(frames)-1]
		st, err := h.load(ctx, k)
		if err == nil {
			return st, nil
		}
		h.log.Warn().Err(err).Int64("rev", k.Rev).Msg("keyframe can't be used, taking an older one")
	}
	if !held.fromNil {
		return nil, &Error{Kind: Expired}
	}
	return &state{Past: view.NewPast(0, time.Time{}, nil, nil), seq: held.head.First - 1}, nil
}

func (h *History) load(ctx context.Context, k bus.Keyframe) (*state, error) {
	body, err := h.parts.Bus.ReadKeyframe(ctx, k.Rev)
	if err != nil {
		return nil, err
	}
	rev, items, err := decodeKeyframe(body)
	if err != nil {
		return nil, err
	}
	if rev != k.Rev {
		return nil, fmt.Errorf("%w: it is of revision %d, not %d", errKeyframe, rev, k.Rev)
	}
	return &state{Past: view.NewPast(rev, k.Time, nil, items), seq: k.Seq}, nil
}

// forward carries a state on to a later instant.
func (h *History) forward(ctx context.Context, base *state, i Instant) (*state, error) {
	if base.Rev == i.Rev && base.seq != noSeq {
		return &state{Past: view.NewPast(i.Rev, i.Time, base.Past, nil), seq: base.seq}, nil
	}
	last := map[schemas.Key]schemas.Event{}
	seq := base.seq
	err := h.parts.Bus.ReadRange(ctx, bus.Range{From: base.seq + 1, Urgent: true}, func(e schemas.Event) error {
		if effective(e) > i.Rev {
			return bus.ErrStop
		}
		if e.Lost() {
			if e.Rev > base.Rev {
				gap := gapOf(e)
				return &Error{Kind: InGap, Instant: i.String(), Gap: &gap}
			}
			return nil
		}
		seq = e.Seq
		if e.Type != schemas.Gap && effective(e) > base.Rev {
			last[e.Key] = e
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	changed := make(map[schemas.Key]*view.Item, len(last))
	for key, e := range last {
		if changed[key], err = h.itemOf(ctx, e); err != nil {
			return nil, err
		}
	}
	return &state{Past: view.NewPast(i.Rev, i.Time, base.Past, changed), seq: seq}, nil
}

// itemOf is an object after a change, without Object if it is gone. The bytes are
// copied: those of the message are a part of something larger. What was too large for
// the bus is read from etcd, as long as that has it.
func (h *History) itemOf(ctx context.Context, e schemas.Event) (*view.Item, error) {
	item := &view.Item{Key: e.Key.Path(), Rev: e.Rev}
	switch {
	case e.Type == schemas.Deleted:
		return item, nil
	case len(e.Object) > 0:
		item.Object = bytes.Clone(e.Object)
		return item, nil
	}
	var err error
	if item.Object, err = h.parts.Object(ctx, e.Key, e.Rev); err != nil {
		return nil, fmt.Errorf("%s at revision %d was too large for the event log: %w", e.Key, e.Rev, err)
	}
	return item, nil
}
