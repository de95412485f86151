package bus

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/rutter-project/rutter/schemas"
)

// TestMain ignores one goroutine of the NATS server: a mirror that was stopped
// while it was being set up waits out its time, also after the shutdown. And one of
// nats.go: an object that is put so quickly that its publisher is cleaned up before this
// goroutine has begun leaves it waiting for a channel that is not there.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*stream).setupMirrorConsumer.func3"),
		goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"),
	)
}

const testCluster = 0xc1

// testBus is an embedded server with streams and a client of account CORE.
type testBus struct {
	*Client
	server *Server
	epoch  string
	window *Window
	rev    int64
}

func testServer(t testing.TB, dir string, change ...func(*ServerConfig)) *Server {
	t.Helper()
	cfg := DefaultServerConfig(dir)
	for _, f := range change {
		f(&cfg)
	}
	s, err := NewServer(cfg, zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel))
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(s.Close)
	return s
}

func connect(t testing.TB, cfg ClientConfig) *Client {
	t.Helper()
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 200 * time.Millisecond
	}
	c, err := Connect(t.Context(), cfg, zerolog.Nop())
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func startBus(t testing.TB) *testBus {
	t.Helper()
	b := &testBus{server: testServer(t, t.TempDir())}
	b.Client = connect(t, ClientConfig{Name: "test", Server: b.server})
	made, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	b.epoch, b.rev = made.Epoch, 100
	b.open(t)
	return b
}

func (b *testBus) open(t testing.TB) {
	t.Helper()
	head, err := b.Head(t.Context(), StreamHistory)
	require.NoError(t, err)
	b.window, err = b.OpenWindow(head.Seq, DefaultWindow, nil)
	require.NoError(t, err)
	t.Cleanup(b.window.Close)
}

func pod(name string) schemas.Key {
	return schemas.Key{Resource: "pods", Namespace: "default", Name: name}
}

// event makes the next revision of an object, as the relay would.
func (b *testBus) event(kind schemas.EventType, key schemas.Key, x int) schemas.Event {
	b.rev++
	object := fmt.Sprintf(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":%q,"namespace":%q,"generation":%d}}`, key.Name, key.Namespace, x)
	return schemas.Event{
		Rev: b.rev, Cnt: 1, Type: kind, Key: key, Epoch: b.epoch, Object: []byte(object),
		Header: schemas.Header{V: 1, Time: time.Unix(b.rev, 0).UTC(), Verb: "update", User: "jane"},
	}
}

func (b *testBus) send(t testing.TB, kind schemas.EventType, key schemas.Key, x int) int64 {
	t.Helper()
	e := b.event(kind, key, x)
	require.NoError(t, b.window.Publish(t.Context(), key.Subject(), e, 0))
	return e.Rev
}

func (b *testBus) flush(t testing.TB) {
	t.Helper()
	require.NoError(t, b.window.Flush(t.Context()))
}

// settle waits until a mirror has everything that HISTORY has.
func (b *testBus) settle(t testing.TB, mirror string) {
	t.Helper()
	require.NoError(t, b.WaitMirror(t.Context(), mirror))
}

func TestWindowStoresInOrderAndFences(t *testing.T) {
	b := startBus(t)
	for i := range 3000 {
		b.send(t, schemas.Modified, pod("a"), i)
	}
	b.flush(t)
	head, err := b.Head(t.Context(), StreamHistory)
	require.NoError(t, err)
	require.Equal(t, b.window.Next()-1, head.Seq)

	other, err := b.OpenWindow(head.Seq-1, 16, nil)
	require.NoError(t, err)
	defer other.Close()
	_ = other.Publish(t.Context(), pod("a").Subject(), b.event(schemas.Modified, pod("a"), 1), 0)
	require.ErrorIs(t, other.Flush(t.Context()), ErrFenced)
	last, err := b.Message(t.Context(), StreamHistory, head.Seq)
	require.NoError(t, err)
	require.Equal(t, pod("a"), last.Key)
	_, err = b.Message(t.Context(), StreamHistory, head.Seq+1)
	require.ErrorIs(t, err, ErrNotFound)
}

func TestStreamsSurviveRestartAndKeepTheirEpoch(t *testing.T) {
	dir := t.TempDir()
	var epoch string
	var seq uint64
	for i := range 3 {
		s := testServer(t, dir)
		c := connect(t, ClientConfig{Server: s})
		made, err := c.MakeStreams(t.Context(), testCluster, 7)
		require.NoError(t, err)
		got := made.Epoch
		b := &testBus{Client: c, epoch: got, rev: int64(i)}
		b.open(t)
		if i > 0 {
			require.Equal(t, epoch, got)
			require.Equal(t, seq, b.window.Next()-1)
		}
		b.send(t, schemas.Added, pod("a"), i)
		b.flush(t)
		epoch, seq = got, b.window.Next()-1
		c.Close()
		s.Close()
	}
}

func TestLostHistoryBeginsAboveItsMirrors(t *testing.T) {
	b := startBus(t)
	b.send(t, schemas.Added, pod("a"), 1)
	b.flush(t)
	b.settle(t, StreamState)
	require.NoError(t, b.js.DeleteStream(t.Context(), StreamHistory))
	made, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	require.NotEqual(t, b.epoch, made.Epoch)
	old := b.window.Next()
	b.epoch = made.Epoch
	b.open(t)
	require.Greater(t, b.window.Next(), old)
	b.send(t, schemas.Added, pod("b"), 1)
	b.flush(t)
	b.settle(t, StreamState)
	stream, err := b.js.Stream(t.Context(), StreamState)
	require.NoError(t, err)
	require.EqualValues(t, 2, stream.CachedInfo().State.Msgs, "what the mirror had and what is new")
}

func TestStreamsOfAnotherClusterAreDropped(t *testing.T) {
	b := startBus(t)
	b.send(t, schemas.Added, pod("a"), 1)
	b.flush(t)
	made, err := b.MakeStreams(t.Context(), testCluster+1, 5)
	require.NoError(t, err)
	require.NotEqual(t, b.epoch, made.Epoch)
	for _, name := range []string{StreamHistory, StreamState, StreamArchive} {
		head, err := b.Head(t.Context(), name)
		require.NoError(t, err)
		require.True(t, head.Empty, name)
	}
}

func TestStateRepublishesLive(t *testing.T) {
	b := startBus(t)
	sub, err := b.nc.SubscribeSync("live.h._.pods.default.*")
	require.NoError(t, err)
	b.send(t, schemas.Added, pod("a"), 1)
	b.send(t, schemas.Modified, pod("a"), 2)
	b.flush(t)
	for _, want := range []schemas.EventType{schemas.Added, schemas.Modified} {
		msg, err := sub.NextMsg(5 * time.Second)
		require.NoError(t, err)
		e, err := schemas.ParseEvent(map[string][]string(msg.Header), msg.Data)
		require.NoError(t, err)
		require.Equal(t, want, e.Type)
		require.Equal(t, StreamState, msg.Header.Get(jetstream.StreamHeader))
	}
}

func TestConnectNeedsOneTarget(t *testing.T) {
	_, err := Connect(context.Background(), ClientConfig{}, zerolog.Nop())
	require.Error(t, err)
}
