package datapath

import (
	"slices"
	"time"
)

// extent is a run of slots.
type extent struct {
	base, n uint32
}

func (e extent) end() uint32 { return e.base + e.n }

// resting is something given up that readers may still hold.
type resting[T any] struct {
	since time.Time
	what  T
}

// extents gives out runs of slots, first fit. Neighbouring free runs are joined. Freed runs rest before reuse.
type extents struct {
	free  []extent // sorted, never adjacent
	rest  []resting[extent]
	inUse uint32
}

func newExtents(size uint32) *extents {
	return &extents{free: []extent{{0, size}}}
}

// take finds n slots; false if there is no such run.
func (x *extents) take(n uint32) (extent, bool) {
	for i, f := range x.free {
		if f.n < n {
			continue
		}
		got := extent{f.base, n}
		if f.n == n {
			x.free = slices.Delete(x.free, i, i+1)
		} else {
			x.free[i] = extent{f.base + n, f.n - n}
		}
		x.inUse += n
		return got, true
	}
	return extent{}, false
}

// reserve marks a run as used; it must be free. Runs found in the maps are reserved at start.
func (x *extents) reserve(e extent) bool {
	i, found := slices.BinarySearchFunc(x.free, e.base, func(f extent, base uint32) int {
		switch {
		case f.end() <= base:
			return -1
		case f.base > base:
			return 1
		default:
			return 0
		}
	})
	if !found || x.free[i].end() < e.end() {
		return false
	}
	f := x.free[i]
	var left []extent
	if f.base < e.base {
		left = append(left, extent{f.base, e.base - f.base})
	}
	if e.end() < f.end() {
		left = append(left, extent{e.end(), f.end() - e.end()})
	}
	x.free = slices.Replace(x.free, i, i+1, left...)
	x.inUse += e.n
	return true
}

// give puts a run to rest.
func (x *extents) give(e extent, now time.Time) {
	if e.n > 0 {
		x.rest = append(x.rest, resting[extent]{now, e})
	}
}

// release frees what has rested for long enough.
func (x *extents) release(now time.Time) {
	ready := rested(&x.rest, now)
	for _, e := range ready {
		x.inUse -= e.n
		i, _ := slices.BinarySearchFunc(x.free, e.base, func(f extent, base uint32) int {
			return int(int64(f.base) - int64(base))
		})
		if i < len(x.free) && e.end() == x.free[i].base {
			e.n += x.free[i].n
			x.free = slices.Delete(x.free, i, i+1)
		}
		if i > 0 && x.free[i-1].end() == e.base {
			x.free[i-1].n += e.n
			continue
		}
		x.free = slices.Insert(x.free, i, e)
	}
}

// rested cuts off what has rested for Quarantine. Entries are in order of time.
func rested[T any](all *[]resting[T], now time.Time) []T {
	n := 0
	for n < len(*all) && now.Sub((*all)[n].since) >= Quarantine {
		n++
	}
	out := make([]T, n)
	for i := range n {
		out[i] = (*all)[i].what
	}
	*all = slices.Delete(*all, 0, n)
	return out
}

// indexes gives out the indexes of an array, each with the generation that tells its users apart. A freed index rests.
type indexes struct {
	size uint32
	next uint32 // all at and above were never used
	gens []uint32
	free []uint32
	rest []resting[uint32]
}

func (x *indexes) take() (index, gen uint32, ok bool) {
	switch {
	case len(x.free) > 0:
		index = x.free[len(x.free)-1]
		x.free = x.free[:len(x.free)-1]
	case x.next < x.size:
		index = x.next
		x.next++
		x.gens = append(x.gens, 0)
	default:
		return 0, 0, false
	}
	x.gens[index]++
	return index, x.gens[index], true
}

// left counts what take can give out.
func (x *indexes) left() int { return int(x.size-x.next) + len(x.free) }

func (x *indexes) give(index uint32, now time.Time) {
	x.rest = append(x.rest, resting[uint32]{now, index})
}

func (x *indexes) release(now time.Time) {
	x.free = append(x.free, rested(&x.rest, now)...)
}
