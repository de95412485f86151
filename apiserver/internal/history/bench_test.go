package history

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// go test ./apiserver/internal/history -run '^$' -bench . -benchtime 20x -count 10 | benchstat -
var (
	benchEvents  = flag.Int("events", 1_000_000, "that the log of BenchmarkPast has")
	benchObjects = flag.Int("objects", 10_000, "that live at any instant of it")
)

const benchBody = 1800

// upToDate is a feed and a relay that never lag.
type upToDate struct{ rev int64 }

func (u *upToDate) Revision() int64                        { return u.rev }
func (u *upToDate) WaitFor(context.Context, int64) error   { return nil }
func (u *upToDate) current(context.Context) (int64, error) { return u.rev, nil }

// benchLog is a history of random changes, with its keyframes.
type benchLog struct {
	*History
	server *bus.Server
	client *bus.Client
	window *bus.Window
	live   *upToDate
	view   *view.View
	first  int64
	epoch  string
	rng    *rand.Rand
	filler string
}

func newBenchLog(b *testing.B, events int) *benchLog {
	b.Helper()
	cfg := bus.DefaultServerConfig(b.TempDir())
	cfg.MaxStore = 40 << 30
	server, err := bus.NewServer(cfg, zerolog.Nop())
	require.NoError(b, err)
	require.NoError(b, server.Start(b.Context()))
	b.Cleanup(server.Close)
	streams := bus.DefaultStreamsConfig()
	streams.ArchiveBytes = 16 << 30
	l := &benchLog{server: server, live: &upToDate{rev: 1}, rng: rand.New(rand.NewPCG(1, 2)), filler: filler()}
	l.client, err = bus.Connect(b.Context(), bus.ClientConfig{Name: "bench", Server: server, Streams: streams}, zerolog.Nop())
	require.NoError(b, err)
	b.Cleanup(l.client.Close)
	made, err := l.client.MakeStreams(b.Context(), 1, 1)
	require.NoError(b, err)
	l.epoch = made.Epoch
	head, err := l.client.Head(b.Context(), bus.StreamHistory)
	require.NoError(b, err)
	l.window, err = l.client.OpenWindow(head.Seq, bus.DefaultWindow, nil)
	require.NoError(b, err)
	b.Cleanup(l.window.Close)
	l.view = view.New(l.live.WaitFor)
	l.History = New(Parts{Bus: l.client, Frames: l.client, Feed: l.live, Relay: l.live, View: l.view, Revision: l.live.current}, DefaultConfig(), zerolog.Nop())
	l.first = l.live.rev + 1
	for n := range events {
		key := n
		if n >= *benchObjects {
			key = l.rng.IntN(*benchObjects)
		}
		l.write1(b, key)
		if (n+1)%DefaultConfig().KeyframeEvents == 0 {
			l.settleAll(b)
			held, err := l.look(b.Context())
			require.NoError(b, err)
			require.NoError(b, l.write(b.Context(), held))
			l.pack(b)
		}
	}
	l.settleAll(b)
	l.pack(b)
	return l
}

// pack packs the log as it grows, as Run does.
func (l *benchLog) pack(b *testing.B) {
	b.Helper()
	time.Sleep(quiet) // packing gives way to what is being published
	require.NoError(b, l.client.PackArchive(b.Context()))
}

// quiet is for longer than a change makes readers give way.
const quiet = 1100 * time.Millisecond

func (l *benchLog) settleAll(b *testing.B) {
	b.Helper()
	require.NoError(b, l.window.Flush(b.Context()))
	require.NoError(b, l.client.WaitMirror(b.Context(), bus.StreamArchive))
}

// filler makes objects as long as pods are, and no easier to compress.
func filler() string {
	rng := rand.New(rand.NewPCG(3, 4))
	var s strings.Builder
	for s.Len() < benchBody {
		fmt.Fprintf(&s, `"field%d":"%x",`, rng.IntN(90), rng.Uint32())
	}
	return s.String()
}

func (l *benchLog) write1(b *testing.B, n int) {
	b.Helper()
	l.live.rev++
	key := schemas.Key{Resource: "pods", Namespace: "default", Name: fmt.Sprint("pod-", n)}
	object := fmt.Appendf(nil, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":%q,"namespace":"default"},"spec":{%s"rev":%d}}`, key.Name, l.filler, l.live.rev)
	header := schemas.Header{V: 1, Time: time.Now().UTC(), Verb: "update", User: "system:serviceaccount:kube-system:bench", Manager: "bench", Agent: "bench/1.0", Request: "6ac1f3f6-7a2d-4f42-9f53-cd83f3d9c8aa"}
	e := schemas.Event{Rev: l.live.rev, Cnt: 1, Type: schemas.Modified, Key: key, PrevRev: l.live.rev - 1, Header: header, Object: object, Epoch: l.epoch}
	require.NoError(b, l.window.Publish(b.Context(), key.Subject(), e, 0))
	l.view.Apply(feed.Batch{Rev: e.Rev, Entries: []feed.Entry{{Rev: e.Rev, Cnt: 1, Key: key, Type: feed.Modified, Object: object}}})
}

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func BenchmarkPast(b *testing.B) {
	l := newBenchLog(b, *benchEvents)
	b.Run("first answer", l.firstAnswer)
	b.Run("repeated answer", l.repeatedAnswer)
	b.Run("replay", l.replayAll)
	b.Run("live beside a replay", l.liveBeside)
}

// instant is any at which all objects live.
func (l *benchLog) instant() Instant {
	first := l.first + int64(*benchObjects)
	return Instant{Rev: first + l.rng.Int64N(l.live.rev-first), Time: time.Now()}
}

func (l *benchLog) firstAnswer(b *testing.B) {
	var took []time.Duration
	used := cpu(b)
	for b.Loop() {
		l.states = newStates(DefaultConfig().CacheBytes)
		i := l.instant()
		started := time.Now()
		found, err := l.Resolve(b.Context(), Point{Text: fmt.Sprint("rev-", i.Rev), Rev: i.Rev})
		require.NoError(b, err)
		past, err := l.At(b.Context(), found)
		require.NoError(b, err)
		require.Equal(b, *benchObjects, past.Objects)
		took = append(took, time.Since(started))
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms-p50")
	b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "ms-max")
	b.ReportMetric(float64((cpu(b)-used).Milliseconds())/float64(b.N), "cpu-ms")
}

func (l *benchLog) repeatedAnswer(b *testing.B) {
	i := l.instant()
	p := Point{Text: fmt.Sprint("rev-", i.Rev), Rev: i.Rev}
	_, err := l.At(b.Context(), i)
	require.NoError(b, err)
	for b.Loop() {
		found, err := l.Resolve(b.Context(), p)
		require.NoError(b, err)
		_, err = l.At(b.Context(), found)
		require.NoError(b, err)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/1000, "ms/answer")
}

func (l *benchLog) replayAll(b *testing.B) {
	n, used := 0, cpu(b)
	for b.Loop() {
		err := l.client.ReadRange(b.Context(), bus.Range{Fleeting: true}, func(schemas.Event) error { n++; return nil })
		require.NoError(b, err)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(n)/(cpu(b)-used).Seconds(), "events/s/core")
}

// Live changes are measured with and without a replay by short turns, so that whatever else
// the machine does meets both alike.
const (
	liveTurns   = 24
	liveChanges = 250 // in each turn
	livePause   = 2 * time.Millisecond
)

// liveBeside measures how long live changes take to a tap, alone and beside a replay of all
// there is that never ends. What the turns alone differ by among themselves is noise.
func (l *benchLog) liveBeside(b *testing.B) {
	tap := l.tap(b)
	var before, beside, after []time.Duration
	replayed, during := 0, time.Duration(0)
	for b.Loop() {
		for range liveTurns {
			before = append(before, l.changes(b, tap)...)
			stop := l.replayForever(b, &replayed)
			started := time.Now()
			beside = append(beside, l.changes(b, tap)...)
			stop()
			during += time.Since(started)
			after = append(after, l.changes(b, tap)...)
		}
	}
	b.ReportMetric(0, "ns/op")
	alone := slices.Concat(before, after)
	for name, took := range map[string][]time.Duration{"alone": alone, "beside": beside} {
		b.ReportMetric(float64(part(took, 50).Microseconds()), name+"-us-p50")
		b.ReportMetric(float64(part(took, 99).Microseconds()), name+"-us-p99")
	}
	b.ReportMetric(float64(part(beside, 50))/float64(part(alone, 50)), "p50-ratio")
	b.ReportMetric(float64(part(beside, 99))/float64(part(alone, 99)), "p99-ratio")
	b.ReportMetric(float64(part(after, 99))/float64(part(before, 99)), "p99-noise")
	b.ReportMetric(float64(replayed)/during.Seconds(), "replayed/s")
}

// part is what so many percent do not exceed.
func part(took []time.Duration, percent int) time.Duration {
	slices.Sort(took)
	return took[len(took)*percent/100]
}

// replayForever reads all there is, again and again, until it is stopped. It returns when
// the replay is running.
func (l *benchLog) replayForever(b *testing.B, events *int) (stop func()) {
	ctx, cancel := context.WithCancel(b.Context())
	running, done := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(running) })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = l.client.ReadRange(ctx, bus.Range{Fleeting: true}, func(schemas.Event) error { *events++; first(); return ctx.Err() }) // it is cut off
		}
	}()
	<-running
	return func() { cancel(); <-done }
}

// tap follows the log from now on, over a connection of its own, and tells when each
// revision came.
func (l *benchLog) tap(b *testing.B) <-chan int64 {
	b.Helper()
	c, err := bus.Connect(b.Context(), bus.ClientConfig{Name: "tap", Server: l.server}, zerolog.Nop())
	require.NoError(b, err)
	head, err := c.Head(b.Context(), bus.StreamArchive)
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	seen, ready, done := make(chan int64, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		live := bus.Range{From: head.Seq + 1, Follow: true, Ready: sync.OnceFunc(func() { close(ready) })}
		_ = c.ReadRange(ctx, live, func(e schemas.Event) error { // it is cut off
			seen <- e.Rev
			return nil
		})
	}()
	b.Cleanup(func() { cancel(); <-done; c.Close() })
	<-ready
	return seen
}

// changes makes one turn of changes, one after the other.
func (l *benchLog) changes(b *testing.B, tap <-chan int64) []time.Duration {
	b.Helper()
	took := make([]time.Duration, 0, liveChanges)
	tick := time.NewTicker(livePause)
	defer tick.Stop()
	for range liveChanges {
		<-tick.C
		started := time.Now()
		l.write1(b, l.rng.IntN(*benchObjects))
		for <-tap != l.live.rev {
		}
		took = append(took, time.Since(started))
	}
	return took
}
