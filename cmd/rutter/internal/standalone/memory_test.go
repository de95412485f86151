package standalone

import (
	"runtime"
	"testing"
)

func TestShouldGiveBack(t *testing.T) {
	const mb = 1 << 20
	for name, tc := range map[string]struct {
		before, now heap
		want        bool
	}{
		"after a burst":         {heap{allocated: 900 * mb}, heap{live: 100 * mb, held: 300 * mb, allocated: 901 * mb}, true},
		"in a burst":            {heap{allocated: 900 * mb}, heap{live: 100 * mb, held: 300 * mb, allocated: 990 * mb}, false},
		"little to gain":        {heap{}, heap{live: 10 * mb, held: 20 * mb}, false},
		"little for the effort": {heap{}, heap{live: 1000 * mb, held: 1100 * mb}, false},
		"just collected":        {heap{}, heap{live: 100 * mb, held: 90 * mb}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := shouldGiveBack(tc.before, tc.now); got != tc.want {
				t.Errorf("shouldGiveBack(%+v, %+v) = %t", tc.before, tc.now, got)
			}
		})
	}
}

func TestReadHeap(t *testing.T) {
	runtime.GC()
	if h := readHeap(); h.live == 0 || h.held == 0 || h.allocated == 0 {
		t.Errorf("heap is %+v", h)
	}
}
