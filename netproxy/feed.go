package netproxy

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutter-project/rutter/netproxy/resolve"
)

// feed holds the objects we follow, what changed since it was last asked, and the indexes that DNS needs. It is safe
// for concurrent use. Objects are shared and never changed.
type feed struct {
	self string
	wake chan struct{} // holds one token while something is dirty

	mu         sync.RWMutex
	services   map[types.NamespacedName]*corev1.Service
	slices     map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice // by service, by name
	nodes      map[string]*corev1.Node
	namespaces map[string]int // number of services in each
	byIP       map[netip.Addr]map[types.NamespacedName]int
	dirty      map[types.NamespacedName]bool
	nodesDirty bool
	since      time.Time // of the oldest change in dirty
}

func newFeed(self string) *feed {
	return &feed{
		self: self, wake: make(chan struct{}, 1),
		services:   map[types.NamespacedName]*corev1.Service{},
		slices:     map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice{},
		nodes:      map[string]*corev1.Node{},
		namespaces: map[string]int{},
		byIP:       map[netip.Addr]map[types.NamespacedName]int{},
		dirty:      map[types.NamespacedName]bool{},
	}
}

// mark makes services dirty; the lock must be held.
func (f *feed) mark(names ...types.NamespacedName) {
	for _, n := range names {
		f.dirty[n] = true
	}
	if f.since.IsZero() {
		f.since = time.Now()
	}
	select {
	case f.wake <- struct{}{}:
	default: // somebody is woken already
	}
}

// retry makes services dirty again.
func (f *feed) retry(names ...types.NamespacedName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mark(names...)
}

// everything makes all services dirty.
func (f *feed) everything() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.markAll()
}

// everythingAfter makes all services dirty a while later, unless the context ends before.
func (f *feed) everythingAfter(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
		f.everything()
	case <-ctx.Done():
	}
}

func (f *feed) markAll() {
	for n := range f.services {
		f.dirty[n] = true
	}
	f.nodesDirty = true
	f.mark()
}

// setService takes a service; nil removes it.
func (f *feed) setService(name types.NamespacedName, svc *corev1.Service) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.services[name]; old != nil {
		f.index(name, serviceIPs(old), -1)
		f.count(name.Namespace, -1)
		delete(f.services, name)
	}
	if svc != nil {
		f.index(name, serviceIPs(svc), 1)
		f.count(name.Namespace, 1)
		f.services[name] = svc
	}
	f.mark(name)
}

func (f *feed) count(namespace string, n int) {
	if f.namespaces[namespace] += n; f.namespaces[namespace] == 0 {
		delete(f.namespaces, namespace)
	}
}

// setSlice takes a slice of a service, or removes it.
func (f *feed) setSlice(s *discoveryv1.EndpointSlice, present bool) {
	owner := s.Labels[discoveryv1.LabelServiceName]
	if owner == "" {
		return
	}
	name := types.NamespacedName{Namespace: s.Namespace, Name: owner}
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.slices[name]
	if old := all[s.Name]; old != nil {
		f.index(name, sliceIPs(old), -1)
		delete(all, s.Name)
	}
	switch {
	case present && all == nil:
		f.slices[name] = map[string]*discoveryv1.EndpointSlice{s.Name: s}
	case present:
		all[s.Name] = s
	case len(all) == 0:
		delete(f.slices, name)
	}
	if present {
		f.index(name, sliceIPs(s), 1)
	}
	f.mark(name)
}

// setNode takes a node, or removes it. Only what we read of it counts as a change: heartbeats do not.
func (f *feed) setNode(n *corev1.Node, present bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.nodes[n.Name]
	if !present {
		delete(f.nodes, n.Name)
		f.nodesDirty = true
		f.mark()
		return
	}
	f.nodes[n.Name] = n
	if old != nil && samePeer(resolve.PeerOf(old, f.self), resolve.PeerOf(n, f.self)) &&
		resolve.ZoneOf(old) == resolve.ZoneOf(n) {
		return
	}
	f.nodesDirty = true
	f.mark()
	if n.Name == f.self && old != nil && resolve.ZoneOf(old) != resolve.ZoneOf(n) {
		f.markAll()
	}
}

func samePeer(a, b resolve.Peer) bool {
	return slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.PodCIDRs, b.PodCIDRs)
}

// work is what changed.
type work struct {
	services []resolve.Service // resolved, in no order; one without ports is gone
	names    []types.NamespacedName
	peers    []resolve.Peer // nil if no node changed
	since    time.Time
}

// take resolves what is dirty and makes it clean.
func (f *feed) take() work {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := work{since: f.since}
	self := resolve.Node{Name: f.self}
	if n := f.nodes[f.self]; n != nil {
		self.Zone = resolve.ZoneOf(n)
	}
	for name := range f.dirty {
		w.names = append(w.names, name)
		w.services = append(w.services, resolve.Resolve(f.services[name], f.sliceList(name), self))
	}
	if f.nodesDirty {
		w.peers = make([]resolve.Peer, 0, len(f.nodes))
		for _, n := range f.nodes {
			w.peers = append(w.peers, resolve.PeerOf(n, f.self))
		}
	}
	clear(f.dirty)
	f.nodesDirty, f.since = false, time.Time{}
	return w
}

// ownCIDRs are the pod ranges of this node; empty until they are assigned.
func (f *feed) ownCIDRs() []netip.Prefix {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if n := f.nodes[f.self]; n != nil {
		return resolve.PeerOf(n, f.self).PodCIDRs
	}
	return nil
}

func (f *feed) sliceList(name types.NamespacedName) []*discoveryv1.EndpointSlice {
	out := make([]*discoveryv1.EndpointSlice, 0, len(f.slices[name]))
	for _, s := range f.slices[name] {
		out = append(out, s)
	}
	return out
}

func (f *feed) index(name types.NamespacedName, ips []netip.Addr, n int) {
	for _, ip := range ips {
		names := f.byIP[ip]
		if names == nil {
			names = map[types.NamespacedName]int{}
			f.byIP[ip] = names
		}
		if names[name] += n; names[name] == 0 {
			delete(names, name)
		}
		if len(names) == 0 {
			delete(f.byIP, ip)
		}
	}
}

func serviceIPs(s *corev1.Service) []netip.Addr {
	var out []netip.Addr
	for _, text := range s.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil {
			out = append(out, ip)
		}
	}
	return out
}

func sliceIPs(s *discoveryv1.EndpointSlice) []netip.Addr {
	var out []netip.Addr
	for _, e := range s.Endpoints {
		for _, text := range e.Addresses {
			if ip, err := netip.ParseAddr(text); err == nil {
				out = append(out, ip)
			}
		}
	}
	return out
}

// Service is the service of that name, nil if there is none.
func (f *feed) Service(name types.NamespacedName) *corev1.Service {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.services[name]
}

// Slices are a service's endpoint slices.
func (f *feed) Slices(service types.NamespacedName) []*discoveryv1.EndpointSlice {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.sliceList(service)
}

// HasNamespace tells whether a namespace has services.
func (f *feed) HasNamespace(namespace string) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.namespaces[namespace] > 0
}

// ByIP lists the services with that cluster address or endpoint, in order of their names.
func (f *feed) ByIP(ip netip.Addr) []types.NamespacedName {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var out []types.NamespacedName
	for name := range f.byIP[ip] {
		svc := f.services[name]
		if svc == nil {
			continue
		}
		// An endpoint names a headless service only; others are named by their cluster address.
		if svc.Spec.ClusterIP == corev1.ClusterIPNone || slices.Contains(serviceIPs(svc), ip) {
			out = append(out, name)
		}
	}
	slices.SortFunc(out, func(a, b types.NamespacedName) int {
		if a.String() < b.String() {
			return -1
		}
		return 1
	})
	return out
}
