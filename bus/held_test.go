package bus

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

func TestHeld(t *testing.T) {
	b := startBus(t)
	empty, err := b.HeldBy(t.Context(), StreamHistory)
	require.NoError(t, err)
	require.Zero(t, empty.Messages)
	require.Zero(t, empty.Last.Rev)

	first := b.send(t, schemas.Added, pod("a"), 1)
	b.send(t, schemas.Modified, pod("a"), 2)
	last := b.send(t, schemas.Modified, pod("a"), 3)
	b.flush(t)
	b.settle(t, StreamState)
	held, err := b.HeldBy(t.Context(), StreamHistory)
	require.NoError(t, err)
	require.Equal(t, first, held.First.Rev)
	require.Equal(t, last, held.Last.Rev)
	require.EqualValues(t, 3, held.Messages)
	require.Positive(t, held.Bytes)
	require.Positive(t, held.MaxBytes)
	require.False(t, held.First.At.After(held.Last.At))

	state, err := b.HeldBy(t.Context(), StreamState)
	require.NoError(t, err)
	require.EqualValues(t, 1, state.Messages)
	require.Equal(t, last, state.First.Rev, "the state holds the last change only")
	require.Zero(t, state.MaxBytes)
	_, err = b.HeldBy(t.Context(), "NONE")
	require.Error(t, err)
}
