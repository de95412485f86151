package datapath

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/bpf"
)

// EvictReverseHalves does what an LRU map may do, and makes the other halves look a second old.
func (d *Datapath) EvictReverseHalves(t testing.TB) {
	t.Helper()
	var key bpf.NetproxyTuple
	var val bpf.NetproxyNat
	all := map[bpf.NetproxyTuple]bpf.NetproxyNat{}
	for it := d.objs.NpNat.Iterate(); it.Next(&key, &val); {
		all[key] = val
	}
	require.NotEmpty(t, all)
	for k, v := range all {
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
	var key bpf.NetproxyAffinityKey
	var val bpf.NetproxyAffinity
	all := map[bpf.NetproxyAffinityKey]bpf.NetproxyAffinity{}
	for it := d.objs.NpAffinity.Iterate(); it.Next(&key, &val); {
		all[key] = val
	}
	require.NotEmpty(t, all)
	for k, v := range all {
		v.Seen -= uint64(by) // may pass the machine's start: the programs reckon differences
		require.NoError(t, d.objs.NpAffinity.Put(k, v))
	}
}
