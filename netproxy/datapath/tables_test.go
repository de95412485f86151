package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/rutter-project/rutter/netproxy/resolve"
)

// memory is a store as the kernel has it; readers may look between any two writes. A deleted element of a hash is
// given to the next new key while readers still hold it.
type memory struct {
	entries  map[svcKey]*element
	spare    []*element // the one deleted last is given out first
	records  map[uint32]svcVal
	slotMap  map[uint32]uint32
	backends map[uint32]backVal
	after    func() // called after each single write
	fail     int    // writes left until one fails; 0 is never
}

// element is one of np_svc; its key is not seen by who holds it.
type element struct {
	key    svcKey
	record uint32
}

var errFull = errors.New("map is full")

func newMemory() *memory {
	return &memory{
		entries: map[svcKey]*element{}, records: map[uint32]svcVal{},
		slotMap: map[uint32]uint32{}, backends: map[uint32]backVal{}, after: func() {},
	}
}

// each makes n single writes.
func (m *memory) each(n int, write func(i int)) error {
	for i := range n {
		write(i)
		if m.fail > 0 {
			if m.fail--; m.fail == 0 {
				return errFull
			}
		}
		m.after()
	}
	return nil
}

func (m *memory) writeBackends(at []uint32, vals []backVal) error {
	return m.each(len(at), func(i int) { m.backends[at[i]] = vals[i] })
}

func (m *memory) writeSlots(at, vals []uint32) error {
	return m.each(len(at), func(i int) { m.slotMap[at[i]] = vals[i] })
}

func (m *memory) writeRecords(at []uint32, vals []svcVal) error {
	return m.each(len(at), func(i int) { m.records[at[i]] = vals[i] })
}

func (m *memory) pointEntries(keys []svcKey, to []pointer) error {
	return m.each(len(keys), func(i int) {
		e := m.entries[keys[i]]
		if n := len(m.spare); e == nil && n > 0 {
			e, m.spare = m.spare[n-1], m.spare[:n-1]
		} else if e == nil {
			e = &element{}
		}
		*e = element{keys[i], to[i].Record}
		m.entries[keys[i]] = e
	})
}

func (m *memory) deleteEntries(keys []svcKey) error {
	return m.each(len(keys), func(i int) {
		m.spare = append(m.spare, m.entries[keys[i]])
		delete(m.entries, keys[i])
	})
}

func (m *memory) contents() contents {
	out := contents{entries: map[svcKey]pointer{}}
	for k, e := range m.entries {
		out.entries[k] = pointer{Record: e.record}
	}
	out.records, out.backends = array(m.records), array(m.backends)
	if len(m.slotMap) > 0 {
		out.slots = array(m.slotMap)
	}
	return out
}

// array is what is in an array up to the last index written.
func array[V any](m map[uint32]V) []V {
	var out []V
	for i := range m {
		for int(i) >= len(out) {
			out = append(out, *new(V))
		}
	}
	for i, v := range m {
		out[i] = v
	}
	return out
}

// at is what readers find for a front.
func (m *memory) at(f resolve.Front) svcVal { return m.records[m.entries[keyOf(f)].record] }

// answers lists who would answer at a front, dead ones left out.
func (m *memory) answers(v svcVal) []netip.AddrPort {
	var out []netip.AddrPort
	for i := v.Base; i < v.Base+v.N; i++ {
		if b := m.backends[m.slotMap[i]-1]; b.Flags&backendDead == 0 {
			out = append(out, addrPortOf(b))
		}
	}
	return out
}

// applied applies changes as Datapath does.
func applied(tab *tables, changes []Change, now time.Time) (*batch, error) {
	b, err := tab.apply(changes, now)
	if err == nil {
		tab.settle(b, now)
	}
	return b, err
}

func pruned(tab *tables, now time.Time) (*batch, error) {
	b, err := tab.prune()
	if err == nil {
		tab.settle(b, now)
	}
	return b, err
}

var small = Sizes{Services: 64, Slots: 256, Backends: 128}

func simple(n int, eps ...int) Change {
	c := Change{Name: types.NamespacedName{Namespace: "ns", Name: fmt.Sprint(n)}}
	p := resolve.ServicePort{
		ID:      resolve.PortID{Namespace: "ns", Name: c.Name.Name, Protocol: resolve.TCP},
		Fronts:  []resolve.Front{{Addr: netip.AddrFrom4([4]byte{10, 96, 0, byte(n)}), Port: 80, Protocol: resolve.TCP}},
		Serving: map[netip.AddrPort]bool{},
	}
	for _, e := range eps {
		// The address tells the service, so that a stranger's endpoint is seen.
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), byte(e)}), 80)
		p.Cluster = append(p.Cluster, a)
		p.Serving[a] = false
	}
	c.Service = resolve.Service{Name: c.Name, Ports: []resolve.ServicePort{p}, Refuse: []netip.Addr{p.Fronts[0].Addr}}
	return c
}

// drawChanges are changes of up to three of the services, one in so many of them a removal.
func drawChanges(t *rapid.T, services, removals, endpoints int) []Change {
	var changes []Change
	for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(1, services), 1, 3, rapid.ID).Draw(t, "services") {
		if rapid.IntRange(1, removals).Draw(t, "removed") == 1 {
			changes = append(changes, gone(n))
			continue
		}
		changes = append(changes, simple(n, rapid.SliceOfNDistinct(rapid.IntRange(1, 9), 0, endpoints, rapid.ID).Draw(t, "eps")...))
	}
	return changes
}

func gone(n int) Change {
	return Change{Name: types.NamespacedName{Namespace: "ns", Name: fmt.Sprint(n)}}
}

// Pitfall: whatever is written when, a reader of any entry it read up to Quarantine ago finds endpoints of that
// service only, all of the old list or all of the new one.
func TestReadersNeverSeeAnotherServicesEndpoints(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMemory()
		tab := newTables(m, small)
		now := time.Unix(0, 0)
		type seen struct {
			v     svcVal
			owner byte
			since time.Time
		}
		var held []seen
		m.after = func() {
			for k, e := range m.entries {
				held = append(held, seen{m.records[e.record], netipOf(k.Addr).As4()[3], now})
			}
			for _, h := range held {
				if now.Sub(h.since) >= Quarantine {
					continue
				}
				for _, a := range m.answers(h.v) {
					if got := a.Addr().As4()[2]; got != h.owner {
						t.Fatalf("client of service %d got an endpoint of %d", h.owner, got)
					}
				}
			}
			if len(held) > 200 {
				held = held[len(held)-100:]
			}
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(rapid.SampledFrom([]time.Duration{0, Quarantine / 3, Quarantine}).Draw(t, "passes"))
			changes := drawChanges(t, 5, 5, 6)
			_, err := applied(tab, changes, now)
			require.NoError(t, err)
			for _, c := range changes {
				for _, p := range c.Service.Ports {
					require.Equal(t, p.Cluster, m.answers(m.at(p.Fronts[0])))
				}
			}
			if rapid.IntRange(0, 5).Draw(t, "restarts") == 0 {
				tab = restarted(t, m, tab, now)
			}
		}
	})
}

// restarted is what a process finds that follows a killed one, after it has applied all services.
func restarted(t require.TestingT, m *memory, old *tables, now time.Time) *tables {
	tab := newTables(m, small)
	tab.adopt(m.contents(), now)
	var all []Change
	for name, s := range old.services {
		c := Change{Name: name, Service: resolve.Service{Name: name}}
		for _, k := range s.refuse {
			c.Service.Refuse = append(c.Service.Refuse, netipOf(k.Addr))
		}
		for id, p := range s.ports {
			port := resolve.ServicePort{ID: id, Serving: map[netip.AddrPort]bool{}}
			for _, k := range p.keys {
				port.Fronts = append(port.Fronts, resolve.Front{Addr: netipOf(k.Addr), Port: swap(k.Port), Protocol: resolve.Protocol(k.Proto)})
			}
			for _, index := range p.cluster {
				a := addrPortOf(m.backends[index])
				port.Cluster = append(port.Cluster, a)
				port.Serving[a] = false
			}
			c.Service.Ports = append(c.Service.Ports, port)
		}
		all = append(all, c)
	}
	b, err := applied(tab, all, now)
	require.NoError(t, err)
	require.Empty(t, b.slots.at, "an unchanged service is not written again")
	require.Empty(t, b.backends.at)
	p, err := pruned(tab, now)
	require.NoError(t, err)
	require.Empty(t, p.deleted)
	require.Empty(t, p.vanished)
	return tab
}

// A crash, or a full map, in the middle of a batch: the next process makes all as it should be.
func TestAnyInterruptedBatchIsMended(t *testing.T) {
	for fail := 1; fail < 25; fail++ {
		m := newMemory()
		tab := newTables(m, small)
		now := time.Unix(0, 0)
		_, err := applied(tab, []Change{simple(1, 1, 2, 3), simple(2, 4)}, now)
		require.NoError(t, err)
		m.fail = fail
		want := []Change{simple(1, 3, 5, 6), simple(3, 7, 8)}
		_, err = applied(tab, append(want, gone(2)), now)
		if err != nil {
			require.ErrorIs(t, err, errFull)
		}
		m.fail = 0
		tab = newTables(m, small)
		tab.adopt(m.contents(), now)
		_, err = applied(tab, want, now)
		require.NoError(t, err)
		_, err = pruned(tab, now)
		require.NoError(t, err)
		for _, c := range want {
			require.Equal(t, c.Service.Ports[0].Cluster, m.answers(m.at(c.Service.Ports[0].Fronts[0])))
		}
		require.Len(t, m.entries, 4, "two services with their refusals")
		alive := 0
		for _, b := range m.backends {
			if b.Flags&backendDead == 0 {
				alive++
			}
		}
		require.Equal(t, 5, alive, "nothing is left of what is gone")
	}
}

func TestAnAddressIsServedForOneServiceOnly(t *testing.T) {
	m := newMemory()
	tab := newTables(m, small)
	now := time.Unix(0, 0)
	first, second := simple(1, 1), simple(2, 2)
	second.Service.Ports[0].Fronts = first.Service.Ports[0].Fronts
	second.Service.Refuse = nil
	b, err := applied(tab, []Change{first, second}, now)
	require.NoError(t, err)
	require.Len(t, b.problems, 1)
	require.Equal(t, "AddressTaken", b.problems[0].Reason)
	require.Equal(t, first.Service.Ports[0].Cluster, m.answers(m.at(first.Service.Ports[0].Fronts[0])))
	b, err = applied(tab, []Change{gone(1)}, now)
	require.NoError(t, err)
	require.NotEmpty(t, b.deleted)
	b, err = applied(tab, []Change{second}, now)
	require.NoError(t, err)
	require.Empty(t, b.problems)
	require.Equal(t, second.Service.Ports[0].Cluster, m.answers(m.at(first.Service.Ports[0].Fronts[0])))
}

func TestFullTablesAreReported(t *testing.T) {
	for name, sizes := range map[string]Sizes{
		"fronts":    {Services: 2, Slots: 64, Backends: 64},
		"slots":     {Services: 64, Slots: 2, Backends: 64},
		"endpoints": {Services: 64, Slots: 64, Backends: 2},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			tab := newTables(m, sizes)
			b, err := applied(tab, []Change{simple(1, 1), simple(2, 1, 2, 3)}, time.Unix(0, 0))
			require.NoError(t, err)
			require.NotEmpty(t, b.problems)
			require.Equal(t, "TableFull", b.problems[0].Reason)
			require.Equal(t, []netip.AddrPort{netip.MustParseAddrPort("10.244.1.1:80")},
				m.answers(m.at(simple(1).Service.Ports[0].Fronts[0])), "others are served")
		})
	}
}
