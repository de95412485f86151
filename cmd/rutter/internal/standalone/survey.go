package standalone

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/cmd/rutter/internal/health"
)

// Survey looks at this machine, as rutter check judges it. It changes nothing.
func (c Config) Survey(ctx context.Context) (health.Host, error) {
	pid, err := c.readPID()
	if err != nil {
		return health.Host{}, err
	}
	h := health.Host{Node: !c.NoNode, Running: pid != 0, UID: os.Geteuid(), Programs: map[string]string{}, Unseen: map[string]string{}}
	see := func(check string, look func(h *health.Host) error) {
		if err := look(&h); err != nil {
			h.Unseen[check] = err.Error()
		}
	}
	see("kernel", seeKernel)
	see("capabilities", seeCapabilities)
	see("cgroup2", seeMounts)
	see("memory", seeMemory)
	see("open-files", seeFiles)
	see("inotify", seeInotify)
	see("clock", seeClock)
	see("disk", c.seeDisk)
	see("addresses", seeAddresses)
	see("data-directory", c.seeData)
	see("stream-files", c.seeStreams)
	_, err = os.Stat("/sys/kernel/btf/vmlinux")
	h.BTF = err == nil
	for _, program := range []string{"containerd", "runc"} {
		h.Programs[program], _ = exec.LookPath(program) // an empty path says that there is none
	}
	h.Ports = c.tryPorts()
	c.seeContainerd(ctx, &h)
	return h, nil
}

func seeKernel(h *health.Host) error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	h.Kernel = unix.ByteSliceToString(name.Release[:])
	if err := kernelNewEnough(h.Kernel); err != nil {
		h.KernelProblem = err.Error()
	}
	return nil
}

// needed are the capabilities without which a node does not work.
var needed = map[string]uint{"CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_BPF": unix.CAP_BPF, "CAP_SYS_CHROOT": unix.CAP_SYS_CHROOT}

func seeCapabilities(h *health.Host) error {
	text, err := field("/proc/self/status", "CapEff:")
	if err != nil {
		return err
	}
	has, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		return err
	}
	for name, bit := range needed {
		if has&(1<<bit) == 0 {
			h.Missing = append(h.Missing, name)
		}
	}
	slices.Sort(h.Missing)
	return nil
}

// field is the first word behind a line's first word.
func field(file, name string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == name {
			return words[1], nil
		}
	}
	return "", fmt.Errorf("%s has no %s", file, name)
}

func seeMounts(h *health.Host) error {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 3 {
			continue
		}
		switch {
		case words[2] == "cgroup2" && h.Cgroup2 == "":
			h.Cgroup2 = words[1]
		case words[2] == "bpf" && words[1] == "/sys/fs/bpf":
			h.BPF = true
		}
	}
	return lines.Err()
}

func seeMemory(h *health.Host) error {
	text, err := field("/proc/meminfo", "MemAvailable:")
	if err != nil {
		return err
	}
	kib, err := strconv.ParseUint(text, 10, 64)
	h.Memory = kib << 10
	return err
}

func seeFiles(h *health.Host) error {
	var limit unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	h.OpenFiles = limit.Max
	return err
}

func seeInotify(h *health.Host) error {
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		return err
	}
	h.Inotify, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	return err
}

func seeClock(h *health.Host) error {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	h.ClockSynchronised = state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0
	return err
}

// seeDisk looks at the file system that holds, or would hold, the data directory.
func (c Config) seeDisk(h *health.Host) error {
	h.Disk.Path = c.DataDir
	for {
		var s unix.Statfs_t
		err := unix.Statfs(h.Disk.Path, &s)
		if errors.Is(err, fs.ErrNotExist) && filepath.Dir(h.Disk.Path) != h.Disk.Path {
			h.Disk.Path = filepath.Dir(h.Disk.Path)
			continue
		}
		block := uint64(s.Bsize)
		h.Disk.Free, h.Disk.Total = s.Bavail*block, s.Blocks*block
		h.Disk.FreeInodes, h.Disk.AllInodes = s.Ffree, s.Files
		return err
	}
}

// seeAddresses lists the machine's networks, but for those on devices of the cluster.
func seeAddresses(h *health.Host) error {
	devices, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, d := range devices {
		if strings.HasPrefix(d.Name, "rutter") || strings.HasPrefix(d.Name, "pod") {
			continue
		}
		addresses, err := d.Addrs()
		if err != nil {
			return err
		}
		for _, a := range addresses {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil {
				h.Addresses = append(h.Addresses, prefix.Masked())
			}
		}
	}
	return nil
}

// seeData looks who may read the data directory and the keys in it.
func (c Config) seeData(h *health.Host) error {
	info, err := os.Stat(c.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	h.DataMode = info.Mode().Perm()
	return filepath.WalkDir(c.pkiDir(), func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".key" {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			h.OpenKeys = append(h.OpenKeys, path)
		}
		return err
	})
}

// seeStreams looks for files of streams that the bus has put aside.
func (c Config) seeStreams(h *health.Host) error {
	h.Aside = filepath.Join(c.busDir(), bus.DamagedDir)
	entries, err := os.ReadDir(h.Aside)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		h.Damaged = append(h.Damaged, e.Name())
	}
	return err
}

// tryPorts listens for a moment on each port of the cluster.
func (c Config) tryPorts() []health.Port {
	var out []health.Port
	for _, p := range c.ports() {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", p.port))
		found := health.Port{Flag: p.flag, Number: p.port}
		if err == nil {
			err = l.Close()
		}
		var system *os.SyscallError
		switch {
		case errors.As(err, &system):
			found.Problem = system.Err.Error()
		case err != nil:
			found.Problem = err.Error()
		}
		out = append(out, found)
	}
	return out
}

// dialPatience bounds how long a socket may take to answer.
const dialPatience = 5 * time.Second

// seeContainerd calls the containerd of a node that has been up.
func (c Config) seeContainerd(ctx context.Context, h *health.Host) {
	socket := filepath.Join(c.RunDir, c.NodeName, "containerd.sock")
	if _, err := os.Stat(socket); err != nil {
		return // it is started with the node
	}
	h.Containerd = socket
	dialer := net.Dialer{Timeout: dialPatience}
	connection, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		h.ContainerdProblem = err.Error()
		return
	}
	_ = connection.Close()
}

// Certificates are those of the cluster's parts.
func (c Config) Certificates() ([]health.Certificate, error) {
	var out []health.Certificate
	err := filepath.WalkDir(c.pkiDir(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".crt" {
			return err
		}
		text, err := os.ReadFile(path) //nolint:gosec // in a folder that is ours alone
		if err != nil {
			return err
		}
		block, _ := pem.Decode(text)
		if block == nil {
			return fmt.Errorf("%s is no certificate", path)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		name, err := filepath.Rel(c.pkiDir(), path)
		out = append(out, health.Certificate{Name: strings.TrimSuffix(name, ".crt"), Until: cert.NotAfter, Authority: cert.IsCA})
		return err
	})
	return out, err
}

// CAFile is the certificate of the cluster's authority.
func (c Config) CAFile() string { return filepath.Join(c.pkiDir(), "ca.crt") }

// EtcdState asks the etcd of the cluster that runs on the data directory.
func EtcdState(ctx context.Context, cfg Config) (health.Etcd, error) {
	client, err := Etcd(cfg)
	if err != nil {
		return health.Etcd{}, err
	}
	defer client.Close()
	members, err := client.MemberList(ctx)
	if err != nil {
		return health.Etcd{}, fmt.Errorf("etcd's members: %w", err)
	}
	s, err := client.Status(ctx, client.Endpoints()[0])
	if err != nil {
		return health.Etcd{}, fmt.Errorf("etcd's status: %w", err)
	}
	found := health.Etcd{Members: len(members.Members), Revision: s.Header.Revision, Version: s.Version, Size: s.DbSize, InUse: s.DbSizeInUse, Quota: s.DbSizeQuota, Alarms: s.Errors}
	for _, m := range members.Members {
		if m.ID == s.Leader {
			found.Leader = m.Name
		}
	}
	return found, nil
}
