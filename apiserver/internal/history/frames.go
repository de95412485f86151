package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/bus"
)

// Follower makes a cursor on the changes of this process.
type Follower interface {
	Follow(from int64) *feed.Cursor
}

// Baseline asks for a keyframe: the log has a new beginning.
func (h *History) Baseline() { remind(h.due) }

// remind leaves a note in a channel that has room for one.
func remind(of chan<- struct{}) {
	select {
	case of <- struct{}{}:
	default: // there is one already
	}
}

// Run keeps keyframes and packs until ctx ends, and then returns nil.
func (h *History) Run(ctx context.Context, changes Follower) error {
	if err := h.parts.Relay.WaitFor(ctx, 1); err != nil { // the streams are there
		return nil
	}
	if err := h.parts.Frames.SweepKeyframes(ctx); err != nil {
		h.log.Warn().Err(err).Msg("leftovers of keyframes not removed")
	}
	h.Baseline()
	remind(h.grown)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { h.count(ctx, changes); return nil })
	g.Go(func() error { h.keep(ctx); return nil })
	g.Go(func() error { h.pack(ctx); return nil })
	return g.Wait()
}

// packChanges is after how many changes the log is packed again: those that are not take
// ten times as long to read, but are few.
const packChanges = 1024

// count asks for a keyframe, or packs, whenever there may have been enough changes. It
// reads what the feed has in memory.
func (h *History) count(ctx context.Context, changes Follower) {
	cursor := changes.Follow(h.parts.Feed.Revision() + 1)
	defer func() { cursor.Close() }()
	n, unpacked := 0, 0
	for ctx.Err() == nil {
		batch, err := cursor.Next(ctx)
		if err != nil {
			cursor.Close()
			cursor = changes.Follow(h.parts.Feed.Revision() + 1)
			continue
		}
		if n += len(batch.Entries); n >= h.cfg.KeyframeEvents {
			n = 0
			h.Baseline()
		}
		if unpacked += len(batch.Entries); unpacked >= packChanges {
			unpacked = 0
			remind(h.grown)
		}
	}
}

// pack packs the log when it has grown.
func (h *History) pack(ctx context.Context) {
	for {
		select {
		case <-h.grown:
		case <-ctx.Done():
			return
		}
		if h.settle(ctx, h.parts.Feed.Revision()) != nil {
			remind(h.grown) // it lags: packed as far as it has got, and then once more
		}
		err := h.parts.Frames.PackArchive(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		h.log.Warn().Err(err).Msg("log not packed, trying again")
		select {
		case <-time.After(h.cfg.RetryDelay):
			remind(h.grown)
		case <-ctx.Done():
			return
		}
	}
}

// keep writes keyframes when they are due.
func (h *History) keep(ctx context.Context) {
	timer := time.NewTimer(h.cfg.KeyframeAge)
	defer timer.Stop()
	for {
		select {
		case <-h.due:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		next := h.cfg.KeyframeAge
		if err := h.keepOne(ctx); err != nil && ctx.Err() == nil {
			h.log.Warn().Err(err).Msg("keyframe not written, trying again")
			next = h.cfg.RetryDelay
		}
		timer.Reset(next)
	}
}

// keepOne writes a keyframe if there is need of one, and removes those of no use.
func (h *History) keepOne(ctx context.Context) error {
	held, err := h.look(ctx)
	if err != nil {
		return err
	}
	if h.wanted(held, time.Now()) {
		if err := h.write(ctx, held); err != nil {
			return err
		}
	}
	return h.retire(ctx, held)
}

// wanted decides whether there is need of a keyframe.
func (h *History) wanted(held *held, now time.Time) bool {
	if held.head.Empty {
		return false
	}
	if len(held.frames) == 0 {
		return true
	}
	newest := held.frames[len(held.frames)-1]
	if n := len(held.gaps); n > 0 && held.gaps[n-1].To.Rev > newest.Rev {
		return true // what comes after a gap does not depend on what was before
	}
	behind := int64(held.head.Seq) - int64(newest.Seq)
	enough := max(h.cfg.KeyframeEvents, h.cfg.KeyframeShare*newest.Objects)
	return behind >= int64(enough) || (behind > 0 && now.Sub(newest.Time) >= h.cfg.KeyframeAge)
}

// write stores the state that the view has, once the log has got as far.
func (h *History) write(ctx context.Context, held *held) error {
	started := time.Now()
	last, err := h.parts.Frames.LastEvent(ctx, bus.StreamArchive)
	if err != nil {
		return err
	}
	if err := h.parts.Feed.WaitFor(ctx, last.Rev); err != nil {
		return err
	}
	past := h.parts.View.Past(started.UTC())
	// A keyframe of a revision that the log does not reach might turn out to lie in a
	// gap.
	if err := h.settle(ctx, past.Rev); err != nil {
		return err
	}
	body, err := encodeKeyframe(past)
	if err != nil {
		return err
	}
	k := bus.Keyframe{Rev: past.Rev, Time: past.Time, Seq: last.Seq, Epoch: held.head.Epoch, Objects: past.Objects}
	err = h.parts.Frames.PutKeyframe(ctx, k, bytes.NewReader(body))
	if errors.Is(err, bus.ErrNoSpace) {
		if thinned := h.thin(ctx, held); thinned != nil {
			return errors.Join(err, thinned)
		}
		err = h.parts.Frames.PutKeyframe(ctx, k, bytes.NewReader(body))
	}
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.held = nil
	h.mu.Unlock()
	h.log.Info().Int64("rev", k.Rev).Int("objects", k.Objects).Int("bytes", len(body)).Dur("took", time.Since(started)).Msg("keyframe written")
	return nil
}

var errThin = errors.New("there is no room for a second keyframe")

// thin removes every second keyframe, so that instants between them take longer but
// stay. The oldest and the newest are kept.
func (h *History) thin(ctx context.Context, held *held) error {
	if len(held.frames) < 3 {
		return errThin
	}
	for i := 1; i < len(held.frames)-1; i += 2 {
		if err := h.parts.Frames.DeleteKeyframe(ctx, held.frames[i].Rev); err != nil {
			return err
		}
	}
	return nil
}

// retire removes keyframes that lie before everything the archive holds, but for the
// newest of them.
func (h *History) retire(ctx context.Context, held *held) error {
	if held.first.Seq == 0 {
		return nil
	}
	all, err := h.parts.Bus.Keyframes(ctx)
	if err != nil {
		return err
	}
	for i := 0; i+1 < len(all) && all[i+1].Rev <= held.first.Rev; i++ {
		if err := h.parts.Frames.DeleteKeyframe(ctx, all[i].Rev); err != nil {
			return fmt.Errorf("retire keyframe: %w", err)
		}
	}
	return nil
}
