package datapath

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rutter-project/rutter/netproxy/resolve"
)

// pauses are how many reads a reader makes between two writes; the last are enough for all tries.
var pauses = []int{0, 0, 0, 0, 1, 2, 100}

// looks is how often the programs pick, from the entry on, before they refuse.
const looks = 9

// reader looks up a front as the programs do, in the same single reads, and may rest for any time between two of them.
type reader struct {
	front  resolve.Front
	owner  byte
	since  time.Time
	next   func() // the next read; nil once it has an answer
	got    netip.AddrPort
	served bool // false: the answer was to refuse
	looked int

	// What the service was at some moment since the reader began; any of it is a right answer.
	lists   map[netip.AddrPort]bool
	nothing bool
}

func newReader(m *memory, random *rand.Rand, n byte, now time.Time) *reader {
	r := &reader{front: frontOf(n), owner: n, since: now, lists: map[netip.AddrPort]bool{}}
	r.next = func() { r.entry(m, random) }
	r.note(m)
	return r
}

func frontOf(n byte) resolve.Front { return simple(int(n)).Service.Ports[0].Fronts[0] }

// note remembers what is right now.
func (r *reader) note(m *memory) {
	if m.entries[keyOf(r.front)] == nil || m.at(r.front).N == 0 {
		r.nothing = true
		return
	}
	v := m.at(r.front)
	for i := v.Base; i < v.Base+v.N; i++ {
		r.lists[addrPortOf(m.backends[m.slotMap[i]-1])] = true
	}
}

func (r *reader) entry(m *memory, random *rand.Rand) {
	e := m.entries[keyOf(r.front)]
	r.looked++
	if e == nil || r.looked > looks {
		r.next = nil
		return
	}
	r.next = func() {
		at := e.record
		r.next = func() { r.record(m, random, m.records[at]) }
	}
}

func (r *reader) record(m *memory, random *rand.Rand, v svcVal) {
	r.next = nil
	if v.Key != keyOf(r.front) || v.N == 0 {
		return
	}
	slot := v.Base + random.Uint32N(v.N)
	r.next = func() {
		at := m.slotMap[slot]
		r.next = func() {
			b := m.backends[at-1]
			if b.Flags&backendDead != 0 {
				r.next = func() { r.entry(m, random) } // picks again
				return
			}
			r.next, r.got, r.served = nil, addrPortOf(b), true
		}
	}
}

func (r *reader) check(t require.TestingT) {
	switch {
	case r.served:
		require.Contains(t, r.lists, r.got, "client of service %d", r.owner)
	default:
		require.True(t, r.nothing, "client of service %d was refused, but it always had endpoints", r.owner)
	}
}

// Pitfall: a reader that paused was refused, because the only endpoint of the list it held had died, or because the
// element it held had become another key's.
func TestPausedReadersGetWhatTheServiceWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMemory()
		tab := newTables(m, small)
		now := time.Unix(0, 0)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var readers []*reader
		m.after = func() {
			var still []*reader
			for _, r := range readers {
				if now.Sub(r.since) >= Quarantine {
					continue
				}
				r.note(m)
				for range pauses[random.IntN(len(pauses))] {
					if r.next != nil {
						r.next()
					}
				}
				if r.next == nil {
					r.check(t)
				} else {
					still = append(still, r)
				}
			}
			readers = still
			for len(readers) < 20 {
				readers = append(readers, newReader(m, random, byte(1+random.IntN(4)), now))
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(rapid.SampledFrom([]time.Duration{0, Quarantine / 3, Quarantine}).Draw(t, "passes"))
			changes := drawChanges(t, 4, 4, 3)
			_, err := applied(tab, changes, now)
			require.NoError(t, err)
		}
	})
}

// A batch that takes long does not shorten the rest of what it gave up.
func TestRestBeginsWhenNothingPointsThere(t *testing.T) {
	m := newMemory()
	tab := newTables(m, small)
	began := time.Unix(0, 0)
	_, err := applied(tab, []Change{simple(1, 1)}, began)
	require.NoError(t, err)
	b, err := tab.apply([]Change{simple(1, 2)}, began)
	require.NoError(t, err)
	written := began.Add(3 * Quarantine)
	tab.settle(b, written)
	require.Equal(t, 3, tab.resting(), "a record, a list and an endpoint")
	tab.release(written.Add(Quarantine - 1))
	require.Equal(t, 3, tab.resting())
	tab.release(written.Add(Quarantine))
	require.Zero(t, tab.resting())
}

// While all records rest, entries stay as they are, with all that they point at.
func TestNoRecordLeftChangesNothing(t *testing.T) {
	m := newMemory()
	sizes := small
	sizes.Services = 2 // four records
	tab := newTables(m, sizes)
	now := time.Unix(0, 0)
	refused := 0
	for i := range 6 {
		b, err := applied(tab, []Change{simple(1, i)}, now)
		require.NoError(t, err)
		if len(b.problems) > 0 {
			require.Equal(t, "TableFull", b.problems[0].Reason)
			require.True(t, b.problems[0].Retry)
			refused++
		}
	}
	require.Equal(t, 4, refused, "two entries, one change, and one record that might not do for both entries")
	require.Len(t, m.answers(m.at(frontOf(1))), 1)
	_, err := applied(tab, []Change{simple(1, 9)}, now.Add(Quarantine))
	require.NoError(t, err)
	require.Equal(t, simple(1, 9).Service.Ports[0].Cluster, m.answers(m.at(frontOf(1))))
}
