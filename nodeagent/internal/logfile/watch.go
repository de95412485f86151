package logfile

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Watcher tells pumps that their raw files grew. One serves a whole node.
type Watcher struct {
	file *os.File

	mu    sync.Mutex
	wakes map[int32]chan struct{} // by watch descriptor; guarded by mu
}

// NewWatcher opens a watcher. Close it after Run returned.
func NewWatcher() (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open inotify: %w", err)
	}
	return &Watcher{file: os.NewFile(uintptr(fd), "inotify"), wakes: map[int32]chan struct{}{}}, nil
}

// Run delivers wake-ups until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.file.Close() })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read inotify: %w", err)
		}
		w.dispatch(buf[:n])
	}
}

// dispatch wakes the pumps of all events in buf. After an overflow it wakes all.
func (w *Watcher) dispatch(buf []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(buf) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(buf))
		mask := binary.NativeEndian.Uint32(buf[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[12:]))
		if mask&unix.IN_Q_OVERFLOW != 0 {
			for _, wake := range w.wakes {
				poke(wake)
			}
		} else if wake, ok := w.wakes[wd]; ok {
			poke(wake)
		}
		buf = buf[min(size, len(buf)):]
	}
}

// add wakes a pump whenever the file at path grows; the result ends that.
func (w *Watcher) add(path string, wake chan struct{}) (remove func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	raw, err := w.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var wd int
	if cerr := raw.Control(func(fd uintptr) { wd, err = unix.InotifyAddWatch(int(fd), path, unix.IN_MODIFY) }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	w.wakes[int32(wd)] = wake
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.wakes, int32(wd))
		_ = raw.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(wd)) })
	}, nil
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is awake already
	}
}
