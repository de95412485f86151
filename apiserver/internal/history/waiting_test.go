package history

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// fullLog answers as a log does whose disk is full: who asks for more than its head waits.
type fullLog struct{ Log }

// Gaps implements Log.
func (fullLog) Gaps(ctx context.Context, _ func(schemas.Event) error) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestLogThatDoesNotAnswer: who asks is told so, and does not wait for ever.
func TestLogThatDoesNotAnswer(t *testing.T) {
	r := newRig(t)
	rev := r.write(t, 1, false)
	cfg := DefaultConfig()
	cfg.SettleTimeout = 20 * time.Millisecond
	h := New(Parts{Bus: fullLog{r.client}, Frames: r.client, Feed: r.live, Relay: r.live, View: r.view, Revision: r.live.current,
		Object: func(context.Context, schemas.Key, int64) ([]byte, error) { return nil, bus.ErrNotFound }}, cfg, zerolog.Nop())
	p, err := ParsePoint("rev-"+strconv.FormatInt(rev, 10), time.Now())
	require.NoError(t, err)
	_, err = h.Resolve(t.Context(), p)
	var refused *Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, Unavailable, refused.Kind)
	require.Equal(t, "the event log does not answer", refused.Reason)
	_, err = h.Status(t.Context())
	require.ErrorAs(t, err, &refused)
	require.Equal(t, Unavailable, refused.Kind)
}

// anewLog answers as a log does whose streams were opened anew after its archive had lost its
// end: it has that no longer, or not yet again.
type anewLog struct {
	Log
	openings *uint64
}

// Openings implements Log.
func (l anewLog) Openings(context.Context) (uint64, error) { return *l.openings, nil }

// WaitMirror implements Log.
func (l anewLog) WaitMirror(ctx context.Context, mirror string) error {
	if *l.openings > 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	return l.Log.WaitMirror(ctx, mirror)
}

// TestArchiveThatLostItsEndIsWaitedFor: that it once had a revision says nothing after it was
// opened anew, and an answer without that revision would be a wrong one.
func TestArchiveThatLostItsEndIsWaitedFor(t *testing.T) {
	r := newRig(t)
	rev := r.write(t, 1, false)
	r.write(t, 1, false)
	require.NoError(t, r.window.Flush(t.Context()))
	cfg := DefaultConfig()
	openings := uint64(0)
	h := New(Parts{Bus: anewLog{r.client, &openings}, Frames: r.client, Feed: r.live, Relay: r.live, View: r.view, Revision: r.live.current,
		Object: func(context.Context, schemas.Key, int64) ([]byte, error) { return nil, bus.ErrNotFound }}, cfg, zerolog.Nop())
	require.NoError(t, h.settle(t.Context(), rev))
	require.NoError(t, h.settle(t.Context(), rev))
	openings = 2
	h.cfg.SettleTimeout = 20 * time.Millisecond
	var refused *Error
	require.ErrorAs(t, h.settle(t.Context(), rev), &refused)
	require.Equal(t, Unavailable, refused.Kind)
	_, err := h.make(t.Context(), Instant{Rev: rev})
	require.ErrorAs(t, err, &refused)
	require.Equal(t, Unavailable, refused.Kind)
}
