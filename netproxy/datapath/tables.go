package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/rutter-project/rutter/bpf"
	"github.com/rutter-project/rutter/netproxy/resolve"
)

// Quarantine is how long a record, list or backend given up rests before it is used again, counted from the moment
// when nothing points at it any more. A program that has read what pointed at it is long done then.
const Quarantine = time.Second

type (
	svcKey  = bpf.NetproxySvcKey
	svcVal  = bpf.NetproxySvc
	backVal = bpf.NetproxyBackend
	pointer = bpf.NetproxySvcEntry
)

const (
	backendDead   = bpf.NetproxyBackendFlagsNP_BACKEND_DEAD
	backendEnding = bpf.NetproxyBackendFlagsNP_BACKEND_TERMINATING
)

// store is the kernel side of the service tables. Each call is one batch.
type store interface {
	writeBackends(at []uint32, vals []backVal) error
	writeSlots(at, vals []uint32) error
	writeRecords(at []uint32, vals []svcVal) error
	pointEntries(keys []svcKey, to []pointer) error // in place where the key is known
	deleteEntries(keys []svcKey) error
}

// backend is an endpoint of one service port; the index is that of the backend map.
type backend struct {
	index, gen uint32
	flags      bpf.NetproxyBackendFlags
}

// port is what the maps hold for one service port.
type port struct {
	id             uint32
	backends       map[netip.AddrPort]backend
	cluster, local []uint32 // backend indexes, in the order of the slots
	clusterAt      extent
	localAt        extent // equal to clusterAt where the lists are
	keys           []svcKey
}

// service is what the maps hold for one service.
type service struct {
	ports  map[resolve.PortID]*port
	refuse []svcKey
}

// entry is what a key points at.
type entry struct {
	record uint32 // noRecord if it points at another key's
	svcVal
}

const noRecord = ^uint32(0)

// tables plans and writes the service maps. It is not safe for concurrent use.
type tables struct {
	store    store
	maxKeys  int
	services map[types.NamespacedName]*service
	written  map[svcKey]entry
	owner    map[svcKey]types.NamespacedName
	records  *indexes
	slots    *extents
	indexes  *indexes // of backends
	lastID   uint32
	found    *found // what a former process left; nil once pruned
}

func newTables(s store, sizes Sizes) *tables {
	return &tables{
		store: s, maxKeys: int(sizes.Services),
		services: map[types.NamespacedName]*service{},
		written:  map[svcKey]entry{},
		owner:    map[svcKey]types.NamespacedName{},
		records:  &indexes{size: sizes.records()},
		slots:    newExtents(sizes.Slots),
		indexes:  &indexes{size: sizes.Backends},
	}
}

// writes are keys or indexes with their values; none occurs twice.
type writes[K, V any] struct {
	at   []K
	vals []V
}

func (w *writes[K, V]) put(k K, v V) {
	w.at, w.vals = append(w.at, k), append(w.vals, v)
}

// batch collects the writes of one apply, in the order in which they are made.
type batch struct {
	backends writes[uint32, backVal]
	slots    writes[uint32, uint32]
	deleted  map[svcKey]bool
	services writes[svcKey, svcVal]
	dead     writes[uint32, backVal]
	records  []uint32 // given up, as are these
	extents  []extent
	indexes  []uint32
	vanished []Vanished
	problems []Problem
}

// Vanished is an endpoint that no longer serves a service.
type Vanished struct {
	Addr     netip.AddrPort
	Protocol resolve.Protocol
}

// Problem is a service that could not be written as wished.
type Problem struct {
	Service types.NamespacedName
	resolve.Problem
	Retry bool // a later attempt may succeed
}

// Change sets what one service should be; a Service without ports and addresses removes it.
type Change struct {
	Name    types.NamespacedName
	Service resolve.Service
}

// apply plans and writes a batch; settle must follow when it has succeeded.
func (t *tables) apply(changes []Change, now time.Time) (*batch, error) {
	t.release(now)
	b := &batch{deleted: map[svcKey]bool{}}
	for _, c := range changes { // keys given up first, so that they can move between services
		t.shrink(b, c)
	}
	for _, c := range changes {
		t.grow(b, c)
	}
	return b, t.write(b)
}

// settle puts to rest what the batch has given up; now is a time after its writes.
func (t *tables) settle(b *batch, now time.Time) {
	for _, r := range b.records {
		t.records.give(r, now)
	}
	for _, e := range b.extents {
		t.slots.give(e, now)
	}
	for _, i := range b.indexes {
		t.indexes.give(i, now)
	}
}

// release frees what has rested for long enough.
func (t *tables) release(now time.Time) {
	t.records.release(now)
	t.slots.release(now)
	t.indexes.release(now)
}

// resting counts what is not free yet.
func (t *tables) resting() int {
	return len(t.records.rest) + len(t.slots.rest) + len(t.indexes.rest)
}

// shrink takes away what the service had and has no more.
func (t *tables) shrink(b *batch, c Change) {
	s := t.services[c.Name]
	if s == nil {
		return
	}
	keep := map[svcKey]bool{}
	ports := map[resolve.PortID]bool{}
	for _, p := range c.Service.Ports {
		ports[p.ID] = true
		for _, f := range p.Fronts {
			keep[keyOf(f)] = true
		}
	}
	for _, a := range c.Service.Refuse {
		keep[svcKey{Addr: addrOf(a)}] = true
	}
	for id, p := range s.ports {
		t.unclaim(b, c.Name, p.keys, keep)
		if !ports[id] {
			t.dropPort(b, id, p)
			delete(s.ports, id)
		}
	}
	t.unclaim(b, c.Name, s.refuse, keep)
	if len(c.Service.Ports) == 0 && len(c.Service.Refuse) == 0 {
		delete(t.services, c.Name)
	}
}

func (t *tables) unclaim(b *batch, name types.NamespacedName, keys []svcKey, keep map[svcKey]bool) {
	for _, k := range keys {
		if !keep[k] && t.owner[k] == name {
			delete(t.owner, k)
			b.deleted[k] = true
		}
	}
}

func (t *tables) dropPort(b *batch, id resolve.PortID, p *port) {
	for addr, be := range p.backends {
		b.dropBackend(p, id.Protocol, addr, be)
	}
	b.extents = append(b.extents, p.clusterAt)
	if p.localAt != p.clusterAt {
		b.extents = append(b.extents, p.localAt)
	}
}

func (b *batch) dropBackend(p *port, proto resolve.Protocol, addr netip.AddrPort, be backend) {
	be.flags = backendDead
	b.dead.put(be.index, p.backendVal(addr, proto, be))
	b.vanished = append(b.vanished, Vanished{addr, proto})
	b.indexes = append(b.indexes, be.index)
}

func (p *port) backendVal(a netip.AddrPort, proto resolve.Protocol, be backend) backVal {
	return backVal{
		Addr: addrOf(a.Addr()), Port: swap(a.Port()), Proto: uint8(proto), Gen: be.gen, Flags: be.flags, Svc: p.id,
	}
}

// grow writes what the service has now.
func (t *tables) grow(b *batch, c Change) {
	if len(c.Service.Ports) == 0 && len(c.Service.Refuse) == 0 {
		return
	}
	s := t.services[c.Name]
	if s == nil {
		s = &service{ports: map[resolve.PortID]*port{}}
		t.services[c.Name] = s
	}
	s.refuse = s.refuse[:0]
	for _, a := range c.Service.Refuse {
		k := svcKey{Addr: addrOf(a)}
		if t.claim(b, c.Name, k) {
			s.refuse = append(s.refuse, k)
			b.services.put(k, svcVal{Key: k, Flags: bpf.NetproxySvcFlagsNP_SVC_REFUSE})
		}
	}
	for i := range c.Service.Ports {
		want := &c.Service.Ports[i]
		p := s.ports[want.ID]
		if p == nil {
			p = t.adoptPort(want)
			s.ports[want.ID] = p
		}
		if err := t.growPort(b, c.Name, p, want); err != nil {
			b.problem(c.Name, "TableFull", err.Error(), true)
		}
	}
}

func (b *batch) problem(name types.NamespacedName, reason, message string, retry bool) {
	b.problems = append(b.problems, Problem{name, resolve.Problem{Reason: reason, Message: message}, retry})
}

// claim makes the service own the key, unless another one does.
func (t *tables) claim(b *batch, name types.NamespacedName, k svcKey) bool {
	if owner, taken := t.owner[k]; taken && owner != name {
		b.problem(name, "AddressTaken", fmt.Sprintf("%s:%d is served for %s", netipOf(k.Addr), swap(k.Port), owner), true)
		return false
	}
	if _, known := t.written[k]; !known && (len(t.owner) >= t.maxKeys || !t.roomFor(b, 1)) {
		b.problem(name, "TableFull", fmt.Sprintf("more than %d service addresses", t.maxKeys), true)
		return false
	}
	t.owner[k] = name
	delete(b.deleted, k)
	return true
}

// roomFor tells whether n more entries can be given new records.
func (t *tables) roomFor(b *batch, n int) bool {
	return t.records.left() >= len(b.services.at)+n
}

func (t *tables) growPort(b *batch, name types.NamespacedName, p *port, want *resolve.ServicePort) error {
	if !t.roomFor(b, len(want.Fronts)) { // before anything is given up that the entries point at
		return fmt.Errorf("no room for %d changes of service addresses", len(want.Fronts))
	}
	cluster, err := t.backendsOf(b, p, want, want.Cluster)
	if err != nil {
		return err
	}
	var local []uint32
	if want.InternalLocal || want.ExternalLocal {
		if local, err = t.backendsOf(b, p, want, want.Local); err != nil {
			return err
		}
	}
	if err := t.listsOf(b, p, cluster, local); err != nil {
		return err
	}
	p.keys = p.keys[:0]
	for _, f := range want.Fronts {
		k := keyOf(f)
		if t.claim(b, name, k) {
			p.keys = append(p.keys, k)
			b.services.put(k, p.recordOf(k, want, f.External))
		}
	}
	t.dropUnwanted(b, p, want)
	return nil
}

func (p *port) recordOf(k svcKey, want *resolve.ServicePort, external bool) svcVal {
	v := svcVal{
		Key: k, Id: p.id,
		Base: p.clusterAt.base, N: p.clusterAt.n, Lbase: p.localAt.base, Ln: p.localAt.n,
		Affinity: uint32(want.Affinity / time.Second),
	}
	if want.Terminating {
		v.Flags |= bpf.NetproxySvcFlagsNP_SVC_TERMINATING
	}
	if !external && want.InternalLocal {
		v.Flags |= bpf.NetproxySvcFlagsNP_SVC_LOCAL
	}
	if external {
		v.Flags |= bpf.NetproxySvcFlagsNP_SVC_EXTERNAL
		if want.ExternalLocal {
			v.Flags |= bpf.NetproxySvcFlagsNP_SVC_EXT_LOCAL
		}
	}
	return v
}

// backendsOf gives every endpoint an index and returns them in order.
func (t *tables) backendsOf(b *batch, p *port, want *resolve.ServicePort, addrs []netip.AddrPort) ([]uint32, error) {
	out := make([]uint32, 0, len(addrs))
	for _, a := range addrs {
		be, known := p.backends[a]
		flags := flagsOf(want.Serving[a])
		if !known {
			index, gen, ok := t.indexes.take()
			if !ok {
				return nil, fmt.Errorf("more than %d endpoints", t.indexes.size)
			}
			be = backend{index: index, gen: gen}
		}
		if !known || be.flags != flags {
			be.flags = flags
			p.backends[a] = be
			b.backends.put(be.index, p.backendVal(a, want.ID.Protocol, be))
		}
		out = append(out, be.index)
	}
	return out, nil
}

func flagsOf(terminating bool) bpf.NetproxyBackendFlags {
	if terminating {
		return backendEnding
	}
	return 0
}

// listsOf writes new lists where they differ; the old ones are left as they are for those who read them.
func (t *tables) listsOf(b *batch, p *port, cluster, local []uint32) error {
	same := slices.Equal(cluster, local)
	if slices.Equal(cluster, p.cluster) && slices.Equal(local, p.local) {
		return nil
	}
	clusterAt, err := t.listOf(b, cluster)
	if err != nil {
		return err
	}
	localAt := clusterAt
	if !same {
		if localAt, err = t.listOf(b, local); err != nil {
			b.extents = append(b.extents, clusterAt)
			return err
		}
	}
	b.extents = append(b.extents, p.clusterAt)
	if p.localAt != p.clusterAt {
		b.extents = append(b.extents, p.localAt)
	}
	p.cluster, p.clusterAt = cluster, clusterAt
	p.local, p.localAt = local, localAt
	return nil
}

func (t *tables) listOf(b *batch, indexes []uint32) (extent, error) {
	if len(indexes) == 0 {
		return extent{}, nil
	}
	at, ok := t.slots.take(uint32(len(indexes)))
	if !ok {
		return extent{}, fmt.Errorf("no room for a list of %d endpoints", len(indexes))
	}
	for i, index := range indexes {
		b.slots.put(at.base+uint32(i), index+1)
	}
	return at, nil
}

// dropUnwanted lets go of endpoints in neither list, except those that still serve the flows they have.
func (t *tables) dropUnwanted(b *batch, p *port, want *resolve.ServicePort) {
	for a, be := range p.backends {
		if slices.Contains(p.cluster, be.index) || slices.Contains(p.local, be.index) {
			continue
		}
		terminating, serves := want.Serving[a]
		if !serves {
			b.dropBackend(p, want.ID.Protocol, a, be)
			delete(p.backends, a)
			continue
		}
		if flags := flagsOf(terminating); flags != be.flags {
			be.flags = flags
			p.backends[a] = be
			b.backends.put(be.index, p.backendVal(a, want.ID.Protocol, be))
		}
	}
}

// write makes the batch's writes in the order that keeps every reader right: what is pointed at before what points at
// it, and endpoints die when nothing points at them.
func (t *tables) write(b *batch) error {
	records, entries, gone := t.changed(b)
	if err := t.store.writeBackends(b.backends.at, b.backends.vals); err != nil {
		return fmt.Errorf("write %d backends: %w", len(b.backends.at), err)
	}
	if err := t.store.writeSlots(b.slots.at, b.slots.vals); err != nil {
		return fmt.Errorf("write %d slots: %w", len(b.slots.at), err)
	}
	if err := t.store.writeRecords(records.at, records.vals); err != nil {
		return fmt.Errorf("write %d service records: %w", len(records.at), err)
	}
	if err := t.store.deleteEntries(gone); err != nil {
		return fmt.Errorf("delete %d service entries: %w", len(gone), err)
	}
	if err := t.store.pointEntries(entries.at, entries.vals); err != nil {
		return fmt.Errorf("write %d service entries: %w", len(entries.at), err)
	}
	if err := t.store.writeBackends(b.dead.at, b.dead.vals); err != nil {
		return fmt.Errorf("mark %d backends dead: %w", len(b.dead.at), err)
	}
	return nil
}

// changed gives a record to every entry that differs from what is written, and takes those of the others away.
func (t *tables) changed(b *batch) (records writes[uint32, svcVal], entries writes[svcKey, pointer], gone []svcKey) {
	for k := range b.deleted {
		if old, known := t.written[k]; known {
			gone = append(gone, k)
			b.giveRecord(old)
		}
		delete(t.written, k)
	}
	for i, k := range b.services.at {
		v := b.services.vals[i]
		old, known := t.written[k]
		if known && old.svcVal == v {
			continue
		}
		if known {
			b.giveRecord(old)
		}
		at, _, _ := t.records.take() // there is room: see roomFor
		records.put(at, v)
		entries.put(k, pointer{Record: at})
		t.written[k] = entry{at, v}
	}
	return records, entries, gone
}

func (b *batch) giveRecord(e entry) {
	if e.record != noRecord {
		b.records = append(b.records, e.record)
	}
}
