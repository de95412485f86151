package past

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestBisectionFindsTheFirstBad(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		good := rapid.Int64Range(1, 1000).Draw(t, "good")
		bad := good + rapid.Int64Range(1, 5000).Draw(t, "span")
		first := rapid.Int64Range(good+1, bad).Draw(t, "first")
		b := NewBisection(good, bad)
		want, tries := b.Left(), 0
		for rev, ok := b.Next(); ok; rev, ok = b.Next() {
			if tries++; rev < first {
				b.Good(rev)
			} else {
				b.Bad(rev)
			}
		}
		behind, found := b.Found()
		if found != first || behind != first-1 {
			t.Fatalf("found %d behind %d, want %d", found, behind, first)
		}
		if tries > want {
			t.Fatalf("%d tries for %d to %d, want at most %d", tries, good, bad, want)
		}
	})
}

func TestBisectionSkips(t *testing.T) {
	b := NewBisection(10, 20)
	tried := map[int64]bool{}
	for rev, ok := b.Next(); ok; rev, ok = b.Next() {
		require.False(t, tried[rev], "revision %d is tried twice", rev)
		tried[rev] = true
		switch {
		case rev >= 13 && rev <= 15:
			b.Skip(rev)
		case rev < 14:
			b.Good(rev)
		default:
			b.Bad(rev)
		}
	}
	good, bad := b.Found()
	require.EqualValues(t, 12, good)
	require.EqualValues(t, 16, bad)
}

func TestBisectionLeavesOutWhatIsLost(t *testing.T) {
	for first := int64(11); first <= 40; first++ {
		b := NewBisection(10, 40)
		b.SkipBetween(20, 30)
		for rev, ok := b.Next(); ok; rev, ok = b.Next() {
			require.False(t, rev > 20 && rev < 30, "revision %d is tried", rev)
			if rev < first {
				b.Good(rev)
			} else {
				b.Bad(rev)
			}
		}
		good, bad := b.Found()
		require.Less(t, good, first)
		require.GreaterOrEqual(t, bad, first)
		if first > 20 && first <= 30 {
			require.Equal(t, []int64{20, 30}, []int64{good, bad})
		} else {
			require.Equal(t, first-1, good)
		}
	}
}
