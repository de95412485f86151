package datapath

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/bpf"
)

// unpinned maps start empty with every process; all others outlive it.
var unpinned = []string{"np_drops"}

// loadObjects loads the programs and makes the maps, or adopts those that a former process pinned.
// Maps of another shape live in another directory, so a change of sizes starts with empty ones.
func loadObjects(cfg Config, tunnel int) (objs *bpf.NetproxyObjects, dir string, err error) {
	spec, err := bpf.LoadNetproxy()
	if err != nil {
		return nil, "", fmt.Errorf("read programs: %w", err)
	}
	setSizes(spec, cfg.Sizes)
	if err := setVariables(spec, cfg, tunnel); err != nil {
		return nil, "", err
	}
	for name, m := range spec.Maps {
		if !strings.HasPrefix(name, ".") && !slices.Contains(unpinned, name) {
			m.Pinning = ebpf.PinByName
		}
	}
	dir = filepath.Join(cfg.pinDir(), "maps-"+shapeOf(spec))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", fmt.Errorf("make pin directory: %w", err)
	}
	objs = new(bpf.NetproxyObjects)
	opts := &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: dir}}
	if err := spec.LoadAndAssign(objs, opts); err != nil {
		return nil, "", explainLoad(err)
	}
	return objs, dir, nil
}

func explainLoad(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("load programs (root and Linux 6.6 or newer are needed): %w", err)
	}
	return fmt.Errorf("load programs: %w", err)
}

func setSizes(spec *ebpf.CollectionSpec, s Sizes) {
	for name, n := range map[string]uint32{
		"np_svc": s.Services, "np_records": s.records(), "np_slots": s.Slots, "np_backends": s.Backends,
		"np_affinity": s.Affinity, "np_nat": s.Flows,
		"np_eps": 2 * s.Pods, "np_ifs": s.Pods, "np_routes": s.Routes, "np_nodeips": s.NodeAddrs,
	} {
		spec.Maps[name].MaxEntries = n
	}
}

func setVariables(spec *ebpf.CollectionSpec, cfg Config, tunnel int) error {
	var nat4 uint32
	var nat6 [4]uint32
	if p, ok := cfg.cidr(false); ok {
		nat4 = addrOf(natAddr(p)).W[3]
	}
	if p, ok := cfg.cidr(true); ok {
		nat6 = addrOf(natAddr(p)).W
	}
	for name, value := range map[string]any{
		"np_tunnel_ifindex": uint32(tunnel), "np_vni": cfg.VNI,
		"np_nat_ip4": nat4, "np_nat_ip6": nat6,
		"np_nodeport_lo": uint32(cfg.NodePortFirst), "np_nodeport_hi": uint32(cfg.NodePortLast),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// shapeOf changes when maps of a former process can no longer be used.
func shapeOf(spec *ebpf.CollectionSpec) string {
	var lines []string
	for name, m := range spec.Maps {
		if m.Pinning == ebpf.PinByName {
			lines = append(lines, fmt.Sprintln(name, m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags))
		}
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "")))
	return fmt.Sprintf("%x", sum[:4])
}

// mountBPF makes sure that a BPF file system is at dir.
func mountBPF(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("BPF file system: %w", &os.PathError{Op: "statfs", Path: dir, Err: err})
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount BPF file system on %s: %w", dir, err)
	}
	return nil
}

// kernel is the store of the service tables.
type kernel struct {
	maps *bpf.NetproxyMaps
}

func (k kernel) writeBackends(at []uint32, vals []backVal) error {
	return putAll(k.maps.NpBackends, at, vals)
}

func (k kernel) writeSlots(at, vals []uint32) error {
	return putAll(k.maps.NpSlots, at, vals)
}

func (k kernel) writeRecords(at []uint32, vals []svcVal) error {
	return putAll(k.maps.NpRecords, at, vals)
}

// pointEntries writes known entries in place, by the lock: without it the kernel would put a new element at the head
// of the hash chain, take the old one out, and give that to the next key, all under the eyes of readers.
func (k kernel) pointEntries(keys []svcKey, to []pointer) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := k.maps.NpSvc.BatchUpdate(keys, to, &ebpf.BatchOptions{ElemFlags: uint64(ebpf.UpdateLock)})
	return err
}

func (k kernel) deleteEntries(keys []svcKey) error {
	if len(keys) == 0 {
		return nil
	}
	if _, err := k.maps.NpSvc.BatchDelete(keys, nil); !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	for _, key := range keys { // the batch stopped at the first one missing
		if err := k.maps.NpSvc.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

func putAll[K, V any](m *ebpf.Map, keys []K, vals []V) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := m.BatchUpdate(keys, vals, nil)
	return err
}

// contents reads the service maps.
func (k kernel) contents() (contents, error) {
	out := contents{entries: map[svcKey]pointer{}}
	err := readAll(k.maps.NpSvc, func(key svcKey, v pointer) { out.entries[key] = v })
	if err != nil {
		return out, fmt.Errorf("read service entries: %w", err)
	}
	out.records, err = readArray(k.maps.NpRecords, func(v svcVal) bool { return v != svcVal{} })
	if err != nil {
		return out, fmt.Errorf("read service records: %w", err)
	}
	out.slots, err = readArray(k.maps.NpSlots, func(v uint32) bool { return v != 0 })
	if err != nil {
		return out, fmt.Errorf("read slots: %w", err)
	}
	out.backends, err = readArray(k.maps.NpBackends, func(v backVal) bool { return v.Gen != 0 })
	if err != nil {
		return out, fmt.Errorf("read backends: %w", err)
	}
	return out, nil
}

// readArray reads an array up to the last entry that was ever used.
func readArray[V any](m *ebpf.Map, used func(V) bool) ([]V, error) {
	all := make([]V, m.MaxEntries())
	keys := make([]uint32, len(all))
	var cursor ebpf.MapBatchCursor
	n, err := m.BatchLookup(&cursor, keys, all, nil) // arrays are read in order
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, err
	}
	for n > 0 && !used(all[n-1]) {
		n--
	}
	return slices.Clone(all[:n]), nil
}

func readAll[K, V any](m *ebpf.Map, each func(K, V)) error {
	const chunk = 4096
	n := min(chunk, int(m.MaxEntries()))
	keys, vals := make([]K, n), make([]V, n)
	var cursor ebpf.MapBatchCursor
	for {
		got, err := m.BatchLookup(&cursor, keys, vals, nil)
		for i := range got {
			each(keys[i], vals[i])
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return nil
		case err != nil:
			return err
		}
	}
}

// replaceMap makes a map of the kernel hold exactly what is wanted.
func replaceMap[K comparable, V comparable](m *ebpf.Map, want map[K]V) error {
	have := map[K]V{}
	var key K
	var val V
	for it := m.Iterate(); it.Next(&key, &val); {
		have[key] = val
	}
	for k, v := range want {
		if old, ok := have[k]; ok && old == v {
			continue
		}
		if err := m.Put(k, v); err != nil {
			return err
		}
	}
	for k := range have {
		if _, ok := want[k]; ok {
			continue
		}
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}
