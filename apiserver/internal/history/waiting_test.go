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
