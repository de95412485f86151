package logfile

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var when = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

const stamp = "2026-01-02T03:04:05.000000006Z"

func TestAppendLines(t *testing.T) {
	long := strings.Repeat("x", MaxLine)
	for name, tc := range map[string]struct {
		raw   string
		last  bool
		want  string
		taken int
	}{
		"none":              {"", false, "", 0},
		"one":               {"a\n", false, stamp + " stdout F a\n", 2},
		"two":               {"a\nb\n", false, stamp + " stdout F a\n" + stamp + " stdout F b\n", 4},
		"empty line":        {"\n", false, stamp + " stdout F \n", 1},
		"unfinished":        {"a\nb", false, stamp + " stdout F a\n", 2},
		"unfinished at end": {"a\nb", true, stamp + " stdout F a\n" + stamp + " stdout P b\n", 3},
		"just fits":         {long + "\n", false, stamp + " stdout F " + long + "\n", MaxLine + 1},
		"full, no end":      {long, false, "", 0},
		"too long":          {long + "yz\n", false, stamp + " stdout P " + long + "\n" + stamp + " stdout F yz\n", MaxLine + 3},
		"too long, no end":  {long + "y", false, stamp + " stdout P " + long + "\n", MaxLine},
		"carriage returns":  {"a\r\n", false, stamp + " stdout F a\r\n", 3},
	} {
		t.Run(name, func(t *testing.T) {
			out, taken := appendLines(nil, []byte(tc.raw), Stdout, when, tc.last)
			require.Equal(t, tc.want, string(out))
			require.Equal(t, tc.taken, taken)
		})
	}
}

func TestParseLine(t *testing.T) {
	l, err := ParseLine([]byte(stamp + " stderr P:x a b\n"))
	require.NoError(t, err)
	require.Equal(t, Line{Time: when, Stream: Stderr, Partial: true, Text: []byte("a b")}, l)
	for _, bad := range []string{"", "a", stamp, stamp + " stdout", stamp + " stdin F a", stamp + " stdout X a", "yesterday stdout F a"} {
		_, err := ParseLine([]byte(bad))
		require.Error(t, err, "%q", bad)
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte(stamp + " stdout F hello\n"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseLine(b)
		if err != nil || bytes.ContainsRune(l.Text, '\n') {
			return
		}
		tag := byte('F')
		if l.Partial {
			tag = 'P'
		}
		if y := l.Time.UTC().Year(); y < 0 || y > 9999 {
			return
		}
		again, err := ParseLine(appendLine(nil, l.Text, l.Stream, l.Time, tag))
		require.NoError(t, err)
		require.True(t, l.Time.Equal(again.Time))
		require.Equal(t, l.Text, again.Text)
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add(record{1, 2, 3}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := decodeRecord(b); ok {
			require.Equal(t, b, r.encode())
		}
	})
}

// bench is a pump with files in a temporary directory.
type bench struct {
	t     *testing.T
	files Files
	watch *Watcher
	out   *os.File
	errs  *os.File
}

func newBench(t *testing.T) *bench {
	dir := t.TempDir()
	b := &bench{t: t, files: Files{filepath.Join(dir, "out"), filepath.Join(dir, "err"), filepath.Join(dir, "pos"), filepath.Join(dir, "logs", "0.log")}}
	var err error
	b.watch, err = NewWatcher()
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.watch.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	require.NoError(t, Create(b.files))
	b.out = b.raw(b.files.Stdout)
	b.errs = b.raw(b.files.Stderr)
	return b
}

func (b *bench) raw(path string) *os.File {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = f.Close() })
	return f
}

func (b *bench) write(f *os.File, s string) {
	_, err := f.WriteString(s)
	require.NoError(b.t, err)
}

// run starts a pump; stop ends it as the agent's end does, finish as the container's.
func (b *bench) run(l Limits) (p *Pump, stop, finish func()) {
	p = NewPump(b.files, l, b.watch)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	wait := func() { require.NoError(b.t, <-done); cancel() }
	return p, func() { cancel(); wait() }, func() { p.Finish(); wait() }
}

func (b *bench) text(o Options) string {
	var out bytes.Buffer
	require.NoError(b.t, Read(context.Background(), b.files.Log, o, &out))
	return out.String()
}

var wide = Limits{MaxSize: 1 << 20, MaxFiles: 5}

func TestPumpMovesBothStreams(t *testing.T) {
	b := newBench(t)
	_, _, finish := b.run(wide)
	b.write(b.out, "one\ntwo")
	b.write(b.errs, "wrong\n")
	finish()
	require.Equal(t, "one\ntwo", b.text(Options{Tail: -1, Stream: Stdout}))
	require.Equal(t, "wrong\n", b.text(Options{Tail: -1, Stream: Stderr}))
	require.NoFileExists(t, b.files.Stdout)
	require.NoFileExists(t, b.files.Record)
}

func TestPumpIsSucceeded(t *testing.T) {
	b := newBench(t)
	for i := range 20 {
		_, stop, _ := b.run(wide)
		b.write(b.out, "line "+strconv.Itoa(i)+"\nhalf of ")
		stop()
	}
	_, _, finish := b.run(wide)
	finish()
	var want strings.Builder
	want.WriteString("line 0\n")
	for i := 1; i < 20; i++ {
		fmt.Fprintf(&want, "half of line %d\n", i)
	}
	want.WriteString("half of ") // it ended without a line end
	require.Equal(t, want.String(), b.text(Options{Tail: -1}))
}

// TestDeathAtAnyPoint undoes what was written to the log but not recorded, as
// a kill between the two leaves it.
func TestDeathAtAnyPoint(t *testing.T) {
	b := newBench(t)
	b.write(b.out, "a\nb\n")
	s, err := NewPump(b.files, wide, b.watch).open()
	require.NoError(t, err)
	out, taken := appendLines(nil, []byte("a\n"), Stdout, when, false)
	require.NoError(t, s.commit(s.sources[0], out, taken))
	_, err = s.log.WriteAt([]byte(stamp+" stdout F b\n"+stamp+" stdout F half"), s.size) // killed here
	require.NoError(t, err)
	s.close()
	_, _, finish := b.run(wide)
	finish()
	require.Equal(t, "a\nb\n", b.text(Options{Tail: -1}))
}

func TestDeathDuringRotation(t *testing.T) {
	b := newBench(t)
	b.write(b.out, "a\nb\n")
	s, err := NewPump(b.files, wide, b.watch).open()
	require.NoError(t, err)
	out, taken := appendLines(nil, []byte("a\n"), Stdout, when, false)
	require.NoError(t, s.commit(s.sources[0], out, taken))
	s.close()
	require.NoError(t, os.Rename(b.files.Log, b.files.Log+".20260102-000000")) // killed here
	_, _, finish := b.run(wide)
	finish()
	require.Equal(t, "a\nb\n", b.text(Options{Tail: -1}))
}

func TestRotation(t *testing.T) {
	b := newBench(t)
	_, stop, _ := b.run(Limits{MaxSize: 4096, MaxFiles: 3})
	for i := range 500 {
		b.write(b.out, "line number "+strconv.Itoa(i)+"\n")
	}
	stop()
	_, _, finish := b.run(Limits{MaxSize: 4096, MaxFiles: 3})
	finish()
	old, err := Rotated(b.files.Log)
	require.NoError(t, err)
	require.LessOrEqual(t, len(old), 2)
	lines := strings.Split(strings.TrimSpace(b.text(Options{Tail: -1})), "\n")
	for i := range lines {
		require.Equal(t, "line number "+strconv.Itoa(500-len(lines)+i), lines[i])
	}
}

func TestRawOutputTakesNoSpace(t *testing.T) {
	b := newBench(t)
	p, stop, _ := b.run(Limits{MaxSize: 64 << 20, MaxFiles: 2})
	line := strings.Repeat("x", 1023) + "\n"
	for range 1024 {
		b.write(b.out, line)
	}
	require.Eventually(t, func() bool {
		progress, _ := p.progress()
		_ = progress
		return strings.Count(b.text(Options{Tail: -1}), "\n") == 1024
	}, 10*time.Second, 5*time.Millisecond)
	stop()
	require.Less(t, blocks(t, b.files.Stdout), int64(256<<10), "what is in the log is given back")
}

func TestReadOptions(t *testing.T) {
	b := newBench(t)
	var content []byte
	for i := range 10 {
		content = appendLine(content, []byte(strconv.Itoa(i)), Stdout, when.Add(time.Duration(i)*time.Second), 'F')
	}
	content = append(content, "damaged\n"...)
	content = appendLine(content, []byte("par"), Stderr, when.Add(time.Minute), 'P')
	content = appendLine(content, []byte("tial"), Stderr, when.Add(time.Minute), 'F')
	require.NoError(t, os.WriteFile(b.files.Log, content, 0o600))
	for name, tc := range map[string]struct {
		o    Options
		want string
	}{
		"all":     {Options{Tail: -1}, "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\npartial\n"},
		"none":    {Options{Tail: 0}, ""},
		"tail":    {Options{Tail: 4}, "9\npartial\n"},
		"more":    {Options{Tail: 100}, "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\npartial\n"},
		"since":   {Options{Tail: -1, Since: when.Add(8 * time.Second)}, "8\n9\npartial\n"},
		"limit":   {Options{Tail: -1, LimitBytes: 3}, "0\n1"},
		"stream":  {Options{Tail: -1, Stream: Stderr}, "partial\n"},
		"stamped": {Options{Tail: 2, Timestamps: true}, "2026-01-02T03:05:05.000000006Z partial\n"},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tc.want, b.text(tc.o)) })
	}
}

// lineWriter tells each write.
type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) { w <- string(p); return len(p), nil }

func TestFollowThroughRotation(t *testing.T) {
	b := newBench(t)
	p, _, finish := b.run(Limits{MaxSize: 4096, MaxFiles: 2})
	got := make(lineWriter, 1000)
	done := make(chan error, 1)
	go func() { done <- Read(context.Background(), b.files.Log, Options{Tail: -1, Pump: p}, got) }()
	for i := range 300 {
		want := "number " + strconv.Itoa(i) + "\n"
		b.write(b.out, want)
		require.Equal(t, want, <-got)
	}
	finish()
	require.NoError(t, <-done)
}

func TestListen(t *testing.T) {
	b := newBench(t)
	p, _, finish := b.run(wide)
	l := p.Listen()
	b.write(b.out, "prompt> ")
	require.Equal(t, Chunk{Stdout, []byte("prompt> ")}, <-l.C(), "a listener hears unfinished lines")
	b.write(b.out, "yes\n")
	require.Equal(t, Chunk{Stdout, []byte("yes\n")}, <-l.C())
	finish()
	_, open := <-l.C()
	require.False(t, open)
	p.Unlisten(l)
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	return st.Blocks * 512
}
