package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/env"
	"github.com/rutter-project/rutter/nodeagent/internal/netns"
)

// Dirs are the places of one pod's volumes. Memory lies on a tmpfs.
type Dirs struct {
	Disk   string
	Memory string
}

// Set holds the volumes of one pod. Its methods may be called from any goroutine.
type Set struct {
	dirs Dirs
	src  Source

	writing sync.Mutex // held while volumes are made or written anew
	mu      sync.Mutex
	paths   map[string]string // volume name to its place on the host; guarded by mu
}

// NewSet returns the volumes of a pod; Setup makes them.
func NewSet(dirs Dirs, src Source) *Set {
	return &Set{dirs: dirs, src: src, paths: map[string]string{}}
}

// Path is where a volume lies on the host; ok is false before Setup made it.
func (s *Set) Path(name string) (path string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path, ok = s.paths[name]
	return path, ok
}

func (s *Set) place(name, path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paths[name] = path
}

// Setup makes all volumes of the pod, or finds them made. refresh is when
// Setup must be called again; zero means only after a change. Called again it
// writes the content of API volumes anew where it changed. stale tells why some
// content is older than it should be.
func (s *Set) Setup(ctx context.Context, pod *corev1.Pod, facts env.Facts) (refresh time.Time, stale, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	var group *int64
	if sc := pod.Spec.SecurityContext; sc != nil {
		group = sc.FSGroup
	}
	all := content{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		one, err := s.one(ctx, pod, facts, v, group)
		if err != nil {
			return time.Time{}, nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		all.refreshBy(one.refresh)
		for _, why := range one.stale {
			all.stale = append(all.stale, fmt.Errorf("volume %q: %w", v.Name, why))
		}
	}
	return all.refresh, errors.Join(all.stale...), nil
}

func (s *Set) one(ctx context.Context, pod *corev1.Pod, facts env.Facts, v *corev1.Volume, group *int64) (content, error) {
	c, fromAPI, err := payload(ctx, s.src, pod, facts, v)
	if err != nil {
		return content{}, err
	}
	if fromAPI {
		dir := filepath.Join(s.dirs.Memory, v.Name)
		if _, err := Write(dir, c.files, group); err != nil {
			return content{}, err
		}
		s.place(v.Name, dir)
		return c, nil
	}
	var path string
	switch {
	case v.EmptyDir != nil:
		path, err = s.emptyDir(v, group)
	case v.HostPath != nil:
		path, err = v.HostPath.Path, hostPath(v.HostPath)
	default:
		err = &UnsupportedError{"volume type " + kindOf(v)}
	}
	if err != nil {
		return content{}, err
	}
	s.place(v.Name, path)
	return content{}, nil
}

// kindOf names the type of a volume this agent does not make.
func kindOf(v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return "persistentVolumeClaim"
	case v.CSI != nil:
		return "csi"
	case v.Ephemeral != nil:
		return "ephemeral"
	case v.Image != nil:
		return "image"
	case v.NFS != nil:
		return "nfs"
	case v.ISCSI != nil:
		return "iscsi"
	default:
		return "in-tree"
	}
}

func (s *Set) emptyDir(v *corev1.Volume, group *int64) (string, error) {
	dir := filepath.Join(s.dirs.Disk, v.Name)
	switch v.EmptyDir.Medium {
	case corev1.StorageMediumDefault:
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	case corev1.StorageMediumMemory:
		dir = filepath.Join(s.dirs.Memory, "..empty_"+v.Name)
		size := int64(0)
		if q := v.EmptyDir.SizeLimit; q != nil {
			size = q.Value()
		}
		if err := Tmpfs(dir, size); err != nil {
			return "", err
		}
	default:
		return "", &UnsupportedError{"emptyDir medium " + string(v.EmptyDir.Medium)}
	}
	mode := fs.FileMode(0o777)
	if group != nil {
		if err := os.Lchown(dir, -1, int(*group)); err != nil {
			return "", err
		}
		mode |= fs.ModeSetgid
	}
	return dir, os.Chmod(dir, mode)
}

// Tmpfs mounts a tmpfs at dir unless one is there. size 0 means the kernel's default.
func Tmpfs(dir string, size int64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	mounted, err := isMount(dir)
	if err != nil || mounted {
		return err
	}
	data := "mode=0755"
	if size > 0 {
		data += ",size=" + strconv.FormatInt(size, 10)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
	}
	return nil
}

// isMount reports whether dir is the root of a mount.
func isMount(dir string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil {
		return false, fmt.Errorf("stat %s: %w", dir, err)
	}
	return st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// hostPath makes or checks a path of the host by its type.
func hostPath(h *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	switch kind {
	case corev1.HostPathUnset:
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if _, err := os.Stat(h.Path); errors.Is(err, os.ErrNotExist) {
			return os.MkdirAll(h.Path, 0o755)
		}
	case corev1.HostPathFileOrCreate:
		if _, err := os.Stat(h.Path); errors.Is(err, os.ErrNotExist) {
			f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
	default: // the others must exist
	}
	info, err := os.Stat(h.Path)
	if err != nil {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	m, ok := info.Mode(), false
	switch kind {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		ok = m.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		ok = m.IsRegular()
	case corev1.HostPathSocket:
		ok = m&fs.ModeSocket != 0
	case corev1.HostPathCharDev:
		ok = m&fs.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		ok = m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0
	default:
		return &UnsupportedError{"hostPath type " + string(kind)}
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, kind)
	}
	return nil
}

// SubPath opens path inside the volume at root, making missing directories,
// and pins it at pin, so that nobody can exchange it for a link that leaves
// the volume before the container is started.
func SubPath(root, path, pin string) error {
	fd, err := openInside(root, path)
	if err != nil {
		return fmt.Errorf("subPath %q: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(pin), 0o700); err != nil {
		return err
	}
	_ = unix.Unmount(pin, unix.MNT_DETACH) // of an earlier attempt; usually there is none
	_ = os.Remove(pin)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(pin, 0o700)
	} else {
		err = os.WriteFile(pin, nil, 0o600)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), pin, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("pin subPath %q: %w", path, err)
	}
	return nil
}

// openInside opens a path below root without ever leaving it, and makes what
// is missing as directories.
func openInside(root, path string) (int, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(dir) }()
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(dir, path, &how)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	parent := filepath.Dir(path)
	up, err := openInside(root, parent)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(up) }()
	if err := unix.Mkdirat(up, filepath.Base(path), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return unix.Openat2(dir, path, &how)
}

// Teardown removes everything below the pod's directories.
func Teardown(dirs Dirs) error {
	for _, dir := range []string{dirs.Memory, dirs.Disk} {
		if err := netns.UnmountBelow(dir); err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}
