// Package nodestatus registers the node, keeps its Lease fresh and tells of
// changes of its status. Reading the machine and talking to the API are
// separate; what to tell is computed by pure functions.
package nodestatus

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Machine is what the node knows of the machine it runs on.
type Machine struct {
	CPUs   int
	Memory int64 // bytes
	Disk   int64 // bytes of the data directory's file system
	Info   corev1.NodeSystemInfo
}

// ReadMachine reads what does not change while the machine runs.
func ReadMachine(dataDir string) (Machine, error) {
	m := Machine{CPUs: runtime.NumCPU()}
	mem, err := meminfo()
	if err != nil {
		return Machine{}, err
	}
	m.Memory = mem["MemTotal"]
	var st unix.Statfs_t
	if err := unix.Statfs(dataDir, &st); err != nil {
		return Machine{}, fmt.Errorf("stat file system of %s: %w", dataDir, err)
	}
	m.Disk = int64(st.Blocks) * st.Bsize
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return Machine{}, fmt.Errorf("read kernel version: %w", err)
	}
	m.Info = corev1.NodeSystemInfo{
		MachineID: line("/etc/machine-id"), SystemUUID: line("/sys/class/dmi/id/product_uuid"), BootID: line("/proc/sys/kernel/random/boot_id"),
		KernelVersion: unix.ByteSliceToString(uts.Release[:]), OSImage: osImage(), OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
	}
	if m.Info.SystemUUID == "" {
		m.Info.SystemUUID = m.Info.MachineID
	}
	return m, nil
}

func line(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func osImage() string {
	for l := range strings.Lines(line("/etc/os-release")) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(l), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	return runtime.GOOS
}

// meminfo returns the kernel's memory figures in bytes.
func meminfo() (map[string]int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	out := map[string]int64{}
	s := bufio.NewScanner(f)
	for s.Scan() {
		name, rest, ok := strings.Cut(s.Text(), ":")
		fields := strings.Fields(rest)
		if !ok || len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
			out[name] = n * 1024
		}
	}
	return out, s.Err()
}

// Pressure is what the machine runs short of.
type Pressure struct{ Memory, Disk, PIDs bool }

// Thresholds below which a resource is short; those of kubelet.
const (
	minMemory   = 100 << 20
	minDiskPart = 10 // one in so many blocks, and inodes half of that
	minPIDPart  = 20
)

// ReadPressure looks at the machine now.
func ReadPressure(dataDir string) (Pressure, error) {
	mem, err := meminfo()
	if err != nil {
		return Pressure{}, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dataDir, &st); err != nil {
		return Pressure{}, fmt.Errorf("stat file system of %s: %w", dataDir, err)
	}
	limit, err := strconv.Atoi(line("/proc/sys/kernel/pid_max"))
	if err != nil {
		return Pressure{}, fmt.Errorf("read pid_max: %w", err)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return Pressure{}, fmt.Errorf("read number of processes: %w", err)
	}
	return Pressure{
		Memory: mem["MemAvailable"] < minMemory,
		Disk:   st.Bavail < st.Blocks/minDiskPart || st.Files > 0 && st.Ffree < st.Files/(2*minDiskPart),
		PIDs:   limit-int(info.Procs) < limit/minPIDPart,
	}, nil
}

// Addresses are the node's own addresses: those given, else the first global
// one of each family on a device of its network, else the first host address of its pod range.
func Addresses(given []netip.Addr, podCIDRs []string) []netip.Addr {
	if len(given) > 0 {
		return given
	}
	if found := global(); len(found) > 0 {
		return found
	}
	var out []netip.Addr
	for _, cidr := range podCIDRs {
		if p, err := netip.ParsePrefix(cidr); err == nil {
			out = append(out, p.Masked().Addr().Next())
		}
	}
	return out
}

func global() []netip.Addr {
	devices, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	seen := map[bool]bool{}
	for _, d := range devices {
		if d.Flags&net.FlagUp == 0 || d.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := d.Addrs()
		if err != nil {
			continue // it went away
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil || !p.Addr().IsGlobalUnicast() || seen[p.Addr().Is4()] {
				continue
			}
			seen[p.Addr().Is4()] = true
			out = append(out, p.Addr())
		}
	}
	return out
}

// Capacity is what a machine has for pods.
func Capacity(m Machine, maxPods int64) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(m.CPUs), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(m.Memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(m.Disk, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(maxPods, resource.DecimalSI),
	}
}

// Allocatable is the capacity less what is reserved.
func Allocatable(capacity, reserved corev1.ResourceList) corev1.ResourceList {
	out := capacity.DeepCopy()
	for name, r := range reserved {
		q, ok := out[name]
		if !ok {
			continue
		}
		if q.Sub(r); q.Sign() < 0 {
			q = resource.Quantity{Format: q.Format}
		}
		out[name] = q
	}
	return out
}
