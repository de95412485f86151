// Package netns makes, pins and enters Linux namespaces from Go.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Do calls fn on a thread that is inside the network namespace at path. An
// empty path means the caller's own namespace. fn must not start goroutines
// that depend on the namespace; sockets it opens keep it.
func Do(path string, fn func() error) error {
	if path == "" {
		return fn()
	}
	target, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer func() { _ = target.Close() }()
	done := make(chan error, 1)
	go func() { done <- onThread(target, fn) }()
	return <-done
}

// onThread runs in its own goroutine. A thread that can not go back to its
// namespace stays locked, so the runtime ends it with the goroutine.
func onThread(target *os.File, fn func() error) error {
	runtime.LockOSThread()
	self, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer func() { _ = self.Close() }()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	ferr := fn()
	if err := unix.Setns(int(self.Fd()), unix.CLONE_NEWNET); err != nil {
		return errors.Join(ferr, fmt.Errorf("leave network namespace: %w", err))
	}
	runtime.UnlockOSThread()
	return ferr
}

// Dial connects from inside the network namespace at path. The address must be
// an IP address and a port.
func Dial(ctx context.Context, path, network, address string) (conn net.Conn, err error) {
	err = Do(path, func() error {
		var derr error
		conn, derr = (&net.Dialer{}).DialContext(ctx, network, address)
		return derr
	})
	return conn, err
}

// Pins names the files that hold a pod's namespaces; empty means the host's.
type Pins struct {
	IPC string
	UTS string
}

// Pin makes the namespaces that p names and are not pinned yet. The host name
// is set in a new UTS namespace.
func Pin(p Pins, hostname string) error {
	var missing Pins
	flags := 0
	if p.IPC != "" && !Pinned(p.IPC) {
		missing.IPC, flags = p.IPC, flags|unix.CLONE_NEWIPC
	}
	if p.UTS != "" && !Pinned(p.UTS) {
		missing.UTS, flags = p.UTS, flags|unix.CLONE_NEWUTS
	}
	if flags == 0 {
		return nil
	}
	done := make(chan error, 1)
	go func() { // the thread is never unlocked, so it ends with the goroutine
		runtime.LockOSThread()
		done <- pinHere(missing, flags, hostname)
	}()
	return <-done
}

func pinHere(p Pins, flags int, hostname string) error {
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if p.UTS != "" {
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
	}
	for kind, path := range map[string]string{"ipc": p.IPC, "uts": p.UTS} {
		if path == "" {
			continue
		}
		if err := bind("/proc/thread-self/ns/"+kind, path); err != nil {
			return err
		}
	}
	return nil
}

// PinNet makes a network namespace with only its loopback device up and pins
// it at path, unless it is pinned already.
func PinNet(path string) error {
	if Pinned(path) {
		return nil
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("unshare: %w", err)
			return
		}
		if err := loopbackUp(); err != nil {
			done <- err
			return
		}
		done <- bind("/proc/thread-self/ns/net", path)
	}()
	return <-done
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	return nil
}

func bind(source, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	_ = f.Close()
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin namespace at %s: %w", path, err)
	}
	return nil
}

// Pinned reports whether path holds a namespace.
func Pinned(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Unpin lets go of the namespace at path. A path that holds none is removed.
func Unpin(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unpin %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// UnmountBelow detaches every mount at or below dir, the innermost first.
func UnmountBelow(dir string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape(fields[4])
		if point == dir || strings.HasPrefix(point, dir+"/") {
			found = append(found, point)
		}
	}
	var errs []error
	for i := len(found) - 1; i >= 0; i-- {
		if err := unix.Unmount(found[i], unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", found[i], err))
		}
	}
	return errors.Join(errs...)
}

// unescape undoes mountinfo's octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
