package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/bpf"
)

// hook is a program, where it is attached, and how to tell that a pinned link still is there.
type hook struct {
	name    string // of the pin
	program *ebpf.Program
	attach  func() (link.Link, error)
	same    func(*link.Info) bool
}

// install makes the pinned link run the hook's program: an existing one is switched over without a gap, one whose
// cgroup or device is gone is made anew.
func (h hook) install(dir string) error {
	pin := filepath.Join(dir, h.name)
	l, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		defer func() { _ = l.Close() }()
		if h.adopt(l) {
			return nil
		}
		if err := l.Unpin(); err != nil {
			return fmt.Errorf("unpin severed link %s: %w", h.name, err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open link %s: %w", h.name, err)
	}
	fresh, err := h.attach()
	if err != nil {
		return fmt.Errorf("attach %s: %w", h.name, err)
	}
	defer func() { _ = fresh.Close() }() // the pin keeps it
	if err := fresh.Pin(pin); err != nil {
		return fmt.Errorf("pin link %s: %w", h.name, err)
	}
	return nil
}

func (h hook) adopt(l link.Link) bool {
	info, err := l.Info()
	if err != nil || !h.same(info) {
		return false
	}
	return l.Update(h.program) == nil
}

// cgroupHooks are the socket hooks of a cgroup directory.
func cgroupHooks(p *bpf.NetproxyPrograms, dir string) ([]hook, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, fmt.Errorf("cgroup: %w", &os.PathError{Op: "stat", Path: dir, Err: err})
	}
	var out []hook
	add := func(name string, prog *ebpf.Program, at ebpf.AttachType) {
		out = append(out, hook{
			name: name, program: prog,
			attach: func() (link.Link, error) {
				return link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: at, Program: prog})
			},
			// A cgroup's id is its directory's inode: a directory made again under the same name is another cgroup.
			same: func(i *link.Info) bool { return i.Cgroup() != nil && i.Cgroup().CgroupId == st.Ino },
		})
	}
	add("connect4", p.NpConnect4, ebpf.AttachCGroupInet4Connect)
	add("connect6", p.NpConnect6, ebpf.AttachCGroupInet6Connect)
	add("sendmsg4", p.NpSendmsg4, ebpf.AttachCGroupUDP4Sendmsg)
	add("sendmsg6", p.NpSendmsg6, ebpf.AttachCGroupUDP6Sendmsg)
	add("recvmsg4", p.NpRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg)
	add("recvmsg6", p.NpRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg)
	add("getpeername4", p.NpGetpeername4, ebpf.AttachCgroupInet4GetPeername)
	add("getpeername6", p.NpGetpeername6, ebpf.AttachCgroupInet6GetPeername)
	return out, nil
}

// deviceHook is a program on one direction of a device. It must be installed in the device's network namespace.
func deviceHook(name string, prog *ebpf.Program, ifindex int, at ebpf.AttachType) hook {
	return hook{
		name: name, program: prog,
		attach: func() (link.Link, error) {
			return link.AttachTCX(link.TCXOptions{Interface: ifindex, Attach: at, Program: prog})
		},
		// The index of a link whose device is gone reads 0.
		same: func(i *link.Info) bool { return i.TCX() != nil && i.TCX().Ifindex == uint32(ifindex) },
	}
}

// dropOldLinks detaches what is pinned and no hook any more.
func dropOldLinks(dir string, hooks []hook) error {
	pins, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, pin := range pins {
		if slices.ContainsFunc(hooks, func(h hook) bool { return h.name == pin.Name() }) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, pin.Name())); err != nil {
			return fmt.Errorf("detach old link: %w", err)
		}
	}
	return nil
}

// removePins detaches every link pinned under dir and removes all pins.
func removePins(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}
