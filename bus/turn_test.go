package bus

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

// TestStreamsThatComeBackAreNotMissing: a relay that asks for a stream while the server
// brings its streams back must not make it anew.
func TestStreamsThatComeBackAreNotMissing(t *testing.T) {
	b := startBus(t)
	for i := range 3000 {
		b.send(t, schemas.Modified, pod("a"), i)
	}
	b.flush(t)
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			asking, done := context.WithTimeout(ctx, time.Minute)
			info, err := b.existing(asking, StreamHistory)
			done()
			if err == nil && info == nil {
				asked <- errors.New("the stream is said to be missing")
				return
			}
		}
		asked <- nil
	}()
	for range 20 {
		require.NoError(t, b.server.nats.ShutdownJetStream())
		require.NoError(t, b.server.Recover())
	}
	cancel()
	require.NoError(t, <-asked)
	_, err := b.existing(t.Context(), "OTHER")
	require.NoError(t, err, "this one is")
	b.server.turn.Add(1)
	_, err = b.existing(t.Context(), "OTHER")
	require.ErrorIs(t, err, errComingBack)
	_, err = b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err, "those that are there are there")
	require.NoError(t, b.dropStream(t.Context(), StreamRelay))
	_, err = b.MakeStreams(t.Context(), testCluster, 1)
	require.ErrorIs(t, err, errComingBack)
	_, err = b.js.Stream(t.Context(), StreamRelay)
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound, "it is not made")
}
