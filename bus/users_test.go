package bus

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

// TestConnectionsOfOneUserAreBounded: one user can't take all connections that the server
// has, nor is refused for those that are closed.
func TestConnectionsOfOneUserAreBounded(t *testing.T) {
	b, ca := secureBus(t)
	b.server.connections.max = 3
	var alice []*nats.Conn
	for range b.server.connections.max {
		alice = append(alice, b.subscriber(t, ca))
	}
	_, err := rawClient(b, ca, t, "prod")
	require.ErrorIs(t, err, nats.ErrAuthorization)
	connect(t, ClientConfig{URL: b.url(), TLS: ca.clientTLS(t, "system:node:n1", "system:nodes"), Node: "n1"})
	connect(t, ClientConfig{Server: b.server, Node: "n1"})
	alice[0].Close()
	require.Eventually(t, func() bool {
		nc, err := rawClient(b, ca, t, "prod")
		if err == nil {
			nc.Close()
		}
		return err == nil
	}, time.Minute, time.Millisecond)
}

func TestConnectionLimitIsNamed(t *testing.T) {
	c := newConnections()
	c.max = 1
	open := func(uint64) bool { return true }
	require.NoError(t, c.take("alice", 1, open))
	require.EqualError(t, c.take("alice", 2, open), "alice has 1 connections to the bus, which is all that one user may have; close some")
	require.NoError(t, c.take("bob", 3, open))
	require.NoError(t, c.take("alice", 4, func(id uint64) bool { return id != 1 }))
	c.keepOut("bob", time.Date(2100, 1, 1, 12, 0, 0, 0, time.UTC))
	require.EqualError(t, c.take("bob", 5, open), "bob sent more than 500 requests in a second and is kept out until 2100-01-01T12:00:00Z")
	c.keepOut("carol", time.Now())
	require.NoError(t, c.take("carol", 6, open))
}

// TestUserWhoAsksForTooMuchIsKeptOut: of each request for a consumer's next messages the
// server remembers for minutes where the answers go, and there is no end to them.
func TestUserWhoAsksForTooMuchIsKeptOut(t *testing.T) {
	b, ca := secureBus(t)
	key := schemas.Key{Resource: "pods", Namespace: "prod", Name: "a"}
	c := connect(t, ClientConfig{URL: b.url(), TLS: ca.clientTLS(t, ""), Token: "prod", User: "alice"})
	require.NotContains(t, create(t, c, "mine", key.Subject(), map[string]any{}), "error")
	nc, err := rawClient(b, ca, t, "prod")
	require.NoError(t, err)
	defer nc.Close()
	core, err := b.server.nats.LookupAccount(accountCore)
	require.NoError(t, err)
	for n := 0; nc.IsConnected(); n++ {
		_ = nc.PublishRequest(edgeAPI+".CONSUMER.MSG.NEXT."+StreamArchive+".mine", fmt.Sprintf("%s.x%d", userInbox("alice"), n), []byte(`{"batch":1,"expires":60000000000}`))
		if n%256 == 0 {
			_ = nc.FlushTimeout(time.Minute) // an error ends the loop
		}
		require.Less(t, n, 20*maxAwaited, "any number of requests is accepted")
	}
	require.Greater(t, core.NumPendingAllResponses(), maxAwaited)
	_, err = rawClient(b, ca, t, "prod")
	require.ErrorIs(t, err, nats.ErrAuthorization)
	connect(t, ClientConfig{URL: b.url(), TLS: ca.clientTLS(t, "system:node:n1", "system:nodes"), Node: "n1"})
}

// TestSubscriptionsOfOneUserAreBoundedTogether: each change is delivered to all of them
// before the next one is taken, however many connections they are spread over.
func TestSubscriptionsOfOneUserAreBoundedTogether(t *testing.T) {
	b, ca := secureBus(t)
	const each = 8000
	node := connect(t, ClientConfig{URL: b.url(), TLS: ca.clientTLS(t, "system:node:n1", "system:nodes"), Node: "n1"})
	closed := make(chan bool, 3)
	for range 3 {
		nc := b.subscriber(t, ca, nats.ClosedHandler(func(*nats.Conn) { closed <- true }))
		for i := range each {
			_, err := nc.Subscribe(fmt.Sprintf("live.h._.pods.prod.p%d", i), func(*nats.Msg) {})
			if err != nil { // it is the one
				break
			}
		}
		_ = nc.Flush() // one may be cut off already
	}
	select {
	case <-closed:
	case <-time.After(time.Minute):
		t.Fatal("any number of subscriptions is accepted")
	}
	require.Eventually(t, func() bool { return slices.Equal(b.subscriptions(t, "alice"), []uint32{each, each}) }, time.Minute, time.Millisecond, "two of three stay")
	require.True(t, node.nc.IsConnected(), "others stay")
}

// subscriptions is how many each connection of a user has.
func (b *testBus) subscriptions(t *testing.T, user string) (has []uint32) {
	t.Helper()
	conns, err := b.server.nats.Connz(&natsserver.ConnzOptions{Account: accountEdge, Username: true, Sort: natsserver.BySubs})
	require.NoError(t, err)
	for _, c := range conns.Conns {
		if c.AuthorizedUser == user {
			has = append(has, c.NumSubs)
		}
	}
	return has
}

// TestClientsPublishOnlyShortMessages: the server keeps what has come of each message until
// it is whole, so a thousand connections could take gigabytes.
func TestClientsPublishOnlyShortMessages(t *testing.T) {
	b, ca := secureBus(t)
	raw, err := net.Dial("tcp", b.server.Address())
	require.NoError(t, err)
	defer func() { _ = raw.Close() }()
	_, err = bufio.NewReaderSize(raw, 1).ReadString('\n') // what the server says of itself, before TLS
	require.NoError(t, err)
	cfg := ca.clientTLS(t, "")
	cfg.ServerName = "127.0.0.1"
	conn := tls.Client(raw, cfg)
	_, err = fmt.Fprintf(conn, "CONNECT {\"auth_token\":\"prod\",\"verbose\":false,\"headers\":true}\r\nPUB bus.API.CONSUMER.CREATE.ARCHIVE.c.h.*.*.prod.> %d\r\nx", 64<<10+1)
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		require.NoError(t, err, "the message is waited for")
		if strings.HasPrefix(line, "-ERR") {
			require.Contains(t, line, "Maximum Payload Violation")
			return
		}
	}
}
