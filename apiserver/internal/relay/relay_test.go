package relay

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/apiserver/internal/feed/feedtest"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// A mirror that was stopped while it was being set up waits out its time.
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*stream).setupMirrorConsumer.func3"),
		// An object put so quickly that its publisher was cleaned up before this had begun.
		goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"),
		goleak.IgnoreTopFunction("go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc.(*serverWatchStream).sendLoop"),
		goleak.IgnoreAnyFunction("go.etcd.io/etcd/client/pkg/v3/logutil.(*MergeLogger).outputLoop"),
	)
}

// rig is etcd, a bus and as many relays as a test wants.
type rig struct {
	*feedtest.Etcd
	dir    string
	server *bus.Server
	client *bus.Client // for looking on; the relays have their own

	streams bus.StreamsConfig
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{Etcd: feedtest.Start(t), dir: t.TempDir()}
	r.startBus(t)
	t.Cleanup(func() { r.stopBus() })
	return r
}

func (r *rig) startBus(t testing.TB) {
	t.Helper()
	var err error
	r.server, err = bus.NewServer(bus.DefaultServerConfig(r.dir), testLog(t))
	require.NoError(t, err)
	require.NoError(t, r.server.Start(t.Context()))
	r.client = r.connect(t)
}

func (r *rig) stopBus() {
	r.client.Close()
	r.server.Close()
}

func (r *rig) connect(t testing.TB) *bus.Client {
	t.Helper()
	c, err := bus.Connect(t.Context(), bus.ClientConfig{Server: r.server, Heartbeat: 200 * time.Millisecond, Streams: r.streams}, testLog(t))
	require.NoError(t, err)
	return c
}

func testLog(t testing.TB) zerolog.Logger {
	return zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.ErrorLevel)
}

// start runs one relay with a feed of its own, as one API server would, and
// returns how to kill it.
func (r *rig) start(t testing.TB) (relay *Relay, kill func()) {
	t.Helper()
	client := r.connect(t)
	f := feed.New(r.Client, testLog(t))
	cfg := DefaultConfig()
	cfg.CheckpointDelay = 10 * time.Millisecond
	cfg.Recover, cfg.Mended = r.server.Recover, r.server.Mended()
	relay = New(r.Client, f, client, cfg, testLog(t))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.Run(ctx) })
	wg.Go(func() { _ = relay.Run(ctx) })
	var once sync.Once
	kill = func() {
		once.Do(func() {
			client.Close() // at once, in the middle of whatever it does
			cancel()
			wg.Wait()
		})
	}
	t.Cleanup(kill)
	return relay, kill
}

// verify requires that the stream holds exactly what etcd says.
func (r *rig) verify(t testing.TB) *bus.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	report, err := r.client.Verify(ctx, NewTruth(r.Client))
	require.NoError(t, err)
	require.True(t, report.OK(), "%+v", report)
	return report
}

// churn writes n transactions of all kinds: creates, updates, moves between
// nodes, deletes, several objects at once, and keys that are no objects.
func (r *rig) churn(t testing.TB, seed uint64, n int) int64 {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, seed))
	exists := map[string]bool{}
	resp, err := r.Client.Get(t.Context(), schemas.RegistryPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	require.NoError(t, err)
	for _, kv := range resp.Kvs {
		key, err := schemas.ParsePath(string(kv.Key))
		require.NoError(t, err)
		exists[key.Name] = true
	}
	var rev int64
	for range n {
		name := fmt.Sprint("p", rng.IntN(40))
		switch k := rng.IntN(10); {
		case k == 0:
			_, err := r.Client.Put(t.Context(), "/rutter/other", "x")
			require.NoError(t, err)
		case k <= 2 && exists[name]:
			rev = r.Delete(t.Context(), t, feedtest.PodKey(name))
			delete(exists, name)
		case k == 3:
			ops := []clientv3.Op{}
			for i := range 1 + rng.IntN(4) {
				key := schemas.Key{Group: "apps", Resource: "replicasets", Namespace: "default", Name: fmt.Sprint("r", i)}
				ops = append(ops, feedtest.PutOp(t, key, `{"kind":"ReplicaSet","metadata":{}}`))
			}
			exists[name] = true
			ops = append(ops, feedtest.PutOp(t, feedtest.PodKey(name), feedtest.Pod(name, "n1", rng.IntN(9))))
			rev = r.Txn(t.Context(), t, ops...)
		default:
			node := []string{"", "n1", "n2.example"}[rng.IntN(3)]
			rev = r.Put(t.Context(), t, feedtest.PodKey(name), feedtest.Pod(name, node, rng.IntN(9)))
			exists[name] = true
		}
	}
	return rev
}

func TestEveryChangeIsInTheStreamOnceAndInOrder(t *testing.T) {
	r := newRig(t)
	r.churn(t, 1, 200) // before the relay has ever run
	relay, _ := r.start(t)
	last := r.churn(t, 2, 500)
	report := r.verify(t)
	require.Greater(t, report.Changes, 700)
	require.Empty(t, report.Gaps)
	require.EqualValues(t, 1, report.From, "from the very first revision")
	require.Eventually(t, func() bool { return relay.Position() >= last }, 10*time.Second, time.Millisecond)
}

func TestExactlyOnceUnderKills(t *testing.T) {
	r := newRig(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.churn(t, 3, 3000)
	}()
	rng := rand.New(rand.NewPCG(4, 4))
	for kills := 0; ; kills++ {
		_, kill := r.start(t)
		select {
		case <-done:
			t.Logf("%d relays killed", kills)
			report := r.verify(t)
			require.Empty(t, report.Gaps)
			return
		case <-time.After(time.Duration(rng.IntN(60)) * time.Millisecond):
			kill()
		}
	}
}

func TestExactlyOnceWithRacingRelays(t *testing.T) {
	r := newRig(t)
	for range 3 {
		r.start(t)
	}
	_, kill := r.start(t)
	r.churn(t, 5, 800)
	kill()
	r.churn(t, 6, 800)
	report := r.verify(t)
	require.Empty(t, report.Gaps)
}

func TestStandbyTakesOver(t *testing.T) {
	r := newRig(t)
	relays := map[*Relay]func(){}
	for range 2 {
		relay, kill := r.start(t)
		relays[relay] = kill
	}
	r.churn(t, 7, 400)
	r.verify(t)
	fenced := 0.0
	for relay := range relays {
		fenced += testutil.ToFloat64(relay.metrics.restarts.WithLabelValues("fenced"))
	}
	require.Less(t, fenced, 20.0, "one of them stands by instead of fighting")
	for range len(relays) {
		for relay, kill := range relays {
			kill()
			delete(relays, relay)
			break
		}
		survivor, kill := r.start(t)
		relays[survivor] = kill
		r.churn(t, 8, 100)
		r.verify(t)
	}
}

func TestExactlyOnceOverRestartsOfTheBus(t *testing.T) {
	r := newRig(t)
	for round := range 4 {
		_, kill := r.start(t)
		r.churn(t, uint64(10+round), 300)
		r.stopBus()
		r.churn(t, uint64(20+round), 50) // while the bus is away
		kill()
		r.startBus(t)
	}
	r.start(t)
	require.Empty(t, r.verify(t).Gaps)
}

func TestRelayGoesOnAfterRestartOfEtcd(t *testing.T) {
	r := newRig(t)
	r.start(t)
	r.churn(t, 30, 100)
	r.Restart(t)
	r.churn(t, 31, 100)
	require.Empty(t, r.verify(t).Gaps)
}

func TestLostStreamIsNamedAndRebuilt(t *testing.T) {
	r := newRig(t)
	_, kill := r.start(t)
	last := r.churn(t, 40, 300)
	r.verify(t)
	kill()
	require.NoError(t, r.client.DeleteStream(t.Context(), bus.StreamHistory))
	r.Compact(t.Context(), t, r.churn(t, 41, 100))
	r.start(t)
	r.churn(t, 42, 100)
	report := r.verify(t)
	require.Len(t, report.Gaps, 1)
	require.Equal(t, last, report.Gaps[0].PrevRev)
	require.Contains(t, string(report.Gaps[0].Object), "lost")
}

// TestDeletedStreamThatLostNothing: the mirrors have all of it, and etcd what came after.
func TestDeletedStreamThatLostNothing(t *testing.T) {
	r := newRig(t)
	_, kill := r.start(t)
	last := r.churn(t, 40, 300)
	r.verify(t)
	for _, mirror := range []string{bus.StreamState, bus.StreamArchive} {
		require.NoError(t, r.client.WaitMirror(t.Context(), mirror))
	}
	kill()
	require.NoError(t, r.client.DeleteStream(t.Context(), bus.StreamHistory))
	r.churn(t, 41, 100)
	r.start(t)
	r.churn(t, 42, 100)
	require.Empty(t, r.verify(t).Gaps)
	r.tellsOnce(t, last+1)
}

// tellsOnce checks that the archive has every change once, that of a revision too, and no
// gap.
func (r *rig) tellsOnce(t *testing.T, rev int64) {
	t.Helper()
	revs := map[int64]int{}
	require.NoError(t, r.client.ReadRange(t.Context(), bus.Range{}, func(e schemas.Event) error {
		require.NotEqual(t, schemas.Gap, e.Type)
		revs[e.Rev]++
		require.LessOrEqual(t, revs[e.Rev], e.Cnt, "nothing comes twice")
		return nil
	}))
	require.Contains(t, revs, rev)
}

// cut takes the second half of the newest file of a stream, as a broken disk may.
func (r *rig) cut(t *testing.T, stream string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(r.dir, "jetstream", "*", "streams", stream, "msgs", "*.blk"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	last := slices.MaxFunc(files, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	info, err := os.Stat(last)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(last, info.Size()/2))
}

// TestStreamThatLostItsEnd: as long as the mirrors end together, are what etcd was then, and
// etcd still has what came after, nothing is lost, and no gap is named.
func TestStreamThatLostItsEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		meanwhile func(r *rig, t *testing.T) // while the bus is down
		gaps      int
	}{
		"nothing happened since": {func(*rig, *testing.T) {}, 0},
		"changes wait in etcd":   {func(r *rig, t *testing.T) { r.churn(t, 91, 100) }, 0},
		"etcd has compacted":     {func(r *rig, t *testing.T) { r.Compact(t.Context(), t, r.churn(t, 91, 100)) }, 1},
		"STATE is cut, too":      {func(r *rig, t *testing.T) { r.cut(t, bus.StreamState) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			_, kill := r.start(t)
			last := r.churn(t, 90, 300)
			r.verify(t)
			for _, mirror := range []string{bus.StreamState, bus.StreamArchive, bus.StreamLastN} {
				require.NoError(t, r.client.WaitMirror(t.Context(), mirror))
			}
			kill()
			r.stopBus()
			r.cut(t, bus.StreamHistory)
			tc.meanwhile(r, t)
			r.startBus(t)
			r.start(t)
			r.churn(t, 92, 100)
			report := r.verify(t)
			require.Len(t, report.Gaps, tc.gaps)
			if tc.gaps > 0 {
				require.Equal(t, last, report.Gaps[0].PrevRev)
				return
			}
			r.tellsOnce(t, last+1)
		})
	}
}

func TestAllStreamsLostAreRebuiltFromEtcd(t *testing.T) {
	r := newRig(t)
	_, kill := r.start(t)
	r.churn(t, 45, 300)
	r.verify(t)
	kill()
	require.NoError(t, r.client.DropStreams(t.Context()))
	r.start(t)
	r.churn(t, 46, 100)
	require.Empty(t, r.verify(t).Gaps, "etcd still has everything")
}

func TestCompactionPastTheRelayIsNamedAndHealed(t *testing.T) {
	r := newRig(t)
	_, kill := r.start(t)
	last := r.churn(t, 50, 300)
	r.verify(t)
	kill()
	r.Compact(t.Context(), t, r.churn(t, 51, 300))
	r.churn(t, 52, 50)
	r.start(t)
	r.churn(t, 53, 50)
	report := r.verify(t)
	require.Len(t, report.Gaps, 1)
	require.Equal(t, last, report.Gaps[0].PrevRev)
	require.Contains(t, string(report.Gaps[0].Object), "compacted")
}

func TestResyncSurvivesKills(t *testing.T) {
	r := newRig(t)
	_, kill := r.start(t)
	r.churn(t, 60, 300)
	r.verify(t)
	kill()
	r.Compact(t.Context(), t, r.churn(t, 61, 300))
	for i := range 10 {
		_, kill := r.start(t)
		<-time.After(time.Duration(i) * 3 * time.Millisecond)
		kill()
	}
	r.start(t)
	r.verify(t)
}

func TestRelayGoesOnAfterTheStreamHasAgedOut(t *testing.T) {
	r := newRig(t)
	r.client.Close()
	r.streams = bus.DefaultStreamsConfig()
	r.streams.HistoryAge = time.Second
	r.client = r.connect(t)
	relay, kill := r.start(t)
	last := r.churn(t, 80, 200)
	require.Eventually(t, func() bool { return relay.Position() >= last }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool {
		head, err := r.client.Head(t.Context(), bus.StreamHistory)
		return err == nil && head.Empty && head.Seq > 0
	}, 10*time.Second, 10*time.Millisecond)
	kill()
	r.verify(t)
	r.churn(t, 81, 100)
	r.start(t)
	require.Empty(t, r.verify(t).Gaps, "the checkpoint says where to go on")
}

func TestLostStateOfAnAgedStreamIsMadeWhole(t *testing.T) {
	r := newRig(t)
	r.client.Close()
	r.streams = bus.DefaultStreamsConfig()
	r.streams.HistoryAge = time.Second
	r.client = r.connect(t)
	relay, kill := r.start(t)
	last := r.churn(t, 90, 200)
	require.Eventually(t, func() bool { return relay.Position() >= last }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool {
		head, err := r.client.Head(t.Context(), bus.StreamHistory)
		return err == nil && head.Empty && head.Seq > 0
	}, 10*time.Second, 10*time.Millisecond)
	kill()
	require.NoError(t, r.client.DeleteStream(t.Context(), bus.StreamState))
	r.start(t)
	r.churn(t, 91, 20)
	r.verify(t)
}

func TestStreamsOfAnotherEtcdAreMadeAnew(t *testing.T) {
	r := newRig(t)
	_, kill := r.start(t)
	r.churn(t, 95, 300)
	r.verify(t)
	kill()
	before, err := r.client.Head(t.Context(), bus.StreamHistory)
	require.NoError(t, err)
	r.Etcd = feedtest.Start(t) // somebody has removed etcd's data and kept the bus'
	r.churn(t, 96, 50)
	r.start(t)
	var after bus.Position
	require.Eventually(t, func() bool {
		after, err = r.client.Head(t.Context(), bus.StreamHistory)
		return err == nil && after.Epoch != before.Epoch
	}, 20*time.Second, time.Millisecond)
	require.Empty(t, r.verify(t).Gaps)
	require.Greater(t, after.First, before.Seq, "sequence numbers never go back")
}

func TestResumeAfterTheLastMessage(t *testing.T) {
	for name, tc := range map[string]struct {
		last       schemas.Event
		checkpoint bus.Checkpoint
		valid      bool
		want       resume
	}{
		"whole revision":        {last: schemas.Event{Rev: 9, Ord: 1, Cnt: 2}, want: resume{rev: 10}},
		"part of a revision":    {last: schemas.Event{Rev: 9, Ord: 0, Cnt: 2}, want: resume{rev: 9, skip: 1}},
		"checkpoint is further": {last: schemas.Event{Rev: 9, Cnt: 1}, checkpoint: bus.Checkpoint{Rev: 20}, valid: true, want: resume{rev: 21}},
		"checkpoint is stale":   {last: schemas.Event{Rev: 9, Cnt: 1}, checkpoint: bus.Checkpoint{Rev: 20}, want: resume{rev: 10}},
		"closed resync":         {last: schemas.Event{Rev: 9, Cnt: 1, Type: schemas.Gap, Resync: 9}, want: resume{rev: 10}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.want, resumeAfter(resume{}, tc.last, tc.checkpoint, tc.valid))
		})
	}
	open := resumeAfter(resume{}, schemas.Event{Rev: 9, Cnt: 1, Resync: 12}, bus.Checkpoint{}, false)
	require.NotNil(t, open.resync)
}

func TestPositionNeverPassesWhatIsStored(t *testing.T) {
	r := New(nil, nil, nil, DefaultConfig(), zerolog.Nop())
	session := r.restart(resume{seq: 10, rev: 5})
	require.EqualValues(t, 4, r.Position())
	r.published(mark{seq: 12, rev: 6}, 2)
	r.published(mark{seq: 12, rev: 8}, 0)
	r.published(mark{seq: 13, rev: 9}, 1)
	require.EqualValues(t, 4, r.Position())
	r.stored(session, 11)
	require.EqualValues(t, 4, r.Position())
	require.EqualValues(t, 10, r.settled)
	r.stored(session, 12)
	require.EqualValues(t, 8, r.Position())
	require.EqualValues(t, 12, r.settled)
	r.stored(session-1, 13)
	require.EqualValues(t, 8, r.Position(), "a late answer to an older session")
	r.stored(session, 13)
	require.EqualValues(t, 9, r.Position())
	r.published(mark{seq: 13, rev: 15}, 0)
	require.EqualValues(t, 15, r.Position(), "nothing on its way")
}
