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

// giver decides when to give back.
type giver struct {
	before heap // at the last look
	// left is what was held, and lived, when the last try was over that gained too little:
	// what holes between objects hold can't be given back, and trying costs as much again.
	left heap
}

// due decides on a look.
func (g *giver) due(now heap) bool {
	before := g.before
	g.before = now
	if now.allocated-before.allocated > quietBytes || now.held < now.live {
		return false
	}
	if !worth(now.held-now.live, now.live) {
		return false
	}
	grown, freed := now.held > g.left.held, g.left.live > now.live
	return grown && worth(now.held-g.left.held, now.live) || freed && worth(g.left.live-now.live, now.live)
}

// tried notes what giving back has gained.
func (g *giver) tried(before, after heap) {
	g.before, g.left = after, heap{}
	if before.held < after.held || !worth(before.held-after.held, after.live) {
		g.left = after
	}
}

func worth(gain, live uint64) bool { return gain >= worthBytes && gain >= live/worthShare }

// giveBack looks at the heap until the context ends.
func giveBack(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	g := giver{before: readHeap()}
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if now := readHeap(); g.due(now) {
			runtime.GC() // what pools hold survives one collection
			debug.FreeOSMemory()
			g.tried(now, readHeap())
		}
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
