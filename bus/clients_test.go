package bus

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

// stalling is a connection that stops reading when it is told to.
type stalling struct {
	net.Conn
	stop, closed chan struct{}
	once         *sync.Once
}

func (s stalling) Read(p []byte) (int, error) {
	select {
	case <-s.stop:
		<-s.closed
		return 0, net.ErrClosed
	default:
		return s.Conn.Read(p)
	}
}

func (s stalling) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.Conn.Close()
}

// Dial implements nats.CustomDialer.
func (s stalling) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	s.Conn = conn
	return s, err
}

// subscriber is a stock client with the rights of the token "prod".
func (b *testBus) subscriber(t *testing.T, ca *authority, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(b.url(), append([]nats.Option{
		nats.Secure(ca.clientTLS(t, "")), nats.Token("prod"), nats.CustomInboxPrefix(userInbox("alice")), nats.NoReconnect(),
	}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// TestSubscriberThatStopsReadingIsCutOff: the server keeps so much for it and no more, ends
// its connection, and all others get everything.
func TestSubscriberThatStopsReadingIsCutOff(t *testing.T) {
	b, ca := secureBus(t)
	conn := stalling{stop: make(chan struct{}), closed: make(chan struct{}), once: &sync.Once{}}
	lazy := b.subscriber(t, ca, nats.SetCustomDialer(conn))
	_, err := lazy.Subscribe("live.h.*.*.prod.>", func(*nats.Msg) {})
	require.NoError(t, err)
	require.NoError(t, lazy.Flush())
	got := make(chan string, 1000)
	_, err = b.subscriber(t, ca).Subscribe("live.h.*.*.prod.>", func(m *nats.Msg) { got <- m.Header.Get(schemas.HeaderRev) })
	require.NoError(t, err)
	require.NoError(t, b.nc.Flush())
	slow := b.server.nats.NumSlowConsumers()
	close(conn.stop)
	key := schemas.Key{Resource: "configmaps", Namespace: "prod", Name: "a"}
	sent := 0
	for b.server.nats.NumSlowConsumers() == slow {
		require.Less(t, sent, 400, "the server keeps more than it may")
		b.bigChange(t, key, got)
		sent++
	}
	t.Logf("cut off after %d MB", sent)
}

// bigChange publishes a change of a megabyte, which another subscriber gets.
func (b *testBus) bigChange(t *testing.T, key schemas.Key, got <-chan string) {
	t.Helper()
	e := b.event(schemas.Modified, key, 1)
	e.Object = []byte(`{"data":"` + strings.Repeat("x", 1<<20) + `"}`)
	require.NoError(t, b.window.Publish(t.Context(), key.Subject(), e, 0))
	b.flush(t)
	select {
	case rev := <-got:
		require.Equal(t, fmt.Sprint(e.Rev), rev)
	case <-time.After(time.Minute):
		t.Fatal("another subscriber waits")
	}
}

func TestSubscriptionsAreBounded(t *testing.T) {
	b, ca := secureBus(t)
	errs := make(chan error, 100)
	nc := b.subscriber(t, ca, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		select {
		case errs <- err:
		default:
		}
	}))
	for i := range maxSubscriptions + 1 {
		_, err := nc.Subscribe(fmt.Sprintf("live.h._.pods.prod.p%d", i), func(*nats.Msg) {})
		require.NoError(t, err)
	}
	select {
	case err := <-errs:
		require.ErrorIs(t, err, nats.ErrMaxSubscriptionsExceeded)
	case <-time.After(time.Minute):
		t.Fatal("any number of subscriptions is accepted")
	}
}

// TestRefusedClientsDoNotFillTheLog: anybody can connect with a bad token, in a loop.
func TestRefusedClientsDoNotFillTheLog(t *testing.T) {
	var lines bytes.Buffer
	log := newNatsLog(zerolog.New(&lines), newDamage())
	for i := range 1000 {
		log.Errorf("127.0.0.1:%d - cid:1 - authentication error", i)
	}
	require.LessOrEqual(t, bytes.Count(lines.Bytes(), []byte("authentication error")), 60)
	require.NotZero(t, lines.Len())
}
