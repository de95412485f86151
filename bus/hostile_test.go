package bus

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

// attack is what hostile clients do until the context ends. It counts what it did.
type attack func(ctx context.Context, t *testing.T, b *testBus, ca *authority, done *atomic.Int64)

// rawClient is a client that goes on whatever it is told.
func rawClient(b *testBus, ca *authority, t *testing.T, token string) (*nats.Conn, error) {
	return nats.Connect(b.url(), nats.Secure(ca.clientTLS(t, "")), nats.Token(token), nats.CustomInboxPrefix(userInbox("alice")), nats.NoReconnect(),
		nats.Timeout(10*time.Second), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
}

// flood publishes requests over some connections.
func flood(subject func(n int64) string, reply string, body []byte) attack {
	return func(ctx context.Context, t *testing.T, b *testBus, ca *authority, done *atomic.Int64) {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					nc, err := rawClient(b, ca, t, "prod")
					if err != nil {
						continue
					}
					for ctx.Err() == nil && nc.IsConnected() {
						n := done.Add(1)
						answer := ""
						if reply != "" {
							answer = fmt.Sprintf("%s.%d", reply, n)
						}
						if nc.PublishRequest(subject(n), answer, body) != nil || n%64 == 0 && nc.FlushTimeout(10*time.Second) != nil {
							break
						}
					}
					nc.Close()
				}
			})
		}
		wg.Wait()
	}
}

var attacks = map[string]attack{
	"requests for consumers": flood(func(n int64) string { return fmt.Sprintf("bus.API.CONSUMER.CREATE.ARCHIVE.c%d.h.*.*.prod.>", n) },
		userInbox("alice"), []byte(`{"stream_name":"ARCHIVE","config":{"name":"x"}}`)),
	"pulls from nobody":      flood(func(n int64) string { return fmt.Sprintf("bus.API.CONSUMER.MSG.NEXT.ARCHIVE.c%d", n) }, userInbox("alice"), []byte(`{"batch":1000000,"expires":3600000000000}`)),
	"information on nothing": flood(func(n int64) string { return fmt.Sprintf("bus.API.CONSUMER.INFO.ARCHIVE.c%d", n) }, userInbox("alice"), nil),
	"large requests":         flood(func(n int64) string { return "bus.API.CONSUMER.CREATE.ARCHIVE.c.h.*.*.prod.>" }, userInbox("alice"), make([]byte, 60<<10)),
	"what is forbidden":      flood(func(n int64) string { return "$JS.API.STREAM.DELETE.HISTORY" }, "", []byte("x")),
	"bad tokens": func(ctx context.Context, t *testing.T, b *testBus, ca *authority, done *atomic.Int64) {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for ctx.Err() == nil {
					if nc, err := rawClient(b, ca, t, "wrong"); err == nil {
						nc.Close()
					}
					done.Add(1)
				}
			})
		}
		wg.Wait()
	},
	"many connections": func(ctx context.Context, t *testing.T, b *testBus, ca *authority, done *atomic.Int64) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for ctx.Err() == nil && done.Load() < 64 {
					nc, err := rawClient(b, ca, t, "prod")
					if err != nil {
						continue
					}
					defer nc.Close()
					for range 8 {
						_, _ = nc.Subscribe("live.h.*.*.prod.>", func(*nats.Msg) {})
					}
					done.Add(1)
				}
				<-ctx.Done()
			})
		}
		wg.Wait()
	},
}

// TestHostileClientsHoldUpNobody: with a tap's rights, or none, clients can't stop the relay
// nor other subscribers, nor take memory for long.
func TestHostileClientsHoldUpNobody(t *testing.T) {
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			b, ca := secureBus(t)
			got := make(chan string, 10000)
			_, err := b.subscriber(t, ca).Subscribe("live.h.*.*.prod.>", func(m *nats.Msg) { got <- m.Header.Get(schemas.HeaderRev) })
			require.NoError(t, err)
			require.NoError(t, b.nc.Flush())
			key := schemas.Key{Resource: "configmaps", Namespace: "prod", Name: "a"}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			quiet := b.lags(t, key, got, 300)
			ctx, cancel := context.WithCancel(t.Context())
			var done atomic.Int64
			var attackers sync.WaitGroup
			attackers.Go(func() { attack(ctx, t, b, ca, &done) })
			require.Eventually(t, func() bool { return done.Load() >= 20 }, time.Minute, time.Millisecond)
			busy := b.lags(t, key, got, 300)
			runtime.GC()
			runtime.ReadMemStats(&after)
			cancel()
			attackers.Wait()
			t.Logf("%d acts; change to subscriber p50/p99: quiet %s/%s, attacked %s/%s; heap %d -> %d MB", done.Load(),
				quiet[len(quiet)/2], quiet[len(quiet)*99/100], busy[len(busy)/2], busy[len(busy)*99/100], before.HeapAlloc>>20, after.HeapAlloc>>20)
		})
	}
}

// lags publishes changes one after the other, and returns how long each took to a
// subscriber, in order of time taken.
func (b *testBus) lags(t *testing.T, key schemas.Key, got <-chan string, n int) []time.Duration {
	t.Helper()
	var took []time.Duration
	for i := range n {
		started := time.Now()
		rev := b.send(t, schemas.Modified, key, i)
		select {
		case came := <-got:
			require.Equal(t, fmt.Sprint(rev), came)
		case <-time.After(time.Minute):
			t.Fatal("a subscriber waits")
		}
		took = append(took, time.Since(started))
	}
	slices.Sort(took)
	return took
}

// TestClientsThatReadNothingAreCutOffTogether: each may keep the server waiting for some
// time, but all of them can't take its memory.
func TestClientsThatReadNothingAreCutOffTogether(t *testing.T) {
	b, ca := secureBus(t)
	b.server.maxPending = 24 << 20
	const lazy = 12
	stop := make(chan struct{})
	for range lazy {
		conn := stalling{stop: stop, closed: make(chan struct{}), once: &sync.Once{}}
		nc := b.subscriber(t, ca, nats.SetCustomDialer(conn))
		_, err := nc.Subscribe("live.h.*.*.prod.>", func(*nats.Msg) {})
		require.NoError(t, err)
		require.NoError(t, nc.Flush())
	}
	got := make(chan string, 1000)
	_, err := b.subscriber(t, ca).Subscribe("live.h.*.*.prod.>", func(m *nats.Msg) { got <- m.Header.Get(schemas.HeaderRev) })
	require.NoError(t, err)
	require.NoError(t, b.nc.Flush())
	close(stop)
	key := schemas.Key{Resource: "configmaps", Namespace: "prod", Name: "a"}
	edge := func() int {
		conns, err := b.server.nats.Connz(&natsserver.ConnzOptions{Account: accountEdge, Sort: natsserver.ByPending, Limit: maxLooked})
		require.NoError(t, err)
		return len(conns.Conns)
	}
	require.Equal(t, lazy+1, edge())
	slow := b.server.nats.NumSlowConsumers()
	for range 20 { // less than the server keeps for one connection
		b.bigChange(t, key, got)
	}
	require.Eventually(t, func() bool { return edge() < lazy+1 }, time.Minute, 10*time.Millisecond, "nobody is cut off")
	require.Equal(t, slow, b.server.nats.NumSlowConsumers(), "cut off by the server: the test tests nothing")
	e := b.event(schemas.Modified, key, 1)
	require.NoError(t, b.window.Publish(t.Context(), key.Subject(), e, 0))
	require.Equal(t, fmt.Sprint(e.Rev), <-got, "who reads stays")
}
