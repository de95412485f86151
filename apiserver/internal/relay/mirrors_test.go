package relay

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/bus"
)

func TestMirrorLag(t *testing.T) {
	start := time.Unix(0, 0)
	var m mirrorLag
	for _, tc := range []struct {
		at           time.Duration
		want, have   uint64
		behind       time.Duration
		begins, ends bool
	}{
		{0, 10, 10, 0, false, false},
		{1 * time.Second, 20, 10, 0, false, false},
		{3 * time.Second, 30, 15, 2 * time.Second, false, false}, // still not at 20
		{4 * time.Second, 40, 25, 0, false, false},               // past 20, due is 40 now
		{8 * time.Second, 50, 39, 4 * time.Second, false, false},
		{9 * time.Second, 50, 39, 5 * time.Second, true, false},
		{20 * time.Second, 60, 39, 16 * time.Second, false, false}, // told already
		{21 * time.Second, 60, 41, 0, false, true},
		{22 * time.Second, 60, 60, 0, false, false},
	} {
		behind, begins, ends := m.step(start.Add(tc.at), tc.want, tc.have)
		require.Equal(t, []any{tc.behind, tc.begins, tc.ends}, []any{behind, begins, ends}, "at %s", tc.at)
	}
}

func TestMirrorsAreWatched(t *testing.T) {
	r := New(nil, nil, nil, DefaultConfig(), zerolog.Nop())
	lags := map[string]*mirrorLag{}
	now := time.Unix(0, 0)
	mirrors := []bus.Mirror{{Stream: bus.StreamState, Want: 9, Have: 9}, {Stream: bus.StreamArchive, Want: 9, Have: 3}}
	require.False(t, r.noteMirrors(lags, mirrors, now))
	require.False(t, r.noteMirrors(lags, mirrors, now.Add(7*time.Second)))
	require.InDelta(t, 7, testutil.ToFloat64(r.metrics.mirror.WithLabelValues(bus.StreamArchive)), 0)
	require.Zero(t, testutil.ToFloat64(r.metrics.mirror.WithLabelValues(bus.StreamState)))
	mirrors[1].Have = 9
	require.True(t, r.noteMirrors(lags, mirrors, now.Add(8*time.Second)))
	require.Zero(t, testutil.ToFloat64(r.metrics.mirror.WithLabelValues(bus.StreamArchive)))
}

// TestMirrorsCatchUpAfterTheStreamAloneIsLost also measures how long NATS needs for it.
func TestMirrorsCatchUpAfterTheStreamAloneIsLost(t *testing.T) {
	r := newRig(t)
	_, kill := r.start(t)
	r.churn(t, 47, 100)
	r.verify(t)
	kill()
	require.NoError(t, r.client.DeleteStream(t.Context(), bus.StreamHistory))
	r.start(t)
	r.churn(t, 48, 20)
	begin := time.Now()
	require.Eventually(t, func() bool {
		mirrors, err := r.client.Mirrors(t.Context())
		if err != nil {
			return false
		}
		for _, m := range mirrors {
			if m.Want == 0 || m.Have < m.Want {
				return false
			}
		}
		return true
	}, time.Minute, 10*time.Millisecond)
	t.Logf("mirrors have everything %s after the stream was made anew", time.Since(begin).Round(100*time.Millisecond))
}
