package datapath

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/bpf"
)

// held is what is in a map, which is something.
func held[K comparable, V any](t testing.TB, m *ebpf.Map) map[K]V {
	t.Helper()
	var key K
	var val V
	all := map[K]V{}
	for it := m.Iterate(); it.Next(&key, &val); {
		all[key] = val
	}
	require.NotEmpty(t, all)
	return all
}

// EvictReverseHalves does what an LRU map may do, and makes the other halves look a second old.
func (d *Datapath) EvictReverseHalves(t testing.TB) {
	t.Helper()
	for k, v := range held[bpf.NetproxyTuple, bpf.NetproxyNat](t, d.objs.NpNat) {
		if v.Flags&bpf.NetproxyNatFlagsNP_NAT_REVERSE != 0 {
			require.NoError(t, d.objs.NpNat.Delete(k))
			continue
		}
		v.Seen = 0
		require.NoError(t, d.objs.NpNat.Put(k, v))
	}
}

// AgeAffinities makes all affinities older.
func (d *Datapath) AgeAffinities(t testing.TB, by time.Duration) {
	t.Helper()
	for k, v := range held[bpf.NetproxyAffinityKey, bpf.NetproxyAffinity](t, d.objs.NpAffinity) {
		v.Seen -= uint64(by) // may pass the machine's start: the programs reckon differences
		require.NoError(t, d.objs.NpAffinity.Put(k, v))
	}
}
