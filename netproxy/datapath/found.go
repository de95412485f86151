package datapath

import (
	"net/netip"
	"time"

	"github.com/rutter-project/rutter/bpf"
	"github.com/rutter-project/rutter/netproxy/resolve"
)

// contents is what the service maps hold.
type contents struct {
	entries  map[svcKey]pointer
	records  []svcVal  // from record 0 to the last one ever used
	slots    []uint32  // from slot 0 to the last one ever used; backend indexes plus one
	backends []backVal // from index 0 to the last one ever used
}

// found is what a former process left and no service has claimed yet.
type found struct {
	lists    map[extent][]uint32
	backends map[uint32]backVal
	orphans  map[orphan][]uint32 // backends in no list: they serve flows of sockets only
}

type orphan struct {
	addr  netip.AddrPort
	proto uint8
}

// adopt takes over the contents of the maps. Nothing is written: services claim what is theirs when they are applied,
// prune removes the rest. What was used and is free now rests: readers may hold what the former process gave up last.
func (t *tables) adopt(c contents, now time.Time) {
	t.found = &found{lists: map[extent][]uint32{}, backends: map[uint32]backVal{}, orphans: map[orphan][]uint32{}}
	listed := map[uint32]bool{}
	t.adoptEntries(c, now)
	for _, v := range t.written {
		t.lastID = max(t.lastID, v.Id)
		for _, e := range []extent{{v.Base, v.N}, {v.Lbase, v.Ln}} {
			t.adoptList(c, e, listed)
		}
	}
	t.adoptBackends(c, listed, now)
	t.restSlots(c, now)
}

// adoptEntries lets records rest that no entry points at.
func (t *tables) adoptEntries(c contents, now time.Time) {
	used := make([]bool, len(c.records))
	for k, to := range c.entries {
		e := entry{record: noRecord}
		if at := to.Record; int(at) < len(c.records) && c.records[at].Key == k {
			e = entry{at, c.records[at]}
			used[at] = true
		}
		t.written[k] = e
	}
	t.records.next = uint32(len(c.records))
	t.records.gens = make([]uint32, len(c.records))
	for i := range used {
		if !used[i] {
			t.records.give(uint32(i), now)
		}
	}
}

func (t *tables) adoptList(c contents, e extent, listed map[uint32]bool) {
	if _, known := t.found.lists[e]; known || e.n == 0 || int(e.end()) > len(c.slots) || !t.slots.reserve(e) {
		return // seen before or, after a crash, overlapping: rewritten on apply
	}
	list := make([]uint32, e.n)
	for i := range list {
		list[i] = c.slots[int(e.base)+i] - 1
		listed[list[i]] = true
	}
	t.found.lists[e] = list
}

func (t *tables) adoptBackends(c contents, listed map[uint32]bool, now time.Time) {
	t.indexes.next = uint32(len(c.backends))
	t.indexes.gens = make([]uint32, len(c.backends))
	for i, be := range c.backends {
		index := uint32(i)
		t.indexes.gens[i] = be.Gen
		if be.Flags&backendDead != 0 || be.Gen == 0 {
			t.indexes.give(index, now)
			continue
		}
		t.found.backends[index] = be
		if !listed[index] {
			o := orphan{addrPortOf(be), be.Proto}
			t.found.orphans[o] = append(t.found.orphans[o], index)
		}
	}
}

// restSlots puts slots to rest that were used once and are in no list.
func (t *tables) restSlots(c contents, now time.Time) {
	taken := make([]bool, len(c.slots))
	for e := range t.found.lists {
		for s := e.base; s < e.end(); s++ {
			taken[s] = true
		}
	}
	for s := 0; s < len(c.slots); s++ {
		from := s
		for s < len(c.slots) && !taken[s] && c.slots[s] != 0 {
			s++
		}
		if e := (extent{uint32(from), uint32(s - from)}); e.n > 0 && t.slots.reserve(e) {
			t.slots.give(e, now)
		}
	}
}

func addrPortOf(be backVal) netip.AddrPort {
	return netip.AddrPortFrom(netipOf(be.Addr), swap(be.Port))
}

// adoptPort makes the state of a port from what was found under one of its fronts, so that its backends keep their
// indexes and its sockets their backends.
func (t *tables) adoptPort(want *resolve.ServicePort) *port {
	p := &port{backends: map[netip.AddrPort]backend{}}
	if t.found != nil {
		t.claimFound(p, want)
	}
	if p.id == 0 {
		t.lastID++
		p.id = t.lastID
	}
	return p
}

func (t *tables) claimFound(p *port, want *resolve.ServicePort) {
	for _, f := range want.Fronts {
		v, known := t.written[keyOf(f)]
		if _, owned := t.owner[keyOf(f)]; !known || owned || v.record == noRecord || v.Flags&bpf.NetproxySvcFlagsNP_SVC_REFUSE != 0 {
			continue
		}
		at, localAt := extent{v.Base, v.N}, extent{v.Lbase, v.Ln}
		if !t.claimable(at) || !t.claimable(localAt) {
			continue
		}
		p.id = v.Id
		p.cluster, p.clusterAt = t.claimList(p, at)
		p.local, p.localAt = t.claimList(p, localAt)
		break
	}
	for a := range want.Serving {
		o := orphan{a, uint8(want.ID.Protocol)}
		if _, known := p.backends[a]; known {
			continue
		}
		for _, index := range t.found.orphans[o] {
			if be, free := t.found.backends[index]; free && be.Svc == p.id {
				t.claimBackend(p, index)
				break
			}
		}
	}
}

// claimable tells whether a list is whole and nobody's.
func (t *tables) claimable(e extent) bool {
	if e.n == 0 {
		return true
	}
	list, ok := t.found.lists[e]
	for _, index := range list {
		if _, free := t.found.backends[index]; !free {
			return false
		}
	}
	return ok
}

func (t *tables) claimList(p *port, e extent) ([]uint32, extent) {
	if e.n == 0 {
		return nil, extent{}
	}
	list := t.found.lists[e]
	if e == p.clusterAt { // both lists are one
		return list, e
	}
	delete(t.found.lists, e)
	for _, index := range list {
		t.claimBackend(p, index)
	}
	return list, e
}

func (t *tables) claimBackend(p *port, index uint32) {
	be, ok := t.found.backends[index]
	if !ok {
		return
	}
	delete(t.found.backends, index)
	p.backends[addrPortOf(be)] = backend{index: index, gen: be.Gen, flags: be.Flags}
}

// prune removes what was found and is nobody's. Call it once all services have been applied; settle must follow when
// it has succeeded.
func (t *tables) prune() (*batch, error) {
	b := &batch{deleted: map[svcKey]bool{}}
	if t.found == nil {
		return b, nil
	}
	for k := range t.written {
		if _, owned := t.owner[k]; !owned {
			b.deleted[k] = true
		}
	}
	for index, be := range t.found.backends {
		b.vanished = append(b.vanished, Vanished{addrPortOf(be), resolve.Protocol(be.Proto)})
		be.Flags = backendDead
		b.dead.put(index, be)
		b.indexes = append(b.indexes, index)
	}
	for e := range t.found.lists {
		b.extents = append(b.extents, e)
	}
	t.found = nil
	return b, t.write(b)
}
