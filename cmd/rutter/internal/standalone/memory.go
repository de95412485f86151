package standalone

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Go's collector lets the heap grow to twice what lives, and a process that has nothing
// to do any more keeps that. So when a burst is over, what it left behind is given back.
const (
	// lookEvery is how often the heap is looked at. A burst is over when no more than
	// quietBytes were allocated since the last look.
	lookEvery  = 5 * time.Second
	quietBytes = 16 << 20
	// worthBytes and worthShare are what has to be gained: so many bytes, and such a part
	// of what lives, since collecting costs about as much as lives.
	worthBytes = 24 << 20
	worthShare = 5
)

// heap is what a look at it tells.
type heap struct {
	live      uint64 // when garbage was last collected
	held      uint64 // from the system: objects, garbage, and room
	allocated uint64 // ever
}

// shouldGiveBack decides on two looks, one after the other.
func shouldGiveBack(before, now heap) bool {
	if now.allocated-before.allocated > quietBytes || now.held < now.live {
		return false
	}
	gain := now.held - now.live
	return gain >= worthBytes && gain >= now.live/worthShare
}

// giveBack looks at the heap until the context ends.
func giveBack(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	before := readHeap()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		now := readHeap()
		if shouldGiveBack(before, now) {
			runtime.GC() // what pools hold survives one collection
			debug.FreeOSMemory()
			now = readHeap()
		}
		before = now
	}
}

func readHeap() heap {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	value := func(n int) uint64 { return samples[n].Value.Uint64() }
	return heap{live: value(0), allocated: value(1), held: value(2) + value(3) + value(4)}
}
