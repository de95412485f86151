package logfile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Files names the files of one attempt of a container.
type Files struct {
	Stdout string // raw; the shim appends to it
	Stderr string // raw; empty with a terminal
	Record string // how far the pump got
	Log    string // in the CRI format; rotated ones get a suffix
}

// Limits bounds the log of one container.
type Limits struct {
	MaxSize  int64 // bytes after which the log is rotated
	MaxFiles int   // including the one being written; at least 2
}

// Pump moves one attempt's output into its log.
type Pump struct {
	files  Files
	limits Limits
	watch  *Watcher
	wake   chan struct{}
	ended  chan struct{} // closed by Finish
	done   chan struct{} // closed when Run returns

	mu        sync.Mutex
	committed chan struct{}          // closed and replaced at every commit; guarded by mu
	rotations int                    // guarded by mu
	listeners map[*Listener]struct{} // guarded by mu
	finish    sync.Once
}

// Create makes the raw files, so that the shim finds them, and the empty log.
func Create(f Files) error {
	for _, dir := range []string{filepath.Dir(f.Stdout), filepath.Dir(f.Log)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, raw := range []string{f.Stdout, f.Stderr, f.Log} {
		if raw == "" {
			continue
		}
		file, err := os.OpenFile(raw, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	return nil
}

// NewPump returns a pump that is yet to Run.
func NewPump(f Files, l Limits, w *Watcher) *Pump {
	return &Pump{
		files: f, limits: l, watch: w,
		wake: make(chan struct{}, 1), ended: make(chan struct{}), done: make(chan struct{}),
		committed: make(chan struct{}), listeners: map[*Listener]struct{}{},
	}
}

// Finish tells that the shim wrote its last byte: Run moves what is left,
// removes the raw files and returns.
func (p *Pump) Finish() { p.finish.Do(func() { close(p.ended) }) }

// Done is closed when Run returned.
func (p *Pump) Done() <-chan struct{} { return p.done }

// progress returns a channel that is closed at the next commit, and how often
// the log was rotated so far.
func (p *Pump) progress() (<-chan struct{}, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.committed, p.rotations
}

// Run moves output until the attempt is finished or ctx ends. In the latter
// case another Pump continues exactly there.
func (p *Pump) Run(ctx context.Context) error {
	defer close(p.done)
	s, err := p.open()
	if err != nil {
		return fmt.Errorf("open log %s: %w", p.files.Log, err)
	}
	defer s.close()
	for {
		last := false
		select {
		case <-p.ended:
			last = true
		default:
		}
		moved, err := s.move(last)
		if err != nil {
			return fmt.Errorf("write log %s: %w", p.files.Log, err)
		}
		switch {
		case moved:
			p.publish()
			continue
		case last:
			return s.remove()
		}
		select {
		case <-p.wake:
		case <-p.ended:
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *Pump) publish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.committed)
	p.committed = make(chan struct{})
}

// source is one raw file being read.
type source struct {
	stream Stream
	file   *os.File
	offset int64 // up to here everything is in the log
	heard  int64 // up to here listeners were told
	holed  int64 // up to here the space was given back
}

// session is the open state of a running pump; only Run's goroutine uses it.
type session struct {
	pump    *Pump
	sources []*source
	record  *os.File
	log     *os.File
	size    int64
	unwatch []func()
	raw     []byte
	out     []byte
}

func (p *Pump) open() (_ *session, err error) {
	s := &session{pump: p, raw: make([]byte, 32<<10)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.record, err = os.OpenFile(p.files.Record, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	buf := make([]byte, recordSize)
	n, err := s.record.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	rec, _ := decodeRecord(buf[:n]) // an unreadable record was never written: the attempt is new
	offsets := []int64{rec.stdout, rec.stderr}
	for i, path := range []string{p.files.Stdout, p.files.Stderr} {
		if path == "" {
			continue
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		src := &source{stream: []Stream{Stdout, Stderr}[i], file: file, offset: offsets[i], heard: offsets[i]}
		s.sources = append(s.sources, src)
		unwatch, err := p.watch.add(path, p.wake)
		if err != nil {
			return nil, err
		}
		s.unwatch = append(s.unwatch, unwatch)
	}
	if err := s.openLog(rec.size); err != nil {
		return nil, err
	}
	return s, nil
}

// openLog opens the log and cuts off what was written but not recorded. A log
// shorter than the record says was rotated just before the agent died.
func (s *session) openLog(size int64) (err error) {
	if s.log, err = os.OpenFile(s.pump.files.Log, os.O_CREATE|os.O_RDWR, 0o640); err != nil {
		return err
	}
	info, err := s.log.Stat()
	if err != nil {
		return err
	}
	if info.Size() < size {
		size = 0
	}
	s.size = size
	return s.log.Truncate(size)
}

func (s *session) close() {
	for _, unwatch := range s.unwatch {
		unwatch()
	}
	for _, src := range s.sources {
		_ = src.file.Close()
	}
	if s.record != nil {
		_ = s.record.Close()
	}
	if s.log != nil {
		_ = s.log.Close()
	}
	s.pump.closeListeners()
}

// move takes one read of each source into the log.
func (s *session) move(last bool) (moved bool, err error) {
	for _, src := range s.sources {
		n, err := src.file.ReadAt(s.raw, src.offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return moved, err
		}
		if n == 0 {
			continue
		}
		s.pump.tell(src, s.raw[:n])
		out, taken := appendLines(s.out[:0], s.raw[:n], src.stream, s.stamp(src), last && n < len(s.raw))
		s.out = out
		if taken == 0 {
			continue
		}
		moved = true
		if err := s.commit(src, out, taken); err != nil {
			return moved, err
		}
	}
	return moved, nil
}

// stamp is the time of the output: now, or the file's last change when that is
// long past because no agent was there to see it.
func (s *session) stamp(src *source) time.Time {
	now := time.Now()
	if info, err := src.file.Stat(); err == nil && now.Sub(info.ModTime()) > time.Second {
		return info.ModTime()
	}
	return now
}

func (s *session) commit(src *source, out []byte, taken int) error {
	if s.size > 0 && s.size+int64(len(out)) > s.pump.limits.MaxSize {
		if err := s.rotate(); err != nil {
			return err
		}
	}
	if _, err := s.log.WriteAt(out, s.size); err != nil {
		return err
	}
	s.size += int64(len(out))
	src.offset += int64(taken)
	if err := s.save(); err != nil {
		return err
	}
	src.giveBack()
	return nil
}

// holeStep is how much read output is worth giving back to the file system.
const holeStep = 64 << 10

func (src *source) giveBack() {
	end := src.offset / 4096 * 4096
	if end-src.holed < holeStep {
		return
	}
	// A file system without holes keeps the bytes until the container ends.
	_ = unix.Fallocate(int(src.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, src.holed, end-src.holed)
	src.holed = end
}

// remove ends an attempt: its output is complete in the log.
func (s *session) remove() error {
	var errs []error
	for _, path := range []string{s.pump.files.Stdout, s.pump.files.Stderr, s.pump.files.Record} {
		if path == "" {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// rotate renames the full log and begins an empty one. The record is written
// after both: see openLog for a death in between.
func (s *session) rotate() error {
	log := s.pump.files.Log
	if err := os.Rename(log, log+"."+time.Now().UTC().Format("20060102-150405.000000000")); err != nil {
		return err
	}
	if err := s.log.Close(); err != nil {
		return err
	}
	if err := s.openLog(0); err != nil {
		return err
	}
	if err := s.save(); err != nil {
		return err
	}
	s.pump.mu.Lock()
	s.pump.rotations++
	s.pump.mu.Unlock()
	old, err := Rotated(log)
	if err != nil {
		return err
	}
	for len(old) > max(1, s.pump.limits.MaxFiles-1) {
		if err := os.Remove(old[0]); err != nil {
			return err
		}
		old = old[1:]
	}
	return nil
}

// Rotated lists the rotated files of a log, oldest first.
func Rotated(log string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(log))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(log)+".") {
			out = append(out, filepath.Join(filepath.Dir(log), e.Name()))
		}
	}
	slices.Sort(out)
	return out, nil
}

// record is how far both sides got at the last commit.
type record struct{ stdout, stderr, size int64 }

const recordSize = 28

func (r record) encode() []byte {
	b := make([]byte, 0, recordSize)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.stdout))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.stderr))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.size))
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func decodeRecord(b []byte) (record, bool) {
	if len(b) != recordSize || crc32.ChecksumIEEE(b[:24]) != binary.LittleEndian.Uint32(b[24:]) {
		return record{}, false
	}
	r := record{
		stdout: int64(binary.LittleEndian.Uint64(b)),
		stderr: int64(binary.LittleEndian.Uint64(b[8:])),
		size:   int64(binary.LittleEndian.Uint64(b[16:])),
	}
	return r, r.stdout >= 0 && r.stderr >= 0 && r.size >= 0
}

func (s *session) save() error {
	r := record{size: s.size}
	for _, src := range s.sources {
		if src.stream == Stdout {
			r.stdout = src.offset
		} else {
			r.stderr = src.offset
		}
	}
	_, err := s.record.WriteAt(r.encode(), 0)
	return err
}
