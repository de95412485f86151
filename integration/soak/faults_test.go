package soak

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxRelays may run at once; two are normal.
const maxRelays = 3

// fault is one way to hurt the rig. It returns when the rig is whole again, but for what
// it is meant to recover from by itself.
type fault struct {
	name string
	hurt func(ctx context.Context, r *rig, rng *rand.Rand)
}

// faults of the rig; what needs a disk of its own is left out without one.
func faults(w *writers, ownDisk bool) []fault {
	all := []fault{
		{"relay killed", func(_ context.Context, r *rig, rng *rand.Rand) {
			i := rng.IntN(len(r.relays))
			r.relays[i].kill()
			r.relays[i] = r.start("relay")
		}},
		{"relay doubled", func(_ context.Context, r *rig, _ *rand.Rand) {
			r.relays = append(r.relays, r.start("relay"))
			if len(r.relays) > maxRelays {
				r.relays[0].kill()
				r.relays = slices.Delete(r.relays, 0, 1)
			}
		}},
		{"relay paused", func(ctx context.Context, r *rig, rng *rand.Rand) {
			p := r.relays[rng.IntN(len(r.relays))]
			p.signal(syscall.SIGSTOP)
			pause(ctx, between(rng, 50*time.Millisecond, 3*time.Second))
			p.signal(syscall.SIGCONT)
		}},
		{"nats killed", func(ctx context.Context, r *rig, rng *rand.Rand) {
			r.bus.kill()
			pause(ctx, between(rng, 0, time.Second))
			r.bus = r.start("bus")
		}},
		{"etcd killed", func(ctx context.Context, r *rig, rng *rand.Rand) {
			r.etcd.kill()
			pause(ctx, between(rng, 0, 500*time.Millisecond))
			r.etcd = r.start("etcd")
		}},
		{"clock jumped", func(ctx context.Context, _ *rig, rng *rand.Rand) {
			w.jump(between(rng, time.Hour, 48*time.Hour))
			pause(ctx, between(rng, 100*time.Millisecond, time.Second))
			w.jump(between(rng, -48*time.Hour, 0))
		}},
	}
	if ownDisk {
		all = append(all, fault{"disk filled", func(ctx context.Context, r *rig, rng *rand.Rand) {
			r.fillDisk()
			pause(ctx, between(rng, 500*time.Millisecond, 3*time.Second))
			r.emptyDisk()
		}})
	}
	return all
}

func between(rng *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(rng.Int64N(int64(high-low)))
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// hurt applies faults in random order, each kind before any comes again, until ctx ends.
func hurt(ctx context.Context, r *rig, rng *rand.Rand, all []fault, counts map[string]int) {
	for ctx.Err() == nil {
		for _, i := range rng.Perm(len(all)) {
			pause(ctx, between(rng, 200*time.Millisecond, 1500*time.Millisecond))
			if ctx.Err() != nil {
				return
			}
			begun := time.Now()
			all[i].hurt(ctx, r, rng)
			r.t.Logf("%s: %s", all[i].name, time.Since(begun).Round(time.Millisecond))
			counts[all[i].name]++
		}
	}
}

// summary is the counts as one line.
func summary(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprint(name, " ", counts[name]))
	}
	return strings.Join(parts, ", ")
}
