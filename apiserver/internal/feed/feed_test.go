package feed

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/rutter-project/rutter/apiserver/internal/feed/feedtest"
	"github.com/rutter-project/rutter/schemas"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc.(*serverWatchStream).sendLoop"),
		goleak.IgnoreAnyFunction("go.etcd.io/etcd/client/pkg/v3/logutil.(*MergeLogger).outputLoop"),
	)
}

// recorder is a sink that keeps the state and every entry it was given.
type recorder struct {
	mu      sync.Mutex
	resets  []int64
	state   map[schemas.Key]Entry
	entries []Entry
	rev     int64
	onReset func()
}

func (r *recorder) Reset(rev int64, entries []Entry) error {
	if r.onReset != nil {
		r.onReset()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resets = append(r.resets, rev)
	r.rev = rev
	r.state = map[schemas.Key]Entry{}
	for _, e := range entries {
		r.state[e.Key] = e
	}
	return nil
}

func (r *recorder) Apply(b Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, b.Entries...)
	r.rev = b.Rev
	for _, e := range b.Entries {
		if e.Type == Deleted {
			delete(r.state, e.Key)
		} else {
			r.state[e.Key] = e
		}
	}
}

func (r *recorder) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, e := range r.entries {
		out = append(out, fmt.Sprintf("%d/%d %s %s", e.Ord, e.Cnt, e.Type, e.Key.Name))
	}
	return out
}

// run starts a feed with one recording sink and stops it with the test.
func run(t *testing.T, etcd *feedtest.Etcd, cfg Config) (*Feed, *recorder) {
	t.Helper()
	return runWith(t, etcd.Client, cfg)
}

func runWith(t *testing.T, cli *clientv3.Client, cfg Config) (*Feed, *recorder) {
	t.Helper()
	f := NewWithConfig(cli, cfg, zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel))
	r := &recorder{}
	f.Subscribe(r)
	start(t, f)
	require.NoError(t, f.WaitFor(t.Context(), 1))
	return f, r
}

func start(t *testing.T, f *Feed) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

func TestFeedDeliversSnapshotThenEveryRevision(t *testing.T) {
	etcd := feedtest.Start(t)
	ctx := t.Context()
	for i := range 5 {
		etcd.Put(ctx, t, feedtest.PodKey(fmt.Sprint("old", i)), "{}")
	}
	cfg := DefaultConfig()
	cfg.PageSize = 2
	f, r := run(t, etcd, cfg)
	require.Len(t, r.state, 5)

	etcd.Put(ctx, t, feedtest.PodKey("a"), `{"x":1}`)
	prev := etcd.Put(ctx, t, feedtest.PodKey("a"), `{"x":2}`)
	etcd.Txn(ctx, t, feedtest.PutOp(t, feedtest.PodKey("b"), "{}"), clientv3.OpPut("/rutter/other", "x"),
		feedtest.PutOp(t, feedtest.PodKey("c"), "{}"))
	last := etcd.Delete(ctx, t, feedtest.PodKey("a"))
	require.NoError(t, f.WaitFor(ctx, last))
	require.Equal(t, []string{"0/1 ADDED a", "0/1 MODIFIED a", "0/2 ADDED b", "1/2 ADDED c", "0/1 DELETED a"}, r.seen())

	deleted := r.entries[4]
	require.Equal(t, `{"x":2}`, string(deleted.Object), "a delete carries the last object")
	require.Equal(t, prev, deleted.PrevRev)
	header, err := deleted.Header()
	require.NoError(t, err)
	require.Equal(t, "delete", header.Verb)
	require.Equal(t, "jane", header.User)
	require.False(t, deleted.PrevMissing())
	require.Len(t, r.state, 7)
}

func TestDeleteByExpiredLeaseHasAHeader(t *testing.T) {
	etcd := feedtest.Start(t)
	ctx := t.Context()
	f, r := run(t, etcd, DefaultConfig())
	lease, err := etcd.Client.Grant(ctx, 3600)
	require.NoError(t, err)
	_, err = etcd.Client.Put(ctx, feedtest.PodKey("a").Path(), "{}\n{}", clientv3.WithLease(lease.ID))
	require.NoError(t, err)
	resp, err := etcd.Client.Revoke(ctx, lease.ID)
	require.NoError(t, err)
	require.NoError(t, f.WaitFor(ctx, resp.Header.Revision))
	header, err := r.entries[1].Header()
	require.NoError(t, err)
	require.Equal(t, "expire", header.Verb)
}

func TestWaitForReachesRevisionsOutsideThePrefix(t *testing.T) {
	etcd := feedtest.Start(t)
	for name, cli := range map[string]*clientv3.Client{"network": etcd.Client, "in process": etcd.InProcess(t)} {
		t.Run(name, func(t *testing.T) {
			f, r := runWith(t, cli, DefaultConfig())
			for range 20 {
				resp, err := cli.Put(t.Context(), "/elsewhere", "x")
				require.NoError(t, err)
				require.NoError(t, f.WaitFor(t.Context(), resp.Header.Revision))
			}
			require.NoError(t, f.WaitFor(t.Context(), etcd.Put(t.Context(), t, feedtest.PodKey("a"), "{}")))
			require.Len(t, r.seen(), 1)
			require.NoError(t, ReadChanges(t.Context(), cli, 1, f.Revision(), func(Batch) error { return nil }))
			oldest, err := OldestRevision(t.Context(), cli)
			require.NoError(t, err)
			require.EqualValues(t, 1, oldest)
		})
	}
}

func TestWaitForEndsWithItsContext(t *testing.T) {
	etcd := feedtest.Start(t)
	f, _ := run(t, etcd, DefaultConfig())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, f.WaitFor(ctx, 1<<60), context.Canceled)
}

func TestFeedResumesAfterRestartOfEtcdWithoutSnapshot(t *testing.T) {
	etcd := feedtest.Start(t)
	ctx := t.Context()
	f, r := run(t, etcd, DefaultConfig())
	etcd.Put(ctx, t, feedtest.PodKey("a"), "{}")
	etcd.Restart(t)
	last := etcd.Put(ctx, t, feedtest.PodKey("b"), "{}")
	require.NoError(t, f.WaitFor(ctx, last))
	require.Equal(t, []string{"0/1 ADDED a", "0/1 ADDED b"}, r.seen())
	require.EqualValues(t, 1, f.Resets())
}

func TestFeedReadsANewSnapshotWhenCompactedAway(t *testing.T) {
	etcd := feedtest.Start(t)
	ctx := t.Context()
	f := New(etcd.Client, zerolog.Nop())
	r := &recorder{}
	f.Subscribe(r)
	// The first snapshot is compacted away before the watch begins.
	var once sync.Once
	compacted := make(chan struct{})
	r.onReset = func() {
		once.Do(func() {
			etcd.Put(ctx, t, feedtest.PodKey("a"), "{}")
			etcd.Put(ctx, t, feedtest.PodKey("a"), "{}")
			etcd.Compact(ctx, t, etcd.Put(ctx, t, feedtest.PodKey("b"), "{}"))
			close(compacted)
		})
	}
	start(t, f)
	<-compacted
	require.NoError(t, f.WaitFor(ctx, etcd.Put(ctx, t, feedtest.PodKey("c"), "{}")))
	require.EqualValues(t, 2, f.Resets())
	require.Len(t, r.state, 3)
}

func TestCursorFollowsFromAnyRevisionExactlyOnce(t *testing.T) {
	etcd := feedtest.Start(t)
	ctx := t.Context()
	first := etcd.Put(ctx, t, feedtest.PodKey("w0"), "{}")
	for i := 1; i < 50; i++ {
		etcd.Put(ctx, t, feedtest.PodKey(fmt.Sprint("w", i)), "{}")
	}
	cfg := DefaultConfig()
	cfg.LogBytes = 20 * entryOverhead // so that the log holds only a few batches
	f, _ := run(t, etcd, cfg)
	for i := 50; i < 200; i++ {
		etcd.Put(ctx, t, feedtest.PodKey(fmt.Sprint("w", i)), strings.Repeat("x", 10))
	}
	last := first + 199
	for _, from := range []int64{first, first + 20, first + 120, last} {
		c := f.Follow(from)
		var got []int64
		for len(got) == 0 || got[len(got)-1] < last {
			b, err := c.Next(ctx)
			require.NoError(t, err)
			for _, e := range b.Entries {
				got = append(got, e.Rev)
			}
		}
		require.Len(t, got, int(last+1-from))
		for i, rev := range got {
			require.Equal(t, from+int64(i), rev)
		}
		last = etcd.Put(ctx, t, schemas.Key{Resource: "nodes", Name: "n"}, "{}")
		b, err := c.Next(ctx)
		require.NoError(t, err)
		require.Equal(t, last, b.Rev)
		require.Nil(t, c.past, "back on the shared watch")
		c.Close()
	}
}

func TestCursorNamesWhatIsCompacted(t *testing.T) {
	etcd := feedtest.Start(t)
	ctx := t.Context()
	first := etcd.Put(ctx, t, feedtest.PodKey("a"), "{}")
	last := etcd.Put(ctx, t, feedtest.PodKey("a"), "{}")
	etcd.Compact(ctx, t, last)
	f, _ := run(t, etcd, DefaultConfig())
	c := f.Follow(first)
	defer c.Close()
	_, err := c.Next(ctx)
	require.ErrorIs(t, err, ErrTooOld)
}

func TestRing(t *testing.T) {
	entry := func(rev int64) Batch { return Batch{Rev: rev, Entries: []Entry{{Rev: rev}}} }
	r := newRing(3 * entryOverhead)
	r.reset(10)
	for rev := int64(11); rev <= 15; rev++ {
		r.append(entry(rev))
	}
	_, _, err := r.after(11, 0)
	require.ErrorIs(t, err, ErrTooOld)
	b, changed, err := r.after(12, 0)
	require.NoError(t, err)
	require.Nil(t, changed)
	require.Equal(t, int64(13), b.Rev)
	r.append(Batch{Rev: 20})
	b, _, err = r.after(15, 0)
	require.NoError(t, err)
	require.Equal(t, Batch{Rev: 20}, b, "progress without entries")
	_, changed, err = r.after(20, 0)
	require.NoError(t, err)
	r.append(entry(21))
	<-changed
	r.reset(30)
	_, _, err = r.after(21, 0)
	require.ErrorIs(t, err, ErrTooOld)
	r.reset(5)
	_, _, err = r.after(30, 0)
	require.ErrorIs(t, err, ErrRewound)
}

func BenchmarkWriteToSink(b *testing.B) {
	etcd := feedtest.Start(b)
	f := New(etcd.Client, zerolog.Nop())
	f.Subscribe(&recorder{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	defer func() { cancel(); <-done }()
	object := `{"x":"` + strings.Repeat("y", 2000) + `"}`
	var lag time.Duration
	for b.Loop() {
		rev := etcd.Put(ctx, b, feedtest.PodKey("a"), object)
		start := time.Now()
		if err := f.WaitFor(ctx, rev); err != nil {
			b.Fatal(err)
		}
		lag += time.Since(start)
	}
	b.ReportMetric(float64(lag.Microseconds())/float64(b.N), "us-after-commit/op")
}
