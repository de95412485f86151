package standalone

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// minKernel is the oldest Linux whose BPF has what the datapath uses: tcx links.
var minKernel = [2]int{6, 6}

// CheckMachine tells what this machine lacks to run the cluster, the first thing only:
// one clear line.
func (c Config) CheckMachine() error {
	if c.NoNode {
		return nil
	}
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("not root (uid %d): the node agent makes network namespaces, cgroups and BPF programs; run it with sudo, or with --no-node", uid)
	}
	if err := checkKernel(); err != nil {
		return err
	}
	for _, program := range []struct{ name, pkg string }{{"containerd", "containerd"}, {"runc", "runc"}} {
		if _, err := exec.LookPath(program.name); err != nil {
			return fmt.Errorf("%s is not installed; install the package %s (apt-get install %s)", program.name, program.pkg, program.pkg)
		}
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return errors.New("the kernel has no BTF (/sys/kernel/btf/vmlinux); use a kernel built with CONFIG_DEBUG_INFO_BTF")
	}
	return nil
}

func checkKernel() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("kernel version: %w", err)
	}
	return kernelNewEnough(unix.ByteSliceToString(name.Release[:]))
}

var kernelRelease = regexp.MustCompile(`^(\d+)\.(\d+)`)

// kernelNewEnough reads a release such as 6.18.44-fc or 6.1-rc1.
func kernelNewEnough(release string) error {
	parts := kernelRelease.FindStringSubmatch(release)
	if parts == nil {
		return fmt.Errorf("kernel version %q is not understood", release)
	}
	major, err1 := strconv.Atoi(parts[1])
	minor, err2 := strconv.Atoi(parts[2])
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("kernel version %q is not understood: %w", release, err)
	}
	if major < minKernel[0] || (major == minKernel[0] && minor < minKernel[1]) {
		return fmt.Errorf("kernel %s is too old: the datapath needs Linux %d.%d or newer", release, minKernel[0], minKernel[1])
	}
	return nil
}

// listened is a port and the flag that chooses it.
type listened struct {
	flag string
	port uint16
}

// ports are those that the cluster listens on.
func (c Config) ports() []listened {
	ports := []listened{{"--api-port", c.APIPort}, {"--bus-port", c.BusPort}}
	if !c.NoNode {
		ports = append(ports, listened{"--node-port", c.NodePort})
	}
	return ports
}

// checkPorts tells who else listens before anything is started. Each server listens
// again by itself; a port taken in between fails there.
func (c Config) checkPorts() error {
	for _, p := range c.ports() {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", p.port))
		if err != nil {
			return fmt.Errorf("port %d can't be used (%w); end what listens there or choose another with %s", p.port, err, p.flag)
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

// claim makes the data directory if there is none, locks it, and sees that the ports
// are free. If it fails, a directory it made is gone again.
func (c Config) claim() (lock *os.File, err error) {
	_, statErr := os.Stat(c.DataDir)
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if errors.Is(statErr, fs.ErrNotExist) {
		defer func() {
			if err != nil {
				err = errors.Join(err, os.RemoveAll(c.DataDir))
			}
		}()
	}
	if lock, err = c.lock(); err != nil {
		return nil, err
	}
	if err := errors.Join(c.checkPorts(), notePID(lock)); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// errLocked: another process holds the lock.
var errLocked = errors.New("another rutter runs")

// lock keeps a second process off the data directory, which must exist. It ends with
// the process.
func (c Config) lock() (*os.File, error) {
	f, err := os.OpenFile(c.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		err = fmt.Errorf("%w on %s; stop it first, or give another --data-dir", errLocked, c.DataDir)
	case err != nil:
		err = fmt.Errorf("lock %s: %w", c.lockFile(), err)
	default:
		return f, nil
	}
	_ = f.Close()
	return nil, err
}

// notePID writes who holds the lock into it.
func notePID(lock *os.File) error {
	if err := lock.Truncate(0); err != nil {
		return err
	}
	_, err := lock.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	return err
}

// readPID tells which process runs the cluster, 0 if none does. It makes nothing.
func (c Config) readPID() (int, error) {
	if _, err := os.Stat(c.lockFile()); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	lock, err := c.lock()
	if err == nil {
		return 0, lock.Close()
	}
	if !errors.Is(err, errLocked) {
		return 0, err
	}
	text, err := os.ReadFile(c.lockFile())
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s names no process: %w", c.lockFile(), err)
	}
	return pid, nil
}

func interrupt(pid int) error { return unix.Kill(pid, unix.SIGTERM) }
