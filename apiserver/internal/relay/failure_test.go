package relay

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/apiserver/internal/feed/feedtest"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// TestBusIsBroughtBackWhateverFailed: a stream that could not write one message takes those
// behind it for another relay's.
func TestBusIsBroughtBackWhateverFailed(t *testing.T) {
	for name, err := range map[string]error{
		"no space": bus.ErrNoSpace,
		"fenced":   fmt.Errorf("bus: publish: %w", bus.ErrFenced),
		"other":    errors.New("no answer"),
	} {
		t.Run(name, func(t *testing.T) {
			called := 0
			cfg := DefaultConfig()
			cfg.Recover = func() error { called++; return nil }
			New(nil, nil, nil, cfg, zerolog.Nop()).noteFailure(err, 0)
			require.Equal(t, 1, called)
		})
	}
}

// TestRelayNamesWhatTheBusFoundDamaged: nobody else would, while nothing changes.
func TestRelayNamesWhatTheBusFoundDamaged(t *testing.T) {
	r := newRig(t)
	relay, kill := r.start(t)
	noise := make([]byte, 80<<10)
	var last int64
	for i := range 160 {
		_, err := rand.Read(noise)
		require.NoError(t, err)
		last = r.Put(t.Context(), t, feedtest.PodKey(fmt.Sprint("p", i)), fmt.Sprintf(`{"metadata":{},"x":"%x"}`, noise))
	}
	require.NoError(t, relay.WaitFor(t.Context(), last))
	require.NoError(t, r.client.WaitMirror(t.Context(), bus.StreamArchive))
	kill()
	r.stopBus()
	files, err := filepath.Glob(filepath.Join(r.dir, "jetstream", "CORE", "streams", bus.StreamArchive, "msgs", "*.blk"))
	require.NoError(t, err)
	require.Greater(t, len(files), 3)
	require.NoError(t, os.Truncate(files[1], 100<<10))
	r.startBus(t)

	relay, _ = r.start(t)
	require.NoError(t, relay.WaitFor(t.Context(), last))
	read := func() (revs int, err error) {
		err = r.client.ReadRange(t.Context(), bus.Range{}, func(e schemas.Event) error {
			require.False(t, e.Lost())
			revs++
			return nil
		})
		return revs, err
	}
	_, err = read()
	require.ErrorIs(t, err, bus.ErrDamaged)
	require.Eventually(t, func() bool {
		revs, err := read()
		if err != nil {
			return false
		}
		require.Equal(t, 160, revs)
		return true
	}, time.Minute, 20*time.Millisecond)
}
