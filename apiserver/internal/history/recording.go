package history

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
	"github.com/rutter-project/rutter/schemas/bundle"
)

// Recording is a log that ended: a keyframe and the changes after it, and one more keyframe
// behind each gap that is for good, in memory. Its clock stands still at the end.
type Recording struct {
	header   bundle.Header
	events   []schemas.Event // with sequences from 1 on
	subjects []string        // of the events, empty for gaps
	frames   []bus.Keyframe
	bodies   map[int64][]byte // of the frames, by revision
	bytes    uint64           // of the events
}

var _ Log = (*Recording)(nil)

// NewRecording makes a log of a bundle, which it takes over.
func NewRecording(b *bundle.Bundle) (*Recording, error) {
	r := &Recording{header: b.Header, events: b.Events, subjects: make([]string, len(b.Events)), bodies: map[int64][]byte{}}
	recorded := b.Header.From.Time
	for i := range r.events {
		e := &r.events[i]
		e.Seq = uint64(i + 1)
		r.bytes += uint64(len(e.Object))
		if e.Lost() { // it has no time of its own, and the log is divided by times
			e.Recorded = recorded
		}
		recorded = e.Recorded
		if e.Type != schemas.Gap {
			r.subjects[i] = e.Key.Subject()
		}
	}
	if err := r.addFrame(b.Header.From, b.State); err != nil {
		return nil, err
	}
	for _, at := range b.Header.Later {
		var state []schemas.Event
		for _, e := range b.Later {
			if e.Resync == at.Rev {
				state = append(state, e)
			}
		}
		if err := r.addFrame(at, state); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// addFrame makes a keyframe of a state.
func (r *Recording) addFrame(at bundle.Instant, state []schemas.Event) error {
	items := make(map[schemas.Key]*view.Item, len(state))
	for _, e := range state {
		items[e.Key] = &view.Item{Key: e.Key.Path(), Rev: e.Rev, Object: e.Object}
	}
	body, err := encodeKeyframe(view.NewPast(at.Rev, at.Time, nil, items))
	if err != nil {
		return err
	}
	seq := sort.Search(len(r.events), func(i int) bool { return effective(r.events[i]) > at.Rev })
	r.bodies[at.Rev] = body
	r.frames = append(r.frames, bus.Keyframe{Rev: at.Rev, Time: at.Time, Seq: uint64(seq), Epoch: r.header.Cluster, Objects: len(state), Bytes: int64(len(body))})
	return nil
}

// Parts are what a history of the recording works with: there is nothing else to ask.
func (r *Recording) Parts(present *view.View) Parts {
	return Parts{
		Bus: r, Feed: r, Relay: r, View: present, Clock: func() time.Time { return r.header.To.Time },
		Revision: func(context.Context) (int64, error) { return r.Revision(), nil },
		Object: func(_ context.Context, key schemas.Key, rev int64) ([]byte, error) {
			return nil, fmt.Errorf("read %s at revision %d: %w: the recording does not have it", key, rev, bus.ErrNotFound)
		},
	}
}

// Present fills a view with what there was at the end.
func (r *Recording) Present(ctx context.Context, v *view.View) error {
	h := New(r.Parts(v), DefaultConfig(), zerolog.Nop())
	st, err := h.base(ctx, r.header.To.Rev)
	if err == nil {
		st, err = h.forward(ctx, st, Instant{Rev: r.header.To.Rev, Time: r.header.To.Time})
	}
	if err != nil {
		return err
	}
	var entries []feed.Entry
	st.Each(func(i *view.Item) bool {
		var key schemas.Key
		if key, err = schemas.ParsePath(i.Key); err != nil {
			return false
		}
		entries = append(entries, feed.Entry{Rev: i.Rev, Cnt: 1, Key: key, Type: feed.Modified, Object: i.Object})
		return true
	})
	if err != nil {
		return err
	}
	return v.Reset(r.header.To.Rev, entries)
}

// Revision implements Feed: the last one there is.
func (r *Recording) Revision() int64 { return r.header.To.Rev }

// WaitFor implements Feed and Relay. What has not come never will.
func (r *Recording) WaitFor(_ context.Context, rev int64) error {
	if rev > r.header.To.Rev {
		return fmt.Errorf("the recording ends at revision %d", r.header.To.Rev)
	}
	return nil
}

// Head implements Log.
func (r *Recording) Head(context.Context, string) (bus.Position, error) {
	return bus.Position{Seq: uint64(len(r.events)), First: 1, Epoch: r.header.Cluster, Empty: len(r.events) == 0, Trimmed: true, After: r.header.From.Rev}, nil
}

// Size implements Log.
func (r *Recording) Size(context.Context, string) (messages, bytes uint64, err error) {
	return uint64(len(r.events)), r.bytes, nil
}

// FirstEvent implements Log.
func (r *Recording) FirstEvent(context.Context) (schemas.Event, error) {
	if i := slices.IndexFunc(r.events, isHeld); i >= 0 {
		return r.events[i], nil
	}
	return schemas.Event{}, bus.ErrNotFound
}

// Gaps implements Log.
func (r *Recording) Gaps(_ context.Context, fn func(schemas.Event) error) error {
	for _, e := range r.events {
		if e.Type != schemas.Gap {
			continue
		}
		if err := fn(told(e)); err != nil {
			return ignoreStop(err)
		}
	}
	return nil
}

// isHeld tells what the log holds from what it has lost.
func isHeld(e schemas.Event) bool { return !e.Lost() }

// told is an event as the log tells it: what it has lost has no place in it.
func told(e schemas.Event) schemas.Event {
	if e.Lost() {
		e.Seq, e.Recorded = 0, time.Time{}
	}
	return e
}

// Divide implements Log.
func (r *Recording) Divide(_ context.Context, after func(schemas.Event) bool) (before, behind schemas.Event, err error) {
	n := sort.Search(len(r.events), func(i int) bool { return after(r.events[i]) })
	for i := n - 1; i >= 0 && before.Seq == 0; i-- {
		if isHeld(r.events[i]) {
			before = r.events[i]
		}
	}
	if i := slices.IndexFunc(r.events[n:], isHeld); i >= 0 {
		behind = r.events[n+i]
	}
	return before, behind, nil
}

// ReadRange implements Log. Nothing follows the end, so a follower waits there.
func (r *Recording) ReadRange(ctx context.Context, q bus.Range, fn func(schemas.Event) error) error {
	if q.Ready != nil {
		q.Ready()
	}
	want := subjectFilter(q.Filter)
	for i := max(q.From, 1) - 1; i < uint64(len(r.events)); i++ {
		if r.subjects[i] != "" && !want(r.subjects[i]) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(told(r.events[i])); err != nil {
			return ignoreStop(err)
		}
	}
	if !q.Follow {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// WaitMirror implements Log: nothing is on its way.
func (r *Recording) WaitMirror(context.Context, string) error { return nil }

// Openings implements Log: it is opened once.
func (r *Recording) Openings(context.Context) (uint64, error) { return 0, nil }

// Keyframes implements Log.
func (r *Recording) Keyframes(context.Context) ([]bus.Keyframe, error) {
	return slices.Clone(r.frames), nil
}

// ReadKeyframe implements Log.
func (r *Recording) ReadKeyframe(_ context.Context, rev int64) ([]byte, error) {
	body, ok := r.bodies[rev]
	if !ok {
		return nil, fmt.Errorf("keyframe of revision %d: %w", rev, bus.ErrNotFound)
	}
	return body, nil
}

// Retention implements Log: all of it is kept.
func (r *Recording) Retention() bus.StreamsConfig { return bus.StreamsConfig{} }

// subjectFilter tells which subjects a filter of the bus means: * is any token, > is all
// that follow.
func subjectFilter(filter string) func(subject string) bool {
	if filter == "" || filter == schemas.AllObjects {
		return func(string) bool { return true }
	}
	want := strings.Split(filter, ".")
	return func(subject string) bool {
		tokens := strings.Split(subject, ".")
		for i, w := range want {
			switch {
			case w == ">":
				return i < len(tokens)
			case i >= len(tokens), w != schemas.AnyToken && w != tokens[i]:
				return false
			}
		}
		return len(tokens) == len(want)
	}
}
