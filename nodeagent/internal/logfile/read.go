package logfile

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// Options says which lines to read and how to show them.
type Options struct {
	Tail       int64     // lines from the end; negative means all
	Since      time.Time // earlier lines are left out
	Timestamps bool
	LimitBytes int64  // 0 means no limit
	Stream     Stream // empty means both
	Pump       *Pump  // set to follow: reading ends when the pump does
}

// Read writes the text of a log's lines to w, rotated files first. It returns
// nil at the end, when the limit is reached, or when ctx ends.
func Read(ctx context.Context, log string, o Options, w io.Writer) error {
	paths, err := Rotated(log)
	if err != nil {
		return err
	}
	var progress <-chan struct{}
	var rotations int
	if o.Pump != nil {
		progress, rotations = o.Pump.progress()
	}
	r := &reader{opts: o, w: w, left: o.LimitBytes, lineStart: true}
	start, skip, err := locateTail(append(paths, log), o)
	if err != nil {
		return err
	}
	files := append(paths, log)[start:]
	for i, path := range files {
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // rotated away, or nothing was ever written
		}
		if err != nil {
			return err
		}
		if i == 0 {
			_, err = f.Seek(skip, io.SeekStart)
		}
		if err == nil {
			err = r.copy(f)
		}
		if i == len(files)-1 && err == nil && o.Pump != nil {
			return r.follow(ctx, log, f, progress, rotations)
		}
		_ = f.Close()
		if err != nil {
			return endOf(err)
		}
	}
	return nil
}

var errLimit = errors.New("byte limit reached")

func endOf(err error) error {
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

// reader formats lines for one request.
type reader struct {
	opts      Options
	w         io.Writer
	left      int64
	lineStart bool   // the next text begins a line of the container
	rest      []byte // an incomplete line at the end of what was read
}

// follow keeps reading f, and the logs that replace it, as the pump writes them.
func (r *reader) follow(ctx context.Context, log string, f *os.File, progress <-chan struct{}, rotations int) error {
	defer func() { _ = f.Close() }()
	for {
		ended := false
		select {
		case <-progress:
		case <-r.opts.Pump.Done():
			ended = true
		case <-ctx.Done():
			return nil
		}
		upcoming, now := r.opts.Pump.progress()
		if err := r.copy(f); err != nil {
			return endOf(err)
		}
		if now != rotations {
			next, err := r.catchUp(log, f)
			_ = f.Close()
			if err != nil {
				return endOf(err)
			}
			f = next
		}
		if ended {
			return nil
		}
		progress, rotations = upcoming, now
	}
}

// catchUp writes the logs that followed f, which was rotated, and returns the
// newest one, open.
func (r *reader) catchUp(log string, f *os.File) (*os.File, error) {
	paths, err := Rotated(log)
	if err != nil {
		return nil, err
	}
	before, err := f.Stat()
	if err != nil {
		return nil, err
	}
	for i, path := range paths {
		if info, err := os.Stat(path); err == nil && os.SameFile(info, before) {
			paths = paths[i+1:]
			break
		}
	}
	for _, path := range append(paths, log) {
		next, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed by a later rotation
		}
		if err != nil {
			return nil, err
		}
		if err := r.copy(next); err != nil {
			return nil, errors.Join(err, next.Close())
		}
		if path == log {
			return next, nil
		}
		_ = next.Close()
	}
	return nil, os.ErrNotExist
}

// copy writes all complete lines from f's position on.
func (r *reader) copy(f io.Reader) error {
	b := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := b.ReadSlice('\n')
		if err == nil && len(r.rest) == 0 {
			if err := r.line(line); err != nil {
				return err
			}
			continue
		}
		r.rest = append(r.rest, line...)
		switch {
		case err == nil:
			whole := r.rest
			r.rest = nil
			if err := r.line(whole); err != nil {
				return err
			}
		case errors.Is(err, io.EOF):
			return nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

func (r *reader) line(b []byte) error {
	l, err := ParseLine(b)
	if err != nil {
		return nil // a damaged line is no reason to hide the others
	}
	if l.Time.Before(r.opts.Since) || r.opts.Stream != "" && r.opts.Stream != l.Stream {
		return nil
	}
	var out []byte
	if r.opts.Timestamps && r.lineStart {
		out = append(l.Time.AppendFormat(out, time.RFC3339Nano), ' ')
	}
	out = append(out, l.Text...)
	if !l.Partial {
		out = append(out, '\n')
	}
	r.lineStart = !l.Partial
	if r.opts.LimitBytes > 0 {
		out = out[:min(int64(len(out)), r.left)]
		r.left -= int64(len(out))
	}
	if _, err := r.w.Write(out); err != nil {
		return fmt.Errorf("send log: %w", err)
	}
	if r.opts.LimitBytes > 0 && r.left == 0 {
		return errLimit
	}
	return nil
}

// locateTail finds the file and offset at which the last o.Tail lines begin.
func locateTail(paths []string, o Options) (index int, offset int64, err error) {
	if o.Tail < 0 {
		return 0, 0, nil
	}
	want := o.Tail
	for i := len(paths) - 1; i >= 0; i-- {
		offset, found, err := tailOffset(paths[i], want)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		if found >= want || i == 0 {
			return i, offset, nil
		}
		want -= found
	}
	return 0, 0, nil
}

// tailOffset returns where the last n lines of a file begin and how many of
// them it has. It reads backwards, block by block.
func tailOffset(path string, n int64) (offset, found int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = f.Close() }()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	if n == 0 {
		return end, 0, nil
	}
	buf := make([]byte, 64<<10)
	for pos := end; pos > 0; {
		size := min(int64(len(buf)), pos)
		pos -= size
		if _, err := f.ReadAt(buf[:size], pos); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		for block := buf[:size]; ; {
			i := bytes.LastIndexByte(block, '\n')
			if i < 0 {
				break
			}
			if at := pos + int64(i) + 1; at != end { // the last line's own end begins nothing
				if found++; found == n {
					return at, found, nil
				}
			}
			block = block[:i]
		}
	}
	if end > 0 {
		found++
	}
	return 0, found, nil
}

// TailBytes returns at most max bytes and lines of the end of a log's text, for
// termination messages.
func TailBytes(ctx context.Context, log string, lines, max int64) (string, error) {
	var b bytes.Buffer
	if err := Read(ctx, log, Options{Tail: lines}, &b); err != nil {
		return "", err
	}
	out := b.Bytes()
	if int64(len(out)) > max {
		out = out[int64(len(out))-max:]
	}
	return string(slices.Clone(out)), nil
}
