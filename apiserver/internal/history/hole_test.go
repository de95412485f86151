package history

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// restart stops the bus, lets change at its files, and goes on with what is left.
func (r *rig) restart(t *testing.T, change func()) {
	t.Helper()
	r.window.Close()
	r.client.Close()
	r.server.Close()
	change()
	r.startBus(t)
	_, err := r.client.MakeStreams(t.Context(), 1, r.live.rev)
	require.NoError(t, err)
	r.fresh()
}

// TestInstantsAroundAHoleInTheArchive: the archive's file is cut. What others have of that is
// answered as before; what nobody has is a gap until the next keyframe, and all that is
// before and behind it is answered.
func TestInstantsAroundAHoleInTheArchive(t *testing.T) {
	r := newRig(t)
	for i := range 60 {
		r.write(t, i%30, i%7 == 6)
	}
	r.keyframe(t)
	first := r.live.rev
	for i := range 60 {
		r.write(t, i%30, i%5 == 4)
	}
	r.settled(t)
	last := r.live.rev
	r.restart(t, func() {
		files, err := filepath.Glob(filepath.Join(r.dir, "jetstream", "*", "streams", bus.StreamArchive, "msgs", "*.blk"))
		require.NoError(t, err)
		require.Len(t, files, 1)
		info, err := os.Stat(files[0])
		require.NoError(t, err)
		require.NoError(t, os.Truncate(files[0], info.Size()*3/4))
	})
	for rev := int64(2); rev < last; rev++ {
		r.same(t, rev)
	}
	status, err := r.Status(t.Context())
	require.NoError(t, err)
	require.Empty(t, status.Gaps, "HISTORY had what was lost")
	require.NotNil(t, status.Mended)
	require.Positive(t, status.Mended.Events)
	require.EqualValues(t, 120, status.Events, "what is mended is counted")

	// Now nobody has it.
	for _, stream := range []string{bus.StreamMended, bus.StreamPacks, bus.StreamHistory} {
		require.NoError(t, r.client.DeleteStream(t.Context(), stream))
	}
	made, err := r.client.MakeStreams(t.Context(), 1, last)
	require.NoError(t, err)
	r.epoch = made.Epoch
	r.open(t)
	r.clock = r.clock.Add(time.Minute)
	behind := r.write(t, 3, false)
	beforeFrame := r.write(t, 4, false)
	r.settled(t)
	r.fresh()
	held, err := r.look(t.Context())
	require.NoError(t, err)
	require.Len(t, held.gaps, 1)
	after := held.gaps[0].From.Rev
	require.Greater(t, after, first)
	require.Less(t, after, last)
	require.True(t, r.wanted(held, time.Now()), "no state follows the hole: a keyframe is due")
	r.refused(t, Point{Text: "behind", Rev: behind}, InGap)
	r.keyframe(t)
	r.clock = r.clock.Add(time.Minute)
	newest := r.write(t, 5, false)
	r.settled(t)
	r.fresh()

	aroundTheHole(t, r, hole{begin: 2, after: after, behind: behind, frame: beforeFrame, newest: newest})
	aroundTheHole(t, r.recorded(t, first, newest), hole{begin: first, after: after, behind: behind, frame: beforeFrame, newest: newest})
	aroundTheHole(t, r.recorded(t, after, newest), hole{begin: after, after: after, behind: behind, frame: beforeFrame, newest: newest})
}

// hole is where an archive has lost changes: behind is the first one that is held behind it,
// frame the first keyframe.
type hole struct{ begin, after, behind, frame, newest int64 }

// aroundTheHole asks for every instant, and for events from every revision on.
func aroundTheHole(t *testing.T, r *rig, h hole) {
	t.Helper()
	for rev := h.begin; rev <= h.newest; rev++ {
		if h.after < rev && rev < h.frame {
			refused := r.refused(t, Point{Text: "inside", Rev: rev}, InGap)
			require.Equal(t, h.after, refused.Gap.From.Rev)
			require.Equal(t, h.frame, refused.Gap.To.Rev, "the keyframe")
			require.Equal(t, "the archive has lost these changes", refused.Gap.Reason)
			continue
		}
		r.same(t, rev)
	}
	status, err := r.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, status.Gaps, 1)
	for since := h.begin + 1; since <= h.newest; since++ {
		for _, q := range []Query{{Since: &Point{Rev: since, Text: fmt.Sprint("rev-", since)}}, {Behind: &Place{Rev: since - 1, Whole: true}}} {
			q.Key = anyKey
			covered := since - 1
			require.NoError(t, r.Events(t.Context(), q, func(e schemas.Event) error {
				if e.Type == schemas.Gap {
					require.Equal(t, max(h.after, since-1), e.PrevRev)
					require.Equal(t, h.behind, e.Rev)
					require.Zero(t, e.Seq, "it has no place in the log")
					covered = e.Rev - 1
					return nil
				}
				require.Equal(t, covered+1, e.Rev, "from %d on, something is left out in silence", since)
				covered = e.Rev
				return nil
			}))
			require.Equal(t, h.newest, covered, "from %d on", since)
		}
	}
	before, err := r.Resolve(t.Context(), Point{Text: "the last before", At: status.Gaps[0].From.Time})
	if err == nil {
		require.LessOrEqual(t, before.Rev, h.after)
	}
	span := func(from, to int64) error {
		_, err := r.Open(t.Context(), Span{From: Point{Rev: from, Text: fmt.Sprint("rev-", from)}, To: &Point{Rev: to, Text: fmt.Sprint("rev-", to)}})
		return err
	}
	require.NoError(t, span(h.begin, h.after))
	require.NoError(t, span(h.frame, h.newest))
	require.ErrorContains(t, span(h.begin, h.newest), "lies in a gap")
}

func (r *rig) startBus(t *testing.T) {
	t.Helper()
	var err error
	r.server, err = bus.NewServer(bus.DefaultServerConfig(r.dir), zerolog.Nop())
	require.NoError(t, err)
	require.NoError(t, r.server.Start(t.Context()))
	t.Cleanup(r.server.Close)
	r.client, err = bus.Connect(t.Context(), bus.ClientConfig{Name: "test", Server: r.server, Streams: r.streams}, zerolog.Nop())
	require.NoError(t, err)
	t.Cleanup(r.client.Close)
}
