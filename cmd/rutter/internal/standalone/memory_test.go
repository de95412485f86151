package standalone

import (
	"runtime"
	"testing"
)

func TestGiveBackIsDue(t *testing.T) {
	const mb = 1 << 20
	quiet := heap{allocated: 900 * mb}
	for name, tc := range map[string]struct {
		g    giver
		now  heap
		want bool
	}{
		"after a burst":             {giver{before: quiet}, heap{live: 100 * mb, held: 300 * mb, allocated: 901 * mb}, true},
		"in a burst":                {giver{before: quiet}, heap{live: 100 * mb, held: 300 * mb, allocated: 990 * mb}, false},
		"little to gain":            {giver{}, heap{live: 10 * mb, held: 20 * mb}, false},
		"little for the effort":     {giver{}, heap{live: 1000 * mb, held: 1100 * mb}, false},
		"just collected":            {giver{}, heap{live: 100 * mb, held: 90 * mb}, false},
		"holes":                     {giver{left: heap{live: 100 * mb, held: 150 * mb}}, heap{live: 100 * mb, held: 152 * mb}, false},
		"garbage beside holes":      {giver{left: heap{live: 100 * mb, held: 150 * mb}}, heap{live: 100 * mb, held: 180 * mb}, true},
		"something has ended since": {giver{left: heap{live: 200 * mb, held: 250 * mb}}, heap{live: 100 * mb, held: 250 * mb}, true},
		"a little has ended since":  {giver{left: heap{live: 110 * mb, held: 150 * mb}}, heap{live: 100 * mb, held: 150 * mb}, false},
		"less is held":              {giver{left: heap{live: 100 * mb, held: 150 * mb}}, heap{live: 100 * mb, held: 140 * mb}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.g.due(tc.now); got != tc.want {
				t.Errorf("%+v, due(%+v) = %t", tc.g, tc.now, got)
			}
		})
	}
}

// TestHolesAreTriedOnce: what can't be given back is not tried for again and again.
func TestHolesAreTriedOnce(t *testing.T) {
	const mb = 1 << 20
	held := heap{live: 100 * mb, held: 150 * mb}
	g := giver{before: held}
	if !g.due(held) {
		t.Fatal("not due")
	}
	g.tried(held, heap{live: 100 * mb, held: 149 * mb})
	for range 100 {
		if g.due(held) {
			t.Fatal("due again")
		}
	}
	burst := heap{live: 200 * mb, held: 400 * mb}
	if !g.due(burst) {
		t.Fatal("not due after a burst")
	}
	g.tried(burst, heap{live: 150 * mb, held: 200 * mb})
	if last := (heap{live: 150 * mb, held: 200 * mb}); !g.due(last) {
		t.Fatal("not due although it gained last time, and what expires meanwhile is not known")
	}
}

func TestReadHeap(t *testing.T) {
	runtime.GC()
	if h := readHeap(); h.live == 0 || h.held == 0 || h.allocated == 0 {
		t.Errorf("heap is %+v", h)
	}
}
