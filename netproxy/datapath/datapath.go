package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/bpf"
)

// Datapath is the live datapath of one node. Closing it leaves everything running; Destroy removes it.
type Datapath struct {
	cfg     Config
	log     zerolog.Logger
	objs    *bpf.NetproxyObjects
	mapsDir string
	handle  *netlink.Handle // in the node's network namespace
	tunnel  int             // interface index
	uplinks []uplink
	mtu     int // of pods

	services struct { // the service tables, one batch at a time
		sync.Mutex
		*tables
	}
	pods struct {
		sync.Mutex
		known map[string]Pod // by UID
	}
}

// Open prepares the node's devices and loads the programs. What a former process left is adopted; the programs it
// attached go on until Activate replaces them.
func Open(cfg Config, log zerolog.Logger) (*Datapath, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("datapath configuration: %w", err)
	}
	if err := mountBPF(cfg.BPFFS); err != nil {
		return nil, err
	}
	handle, err := handleIn(cfg.NetNS)
	if err != nil {
		return nil, err
	}
	d := &Datapath{cfg: cfg, log: log.With().Str("component", "datapath").Str("node", cfg.Node).Logger(), handle: handle}
	d.pods.known = map[string]Pod{}
	if err := d.open(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Datapath) open() error {
	if err := d.prepareNode(); err != nil {
		return err
	}
	objs, dir, err := loadObjects(d.cfg, d.tunnel)
	if err != nil {
		return err
	}
	d.objs, d.mapsDir = objs, dir
	return d.reload()
}

// reload makes the service tables what the maps hold.
func (d *Datapath) reload() error {
	k := kernel{&d.objs.NetproxyMaps}
	c, err := k.contents()
	if err != nil {
		return err
	}
	t := newTables(k, d.cfg.Sizes)
	t.adopt(c, time.Now())
	d.services.tables = t
	return nil
}

// Activate attaches the programs. Call it once the tables are filled: from here on they decide.
func (d *Datapath) Activate() error {
	if err := os.MkdirAll(d.cfg.Cgroup, 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	links := filepath.Join(d.cfg.pinDir(), "links")
	if err := os.MkdirAll(links, 0o700); err != nil {
		return fmt.Errorf("make pin directory: %w", err)
	}
	hooks, err := cgroupHooks(&d.objs.NetproxyPrograms, d.cfg.Cgroup)
	if err != nil {
		return err
	}
	hooks = append(hooks, d.deviceHooks()...)
	err = InNetNS(d.cfg.NetNS, func() error {
		for _, h := range hooks {
			if err := h.install(links); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := dropOldLinks(links, hooks); err != nil {
		return err
	}
	return d.dropOldMaps()
}

// dropOldMaps removes maps of another shape, which nothing uses any more.
func (d *Datapath) dropOldMaps() error {
	all, err := filepath.Glob(filepath.Join(d.cfg.pinDir(), "maps-*"))
	if err != nil {
		return err
	}
	for _, dir := range all {
		if dir == d.mapsDir {
			continue
		}
		if err := removePins(dir); err != nil {
			return err
		}
	}
	return nil
}

// Result is what came of a batch of changes.
type Result struct {
	Problems []Problem
	Freed    bool // addresses were given up: what was refused for them may be tried again
}

// Apply makes the service tables hold the changes, in one batch. After an error the tables are read back from the
// kernel: all services must be applied again.
func (d *Datapath) Apply(changes []Change) (Result, error) {
	return d.batch(func(t *tables, now time.Time) (*batch, error) { return t.apply(changes, now) })
}

// Prune removes what a former process left and no service has claimed. Call it once all services are applied.
func (d *Datapath) Prune() error {
	_, err := d.batch(func(t *tables, _ time.Time) (*batch, error) { return t.prune() })
	return err
}

func (d *Datapath) batch(fn func(*tables, time.Time) (*batch, error)) (Result, error) {
	d.services.Lock()
	b, err := fn(d.services.tables, time.Now())
	if err != nil {
		err = errors.Join(err, d.reload())
	} else {
		d.services.settle(b, time.Now())
	}
	d.services.Unlock()
	if err != nil {
		return Result{}, err
	}
	if err := d.killFlows(b.vanished); err != nil {
		d.log.Warn().Err(err).Msg("sockets of vanished endpoints not all closed")
	}
	return Result{Problems: b.problems, Freed: len(b.deleted) > 0}, nil
}

// GC releases what has rested long enough. It tells whether that was anything, and whether something still rests.
func (d *Datapath) GC() (released, more bool) {
	d.services.Lock()
	defer d.services.Unlock()
	before := d.services.resting()
	d.services.release(time.Now())
	after := d.services.resting()
	return after < before, after > 0
}

// Stats counts what the tables hold.
type Stats struct {
	Fronts, Services, Slots, Backends, Pods int
}

// Stats tells how full the tables are.
func (d *Datapath) Stats() Stats {
	d.services.Lock()
	t := d.services.tables
	s := Stats{
		Fronts: len(t.written), Services: len(t.services), Slots: int(t.slots.inUse),
		Backends: int(t.indexes.next) - len(t.indexes.free),
	}
	d.services.Unlock()
	d.pods.Lock()
	s.Pods = len(d.pods.known)
	d.pods.Unlock()
	return s
}

// Drops counts the packets and connections refused since the process began, by reason.
func (d *Datapath) Drops() (map[string]uint64, error) {
	out := map[string]uint64{}
	for reason := bpf.NetproxyDropNP_DROP_NONE + 1; reason < bpf.NetproxyDropNP_DROP_MAX; reason++ {
		var perCPU []uint64
		if err := d.objs.NpDrops.Lookup(reason, &perCPU); err != nil {
			return nil, fmt.Errorf("read drops: %w", err)
		}
		var sum uint64
		for _, n := range perCPU {
			sum += n
		}
		out[dropNames[reason]] = sum
	}
	return out, nil
}

var dropNames = map[bpf.NetproxyDrop]string{
	bpf.NetproxyDropNP_DROP_MALFORMED:    "malformed",
	bpf.NetproxyDropNP_DROP_SPOOFED:      "spoofed_source",
	bpf.NetproxyDropNP_DROP_NO_BACKEND:   "no_endpoint",
	bpf.NetproxyDropNP_DROP_NO_PORT:      "no_port",
	bpf.NetproxyDropNP_DROP_NO_NODE:      "no_node",
	bpf.NetproxyDropNP_DROP_REWRITE:      "rewrite_failed",
	bpf.NetproxyDropNP_DROP_FRAGMENT:     "fragment",
	bpf.NetproxyDropNP_DROP_UNKNOWN_LINK: "unknown_link",
	bpf.NetproxyDropNP_DROP_NO_FLOW:      "no_free_flow",
	bpf.NetproxyDropNP_DROP_NO_ROUTE:     "no_route",
}

// MTU is that of pods.
func (d *Datapath) MTU() int { return d.mtu }

// Close lets go of the datapath and leaves it running.
func (d *Datapath) Close() error {
	d.handle.Close()
	if d.objs != nil {
		return d.objs.Close()
	}
	return nil
}

// Destroy removes all that a node's datapath has made, whether or not a process still has it open: pins and the links
// they hold, devices, routes, the masquerade table, pods' network namespaces, the cgroup if it is empty. It goes on
// after an error. Sysctls stay as they are.
func Destroy(cfg Config) error {
	var errs []error
	errs = append(errs, removePins(cfg.pinDir()))
	_ = os.Remove(filepath.Dir(cfg.pinDir())) // shared by nodes; stays while another one is in it
	errs = append(errs, destroyPods(cfg))
	errs = append(errs, destroyNode(cfg))
	if err := os.Remove(cfg.Cgroup); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
		errs = append(errs, fmt.Errorf("remove cgroup: %w", err))
	}
	_ = os.Remove(filepath.Dir(cfg.Cgroup)) // these, too, may be shared
	_ = os.Remove(cfg.RunDir)
	return errors.Join(errs...)
}

// CgroupRoot finds the cgroup2 file system: the only one, or the unified part of a hybrid machine.
func CgroupRoot() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", errors.New("no cgroup2 file system is mounted: services cannot be translated at the socket")
}

// nodeAddrs are this node's own addresses in its pod ranges.
func (d *Datapath) nodeAddrs() []netip.Addr {
	var out []netip.Addr
	for _, p := range d.cfg.PodCIDRs {
		out = append(out, HostAddr(p))
	}
	return out
}
