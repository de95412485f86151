package bus

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

// lose stops the server, takes a block of each stream away, and starts it again.
func (b *testBus) lose(t *testing.T, dir string, streams map[string]int) {
	t.Helper()
	b.restart(t, dir, func() {
		for stream, block := range streams {
			files := blocks(t, dir, stream)
			require.GreaterOrEqual(t, len(files), 4, "%s is too small", stream)
			require.NoError(t, os.Remove(files[block]))
			forget(t, dir, stream)
		}
	})
}

// TestWhatNobodyHasIsNamed: HISTORY and PACKS have lost about the same as ARCHIVE. What one
// of them has is read as if it were there, and the rest is a gap: nothing is left out in
// silence.
func TestWhatNobodyHasIsNamed(t *testing.T) {
	for _, packs := range []string{"whole", "holed", "gone", "not needed"} {
		t.Run(packs, func(t *testing.T) {
			b, dir := busOnDisk(t)
			random := rand.New(rand.NewPCG(1, 2))
			large := make([]byte, 700<<10)
			for i := range 60 {
				for n := range large {
					large[n] = "0123456789abcdefghijklmnopqrstuvwxyz"[random.IntN(36)]
				}
				e := b.event(schemas.Added, pod(fmt.Sprint("p", i)), 1)
				e.Object = fmt.Appendf(nil, `{"data":%q}`, large)
				if i%3 == 0 { // it is bound to a node, whose route comes first
					e.Cnt = 2
					require.NoError(t, b.window.Publish(t.Context(), schemas.NodeRoute("n1"), e, 0))
					e.Ord = 1
				}
				require.NoError(t, b.window.Publish(t.Context(), e.Key.Subject(), e, 0))
			}
			b.flush(t)
			b.settle(t, StreamArchive)
			require.NoError(t, b.PackArchive(t.Context()))
			all := b.read(t, Range{})
			lost := map[string]int{StreamArchive: 2, StreamHistory: 2}
			switch packs {
			case "holed":
				lost[StreamPacks] = 2
			case "gone":
				require.NoError(t, b.DeleteStream(t.Context(), StreamPacks))
			case "not needed": // HISTORY is made anew, but first it gives what it has
				require.NoError(t, b.DeleteStream(t.Context(), StreamPacks))
				lost[StreamHistory] = 1
			default: // have all of it
			}
			b.lose(t, dir, lost)
			for range 2 {
				_, err := b.MakeStreams(t.Context(), testCluster, 1)
				require.NoError(t, err)
				told := b.read(t, Range{})
				if packs == "whole" || packs == "not needed" {
					requireEvents(t, all, told)
					continue
				}
				gaps := b.gaps(t)
				require.Len(t, gaps, 1)
				covered := all[0].Rev - 1
				for _, e := range told {
					if e.Lost() {
						require.Equal(t, gaps[0], e)
						require.Equal(t, covered, e.PrevRev)
						covered = e.Rev - 1
						continue
					}
					require.Equal(t, covered+1, e.Rev, "nothing is left out in silence, and nothing comes twice")
					covered = e.Rev
				}
				require.Equal(t, all[len(all)-1].Rev, covered)
				require.Less(t, len(told), len(all), "nothing is lost: the test tests nothing")
			}
		})
	}
}

func TestRuns(t *testing.T) {
	require.Empty(t, runs(nil))
	all := runs([]uint64{3, 5, 6, 9, 10, 11, 20})
	require.Equal(t, []span{{3, 4}, {5, 7}, {9, 12}, {20, 21}}, all)
	require.Equal(t, []span{{9, 12}, {5, 7}}, longest(all, 10), "without single ones")
}

func TestJoined(t *testing.T) {
	require.Empty(t, joined(nil))
	require.Equal(t, []span{{1, 6}, {7, 9}}, joined([]span{{7, 9}, {1, 3}, {3, 4}, {2, 6}}))
}

// TestLostBefore: messages to routes come before those of the objects in a revision.
func TestLostBefore(t *testing.T) {
	require.False(t, lostBefore(schemas.Event{Seq: 13, Ord: 2, Cnt: 3}, 11), "both are of routes")
	require.True(t, lostBefore(schemas.Event{Seq: 13, Ord: 1, Cnt: 2}, 11))
	require.True(t, lostBefore(schemas.Event{Seq: 13, Cnt: 1}, 11))
}
