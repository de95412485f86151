package datapath

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Runs given out never overlap, and all of them come back as one.
func TestExtentsNeverOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 64
		x := newExtents(size)
		now := time.Unix(0, 0)
		used := map[uint32]bool{}
		var held []extent
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(rapid.SampledFrom([]time.Duration{0, Quarantine / 2, Quarantine}).Draw(t, "passes"))
			x.release(now)
			if len(held) > 0 && rapid.Bool().Draw(t, "give") {
				i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				for s := held[i].base; s < held[i].end(); s++ {
					delete(used, s)
				}
				x.give(held[i], now)
				held = append(held[:i], held[i+1:]...)
				continue
			}
			e, ok := x.take(uint32(rapid.IntRange(1, 9).Draw(t, "n")))
			if !ok {
				continue
			}
			for s := e.base; s < e.end(); s++ {
				if used[s] || s >= size {
					t.Fatalf("slot %d given out twice, or outside", s)
				}
				used[s] = true
			}
			held = append(held, e)
		}
		for _, e := range held {
			x.give(e, now)
		}
		x.release(now.Add(Quarantine))
		require.Equal(t, []extent{{0, size}}, x.free)
		require.Zero(t, x.inUse)
	})
}

// Pitfall: lists reused at once were read by those who still held the old service entry.
func TestFreedExtentsAndIndexesRest(t *testing.T) {
	now := time.Unix(0, 0)
	x := newExtents(4)
	e, ok := x.take(4)
	require.True(t, ok)
	x.give(e, now)
	x.release(now.Add(Quarantine - 1))
	_, ok = x.take(1)
	require.False(t, ok)
	x.release(now.Add(Quarantine))
	_, ok = x.take(4)
	require.True(t, ok)

	i := &indexes{size: 1}
	index, gen, ok := i.take()
	require.True(t, ok)
	i.give(index, now)
	i.release(now.Add(Quarantine - 1))
	_, _, ok = i.take()
	require.False(t, ok)
	i.release(now.Add(Quarantine))
	again, gen2, ok := i.take()
	require.True(t, ok)
	require.Equal(t, index, again)
	require.Greater(t, gen2, gen, "a new user of an index is told apart from the old one")
}

func TestReserveRefusesWhatIsTaken(t *testing.T) {
	x := newExtents(16)
	require.True(t, x.reserve(extent{4, 4}))
	require.False(t, x.reserve(extent{6, 4}))
	require.False(t, x.reserve(extent{14, 4}))
	require.True(t, x.reserve(extent{8, 8}))
	e, ok := x.take(4)
	require.True(t, ok)
	require.Equal(t, extent{0, 4}, e)
	_, ok = x.take(1)
	require.False(t, ok)
}
