package netproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rs/zerolog"
)

// reserved addresses at the start of a pod range: the network, the node's own, and that of translated packets.
const reserved = 3

// lease is what is remembered of a pod.
type lease struct {
	UID       string       `json:"uid"`
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	IPs       []netip.Addr `json:"ips"`
}

// ipam gives pods addresses of the node's ranges and remembers them in one file each, written before the address is
// used and removed after. The files are for another process on the running system: after a reboot there is no pod to
// remember, so they are not synced to disk, and one that cannot be read counts as absent.
type ipam struct {
	dir   string
	cidrs []netip.Prefix

	mu     sync.Mutex
	leases map[string]lease
	taken  map[netip.Addr]string       // UID
	next   map[netip.Prefix]netip.Addr // addresses are given round robin, so that one rests before it is given again
}

func openIPAM(dir string, cidrs []netip.Prefix, log zerolog.Logger) (*ipam, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	m := &ipam{
		dir: dir, cidrs: cidrs,
		leases: map[string]lease{}, taken: map[netip.Addr]string{}, next: map[netip.Prefix]netip.Addr{},
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		l, err := readLease(path)
		if err != nil {
			log.Warn().Err(err).Str("name", f.Name()).Msg("unreadable lease removed")
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("remove unreadable lease: %w", err)
			}
			continue
		}
		m.hold(l)
	}
	return m, nil
}

func readLease(path string) (lease, error) {
	var l lease
	data, err := os.ReadFile(path)
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return l, err
	}
	if l.UID+".json" != filepath.Base(path) || len(l.IPs) == 0 {
		return l, errors.New("not a lease of this pod")
	}
	return l, nil
}

func (m *ipam) hold(l lease) {
	m.leases[l.UID] = l
	for _, ip := range l.IPs {
		m.taken[ip] = l.UID
		for _, cidr := range m.cidrs {
			if cidr.Contains(ip) && m.next[cidr].Compare(ip) <= 0 {
				m.next[cidr] = ip.Next()
			}
		}
	}
}

// acquire returns the pod's addresses, one of each range, giving it some if it has none.
func (m *ipam) acquire(uid, namespace, name string) (lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l, ok := m.leases[uid]; ok {
		return l, nil
	}
	if uid == "" || filepath.Base(uid) != uid || strings.HasPrefix(uid, ".") {
		return lease{}, fmt.Errorf("pod UID %q is none", uid)
	}
	l := lease{UID: uid, Namespace: namespace, Name: name}
	for _, cidr := range m.cidrs {
		ip, ok := m.find(cidr)
		if !ok {
			return lease{}, fmt.Errorf("no address left in %s for pod %s/%s", cidr, namespace, name)
		}
		l.IPs = append(l.IPs, ip)
	}
	if err := m.write(l); err != nil {
		return lease{}, err
	}
	m.hold(l)
	return l, nil
}

func (m *ipam) find(cidr netip.Prefix) (netip.Addr, bool) {
	first := cidr.Masked().Addr()
	for range reserved {
		first = first.Next()
	}
	ip := m.next[cidr]
	if !usable(cidr, ip) {
		ip = first
	}
	for start := ip; ; {
		if m.taken[ip] == "" {
			return ip, true
		}
		if ip = ip.Next(); !usable(cidr, ip) {
			ip = first
		}
		if ip == start {
			return netip.Addr{}, false
		}
	}
}

// usable leaves out the last address, an IPv4 range's broadcast.
func usable(cidr netip.Prefix, ip netip.Addr) bool {
	return cidr.Contains(ip) && cidr.Contains(ip.Next())
}

func (m *ipam) write(l lease) error {
	data, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("write lease: %w", err)
	}
	path := filepath.Join(m.dir, l.UID+".json")
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("write lease: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write lease: %w", err)
	}
	return nil
}

// get returns the pod's lease.
func (m *ipam) get(uid string) (lease, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, ok := m.leases[uid]
	return l, ok
}

// all returns every lease.
func (m *ipam) all() []lease {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]lease, 0, len(m.leases))
	for _, l := range m.leases {
		out = append(out, l)
	}
	return out
}

// release forgets the pod's addresses.
func (m *ipam) release(uid string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, ok := m.leases[uid]
	if !ok {
		return nil
	}
	if err := os.Remove(filepath.Join(m.dir, uid+".json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove lease: %w", err)
	}
	delete(m.leases, uid)
	for _, ip := range l.IPs {
		delete(m.taken, ip)
	}
	return nil
}
