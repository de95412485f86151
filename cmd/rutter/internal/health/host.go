package health

import (
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Host is what was seen of a machine. A part that could not be seen has its error text in
// Unseen, by the name of its check.
type Host struct {
	// Node says that the machine is to run pods, or does.
	Node bool
	// Running says that a cluster runs on the data directory now.
	Running bool
	UID     int
	// Kernel is the release; KernelProblem why it is not good enough.
	Kernel, KernelProblem string
	BTF                   bool
	// BPF is whether the BPF file system is mounted where the datapath pins.
	BPF bool
	// Cgroup2 is where the unified hierarchy is mounted, empty if it is not.
	Cgroup2 string
	// Missing are capabilities that the process lacks.
	Missing []string
	// Programs are the paths of programs, empty if they were not found.
	Programs map[string]string
	// Containerd is the socket of the running node's containerd, ContainerdProblem why it
	// does not answer.
	Containerd, ContainerdProblem string
	Ports                         []Port
	Disk                          Disk
	// Memory is what is available.
	Memory uint64
	// OpenFiles is the hard limit of the process, Inotify how many instances a user may have.
	OpenFiles, Inotify uint64
	// ClockSynchronised is what the kernel says of its clock.
	ClockSynchronised bool
	// DataMode is that of the data directory, 0 if there is none; OpenKeys are key files that
	// others than the owner may read.
	DataMode fs.FileMode
	OpenKeys []string
	// Damaged are files of streams that the bus has put aside, and Aside where they are.
	Damaged []string
	Aside   string
	// Addresses are the machine's own, but for those of the cluster's devices.
	Addresses []netip.Prefix
	Unseen    map[string]string
}

// Port is one that the cluster listens on.
type Port struct {
	Flag   string
	Number uint16
	// Problem is why it can't be used, empty if it can.
	Problem string
}

// Disk is the file system under the data directory.
type Disk struct {
	Path                  string
	Free, Total           uint64
	FreeInodes, AllInodes uint64
}

// What a machine should have.
const (
	lowDisk, scarceDisk     = 5 << 30, 1 << 30 // a fresh data directory is 125 MB, the streams keep up to 4.5 GiB
	lowInodes, scarceInodes = 10, 2            // percent
	lowMemory               = 512 << 20
	lowFiles                = 65536
	lowInotify              = 512
)

// Ranges of addresses that a cluster uses.
var clusterRanges = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("10.244.0.0/16")}

// CheckHost judges a machine.
func CheckHost(h Host) []Finding {
	checks := []struct {
		name  string
		node  bool // matters only where pods run
		judge func(name string, h Host) Finding
	}{
		{"root", true, checkRoot}, {"capabilities", true, checkCapabilities}, {"kernel", true, checkKernel},
		{"btf", true, checkBTF}, {"bpf", true, checkBPF}, {"cgroup2", true, checkCgroup},
		{"containerd", true, checkContainerd}, {"runc", true, checkRunc}, {"addresses", true, checkAddresses},
		{"ports", false, checkPorts}, {"disk", false, checkDisk}, {"inodes", false, checkInodes}, {"memory", false, checkMemory},
		{"open-files", false, checkFiles}, {"inotify", true, checkInotify}, {"clock", false, checkClock}, {"data-directory", false, checkData},
		{"stream-files", false, checkStreamFiles},
	}
	var out []Finding
	for _, c := range checks {
		switch why := h.Unseen[c.name]; {
		case c.node && !h.Node:
			continue
		case why != "":
			out = append(out, Finding{Check: c.name, State: Skipped, Seen: "could not be seen: " + why})
		default:
			out = append(out, c.judge(c.name, h))
		}
	}
	return out
}

func checkRoot(name string, h Host) Finding {
	if h.UID == 0 {
		return fine(name, "runs as root")
	}
	return Finding{name, Failed, fmt.Sprintf("runs as user %d", h.UID), "the node makes network namespaces, cgroups and BPF programs: run it with sudo, or the cluster with --no-node"}
}

func checkCapabilities(name string, h Host) Finding {
	return found(name, Failed, h.Missing, "the process has all that a node needs", "the process lacks", "give the service these capabilities")
}

func checkKernel(name string, h Host) Finding {
	if h.KernelProblem == "" {
		return fine(name, "Linux %s", h.Kernel)
	}
	return Finding{name, Failed, h.KernelProblem, "boot a newer kernel"}
}

func checkBTF(name string, h Host) Finding {
	if h.BTF {
		return fine(name, "the kernel has type information")
	}
	return Finding{name, Failed, "there is no /sys/kernel/btf/vmlinux", "use a kernel built with CONFIG_DEBUG_INFO_BTF"}
}

func checkBPF(name string, h Host) Finding {
	if h.BPF {
		return fine(name, "/sys/fs/bpf is mounted")
	}
	return Finding{name, Failed, "no BPF file system is mounted on /sys/fs/bpf", "mount -t bpf bpf /sys/fs/bpf, and in /etc/fstab"}
}

func checkCgroup(name string, h Host) Finding {
	if h.Cgroup2 != "" {
		return fine(name, "mounted on %s", h.Cgroup2)
	}
	return Finding{name, Failed, "no cgroup2 hierarchy is mounted", "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 on /sys/fs/cgroup/unified"}
}

func checkContainerd(name string, h Host) Finding {
	switch path := h.Programs["containerd"]; {
	case path == "":
		return Finding{name, Failed, "containerd is not installed", "apt-get install containerd"}
	case h.ContainerdProblem != "":
		return Finding{name, Failed, fmt.Sprintf("%s does not answer: %s", h.Containerd, h.ContainerdProblem), "look into containerd's log in the data directory"}
	case h.Containerd != "":
		return fine(name, "answers on %s", h.Containerd)
	default:
		return fine(name, "%s", path)
	}
}

func checkRunc(name string, h Host) Finding {
	if path := h.Programs["runc"]; path != "" {
		return fine(name, "%s", path)
	}
	return Finding{name, Failed, "runc is not installed", "apt-get install runc"}
}

func checkAddresses(name string, h Host) Finding {
	var overlaps []string
	for _, own := range h.Addresses {
		for _, used := range clusterRanges {
			if own.Overlaps(used) {
				overlaps = append(overlaps, fmt.Sprintf("%s overlaps %s", own, used))
			}
		}
	}
	return found(name, Failed, overlaps, "none of this machine's networks overlaps those of pods and services", "this machine is in a network that the cluster uses for itself",
		"these ranges can't be changed yet: move the machine to another network")
}

func checkPorts(name string, h Host) Finding {
	var numbers, taken, flags []string
	for _, p := range h.Ports {
		numbers = append(numbers, fmt.Sprint(p.Number))
		if p.Problem != "" {
			taken = append(taken, fmt.Sprintf("%d (%s)", p.Number, p.Problem))
			flags = append(flags, p.Flag)
		}
	}
	if h.Running {
		return fine(name, "%s are the running cluster's", strings.Join(numbers, ", "))
	}
	return found(name, Failed, taken, strings.Join(numbers, ", ")+" are free", "can't be used", "end what listens there, or choose others with "+strings.Join(flags, ", "))
}

func checkDisk(name string, h Host) Finding {
	f := fine(name, "%s of %s are free in %s", Bytes(h.Disk.Free), Bytes(h.Disk.Total), h.Disk.Path)
	switch {
	case h.Disk.Free < scarceDisk:
		f.State, f.Fix = Failed, "etcd ends when its disk is full: make room"
	case h.Disk.Free < lowDisk:
		f.State, f.Fix = Warning, "etcd may take 8 GiB, the streams 4.5 GiB, and images come on top: make room"
	}
	return f
}

func checkInodes(name string, h Host) Finding {
	if h.Disk.AllInodes == 0 {
		return fine(name, "%s does not count them", h.Disk.Path)
	}
	percent := h.Disk.FreeInodes * 100 / h.Disk.AllInodes
	f := fine(name, "%d %% are free in %s", percent, h.Disk.Path)
	switch {
	case percent < scarceInodes:
		f.State, f.Fix = Failed, "remove files"
	case percent < lowInodes:
		f.State, f.Fix = Warning, "images of many small files use them up: remove what is not needed"
	}
	return f
}

func checkMemory(name string, h Host) Finding {
	f := fine(name, "%s are available", Bytes(h.Memory))
	if h.Memory < lowMemory && !h.Running {
		f.State, f.Fix = Warning, fmt.Sprintf("an idle cluster needs about 300 MiB; have %s", Bytes(lowMemory))
	}
	return f
}

func checkFiles(name string, h Host) Finding {
	f := fine(name, "up to %d", h.OpenFiles)
	if h.OpenFiles < lowFiles {
		f.State, f.Fix = Warning, fmt.Sprintf("every client, pod and stream holds some: raise the hard limit to %d (LimitNOFILE=)", lowFiles)
	}
	return f
}

func checkInotify(name string, h Host) Finding {
	f := fine(name, "up to %d instances", h.Inotify)
	if h.Inotify < lowInotify {
		f.State, f.Fix = Warning, fmt.Sprintf("containers need them too: sysctl fs.inotify.max_user_instances=%d", lowInotify)
	}
	return f
}

func checkClock(name string, h Host) Finding {
	if h.ClockSynchronised {
		return fine(name, "the kernel's clock is synchronised")
	}
	return Finding{name, Warning, "the kernel's clock is not synchronised", "run chrony or systemd-timesyncd: instants, certificates and tokens are read by it"}
}

// privateDir and privateKey are the widest modes that keep others out.
const privateDir = fs.FileMode(0o700)

func checkData(name string, h Host) Finding {
	if h.DataMode == 0 {
		return fine(name, "is not there yet")
	}
	if h.DataMode&^privateDir != 0 {
		return Finding{name, Failed, fmt.Sprintf("others may look into it (mode %04o)", h.DataMode), "chmod 0700: it holds the cluster's keys"}
	}
	slices.Sort(h.OpenKeys)
	return found(name, Failed, h.OpenKeys, "is its owner's alone, and so are its keys", "others may read keys", "chmod 0600 them, and think of who may have read them")
}

func checkStreamFiles(name string, h Host) Finding {
	slices.Sort(h.Damaged)
	return found(name, Warning, h.Damaged, "none was damaged", "were damaged and are in "+h.Aside, "see to the disk, and to the gaps of `rutter history status`; then delete them")
}

// skewAllowed is by how much clocks may differ without a word.
const skewAllowed = 2 * time.Second

// CheckSkew compares the server's clock with this machine's.
func CheckSkew(skew time.Duration) Finding {
	const name = "clock-skew"
	if skew.Abs() <= skewAllowed {
		return fine(name, "the API server's clock and this machine's agree")
	}
	return Finding{name, Warning, fmt.Sprintf("the API server's clock differs from this machine's by %s", skew.Round(time.Second)), "synchronise both: times given here are read by the server's clock"}
}
