package bus

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

// authority is a certificate authority for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{cert: cert, key: key, pool: pool}
}

func (a *authority) issue(t testing.TB, name string, groups ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// clientTLS is the configuration of a client, with a certificate if name is set.
func (a *authority) clientTLS(t testing.TB, name string, groups ...string) *tls.Config {
	cfg := &tls.Config{RootCAs: a.pool, MinVersion: tls.VersionTLS13}
	if name != "" {
		cfg.Certificates = []tls.Certificate{a.issue(t, name, groups...)}
	}
	return cfg
}

// secureBus is a bus that listens with TLS and grants the token "prod" the
// namespace of that name.
func secureBus(t testing.TB) (*testBus, *authority) {
	t.Helper()
	ca := newAuthority(t)
	server := testServer(t, t.TempDir(), func(cfg *ServerConfig) {
		cfg.Listen = "127.0.0.1:0"
		cfg.TLS = &tls.Config{
			Certificates: []tls.Certificate{ca.issue(t, "server")}, ClientCAs: ca.pool,
			ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS13,
		}
		cfg.CoreUsers = []string{"system:rutter:scheduler"}
		cfg.Authorize = func(_ context.Context, c Credentials) (Grant, error) {
			if c.Token == "prod" {
				return Grant{User: "alice", Filters: []string{"h.*.*.prod.>"}}, nil
			}
			return Grant{}, errors.New("unknown token")
		}
	})
	b := &testBus{server: server}
	b.Client = connect(t, ClientConfig{Server: server})
	made, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	b.epoch, b.rev = made.Epoch, 100
	b.open(t)
	return b, ca
}

func (b *testBus) url() string { return "tls://" + b.server.Address() }

func TestWhoMayConnect(t *testing.T) {
	b, ca := secureBus(t)
	for name, tc := range map[string]struct {
		cfg    ClientConfig
		allows bool
	}{
		"system component":          {ClientConfig{TLS: ca.clientTLS(t, "system:rutter:scheduler")}, true},
		"node":                      {ClientConfig{TLS: ca.clientTLS(t, "system:node:n1", "system:nodes"), Node: "n1"}, true},
		"node without the group":    {ClientConfig{TLS: ca.clientTLS(t, "system:node:n1"), Node: "n1"}, false},
		"token":                     {ClientConfig{TLS: ca.clientTLS(t, ""), Token: "prod", User: "alice"}, true},
		"unknown token":             {ClientConfig{TLS: ca.clientTLS(t, ""), Token: "x", User: "alice"}, false},
		"nothing":                   {ClientConfig{TLS: ca.clientTLS(t, "")}, false},
		"certificate of a stranger": {ClientConfig{TLS: ca.clientTLS(t, "mallory")}, false},
		"certificate of another CA": {ClientConfig{TLS: newAuthority(t).clientTLS(t, "system:rutter:scheduler")}, false},
		"in-process name over TCP":  {ClientConfig{TLS: ca.clientTLS(t, "core")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			tc.cfg.URL = b.url()
			c, err := Connect(t.Context(), tc.cfg, zerolog.Nop())
			if !tc.allows {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			c.Close()
		})
	}
}

func TestNodeOverTLSFollowsItsRoute(t *testing.T) {
	b, ca := secureBus(t)
	c := connect(t, ClientConfig{URL: b.url(), TLS: ca.clientTLS(t, "system:node:n1.example", "system:nodes"), Node: "n1.example", TailCheck: 50 * time.Millisecond})
	table := newPodTable()
	followRoute(t, c, "n1.example", emptyList(b.rev), table)
	table.wait(t, 0)
	var want []int64
	for range 20 {
		want = append(want, b.sendRoute(t, "n1.example", schemas.Modified, "a"))
	}
	b.flush(t)
	require.NoError(t, c.nc.ForceReconnect())
	for range 20 {
		want = append(want, b.sendRoute(t, "n1.example", schemas.Modified, "a"))
	}
	b.flush(t)
	require.Equal(t, want, table.wait(t, len(want)), "with gaps repaired by the node's own rights")
}

// denied requires that the server refuses to let a client publish.
func denied(t *testing.T, c *Client, subject string) {
	t.Helper()
	errs := make(chan error, 16)
	c.nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { errs <- err })
	require.NoError(t, c.nc.Publish(subject, nil))
	select {
	case err := <-errs:
		require.ErrorIs(t, err, nats.ErrPermissionViolation, subject)
	case <-time.After(5 * time.Second):
		t.Fatalf("publish to %s was not refused", subject)
	}
}

func deniedSubscribe(t *testing.T, c *Client, subject string) {
	t.Helper()
	errs := make(chan error, 16)
	c.nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { errs <- err })
	sub, err := c.nc.SubscribeSync(subject)
	require.NoError(t, err)
	defer func() { _ = sub.Unsubscribe() }()
	select {
	case err := <-errs:
		require.ErrorIs(t, err, nats.ErrPermissionViolation, subject)
	case <-time.After(5 * time.Second):
		t.Fatalf("subscription to %s was not refused", subject)
	}
}

func TestNodeMayOnlyUseItsOwnSubjects(t *testing.T) {
	b, ca := secureBus(t)
	c := connect(t, ClientConfig{URL: b.url(), TLS: ca.clientTLS(t, "system:node:n1", "system:nodes"), Node: "n1"})
	for _, subject := range []string{
		"h._.pods.default.x", "n.n1", "n.n2", "relay.ckpt", "live.n.n1", LiveResync,
		"$JS.API.STREAM.DELETE.HISTORY", "$JS.API.INFO",
		"bus.API.CONSUMER.CREATE.HISTORY.n1.n.n2", "bus.API.CONSUMER.CREATE.HISTORY.n1.n.*", "bus.API.CONSUMER.CREATE.HISTORY.n1.>",
		"bus.API.CONSUMER.CREATE.HISTORY.n1", "bus.API.CONSUMER.CREATE.HISTORY.n2.n.n2", "bus.API.CONSUMER.CREATE.ARCHIVE.n1.h.>",
		"bus.API.CONSUMER.MSG.NEXT.HISTORY.n2", "bus.API.CONSUMER.DELETE.HISTORY.n2", "bus.API.DIRECT.GET.LASTN.n.n2",
		"bus.API.DIRECT.GET.LASTN", "bus.API.STREAM.INFO.ARCHIVE",
	} {
		denied(t, c, subject)
	}
	for _, subject := range []string{">", "live.>", "live.n.*", "live.n.n2", "_INBOX.>", "_INBOX.n.n2.>", "h.>", "n.n1"} {
		deniedSubscribe(t, c, subject)
	}
	head, err := b.Head(t.Context(), StreamHistory)
	require.NoError(t, err)
	require.True(t, head.Empty)
}

func TestReplySubjectsDoNotReachTheStreams(t *testing.T) {
	b, ca := secureBus(t)
	b.sendRoute(t, "n1", schemas.Added, "a")
	b.flush(t)
	b.settle(t, StreamLastN)
	before, err := b.Head(t.Context(), StreamHistory)
	require.NoError(t, err)
	c := connect(t, ClientConfig{URL: b.url(), TLS: ca.clientTLS(t, "system:node:n1", "system:nodes"), Node: "n1"})
	// The server answers a direct get to whatever reply subject it was given.
	for _, reply := range []string{"h._.pods.default.evil", "n.n2", "relay.ckpt"} {
		require.NoError(t, c.nc.PublishRequest("bus.API.DIRECT.GET.LASTN.n.n1", reply, nil))
	}
	_, _, err = (&route{c: c, node: "n1", subject: "n.n1"}).tail(t.Context())
	require.NoError(t, err, "the requests before this one have been answered")
	after, err := b.Head(t.Context(), StreamHistory)
	require.NoError(t, err)
	require.Equal(t, before.Seq, after.Seq)
	checkpoint, err := b.LoadCheckpoint(t.Context())
	require.NoError(t, err)
	require.Zero(t, checkpoint)
}

func TestTapSeesOnlyWhatIsGranted(t *testing.T) {
	b, ca := secureBus(t)
	c := connect(t, ClientConfig{URL: b.url(), TLS: ca.clientTLS(t, ""), Token: "prod", User: "alice"})
	granted := schemas.Key{Resource: "pods", Namespace: "prod", Name: "a"}
	events := tapping(t, c, TapOptions{Filter: schemas.Filter(schemas.Key{Group: "*", Resource: "*", Namespace: "prod", Name: "*"})})
	b.send(t, schemas.Added, pod("secret"), 1)
	rev := b.send(t, schemas.Added, granted, 1)
	b.flush(t)
	require.Equal(t, rev, next(t, events).Rev)
	events = tapping(t, c, TapOptions{Filter: granted.Subject(), SinceRev: rev})
	require.Equal(t, rev, next(t, events).Rev, "the past too")
	var log []int64
	require.NoError(t, c.Log(t.Context(), granted, func(e schemas.Event) error {
		log = append(log, e.Rev)
		return nil
	}))
	require.Equal(t, []int64{rev}, log)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.Error(t, c.Log(ctx, pod("secret"), nil))

	for _, subject := range []string{
		"bus.API.CONSUMER.CREATE.ARCHIVE.x.h.>", "bus.API.CONSUMER.CREATE.ARCHIVE.x.h.*.*.*.>", "bus.API.CONSUMER.CREATE.ARCHIVE.x",
		"bus.API.CONSUMER.CREATE.ARCHIVE.x.h._.pods.default.>", "bus.API.CONSUMER.CREATE.HISTORY.x.h._.pods.prod.>",
		"h._.pods.prod.a", "bus.API.DIRECT.GET.LASTN.n.n1", "bus.API.STREAM.INFO.ARCHIVE", "$JS.API.STREAM.INFO.ARCHIVE",
	} {
		denied(t, c, subject)
	}
	for _, subject := range []string{"live.h.>", "live.h._.pods.default.*", "live.n.n1", "_INBOX.>", "_INBOX.n.n1.>", "_INBOX.u.bob.>"} {
		deniedSubscribe(t, c, subject)
	}
}

func TestConsumerMustMatchItsSubject(t *testing.T) {
	b, ca := secureBus(t)
	c := connect(t, ClientConfig{URL: b.url(), TLS: ca.clientTLS(t, ""), Token: "prod", User: "alice"})
	// Allowed by the subject, but the body asks for more.
	body := []byte(`{"stream_name":"ARCHIVE","config":{"name":"x","filter_subject":"h.>","ack_policy":"none","deliver_policy":"all"}}`)
	msg, err := c.nc.Request("bus.API.CONSUMER.CREATE.ARCHIVE.x.h._.pods.prod.>", body, 5*time.Second)
	require.NoError(t, err)
	require.Contains(t, string(msg.Data), `"error"`)
	_, err = b.js.Consumer(t.Context(), StreamArchive, "x")
	require.ErrorIs(t, err, jetstream.ErrConsumerNotFound)
}

func TestPortThatIsTakenIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	cfg := DefaultServerConfig(t.TempDir())
	cfg.Listen, cfg.TLS = l.Addr().String(), &tls.Config{MinVersion: tls.VersionTLS13}
	s, err := NewServer(cfg, zerolog.Nop())
	require.NoError(t, err)
	err = s.Start(t.Context())
	require.ErrorContains(t, err, "address already in use")
}

// TestNodeCannotWriteIntoAnothersRoute: a node can make the server answer its own request
// to another node's live subject, and the other node does not believe it.
func TestNodeCannotWriteIntoAnothersRoute(t *testing.T) {
	b, ca := secureBus(t)
	b.sendRoute(t, "n1", schemas.Added, "evil")
	b.flush(t)
	b.settle(t, StreamLastN)
	node := func(name string) *Client {
		return connect(t, ClientConfig{URL: b.url(), TLS: ca.clientTLS(t, "system:node:"+name, "system:nodes"), Node: name})
	}
	attacker, victim := node("n1"), node("n2")
	table := newPodTable()
	followRoute(t, victim, "n2", emptyList(b.rev), table)
	table.wait(t, 0)
	for range 5 {
		require.NoError(t, attacker.nc.PublishRequest("bus.API.DIRECT.GET.LASTN.n.n1", "live.n.n2", nil))
	}
	_, _, err := (&route{c: attacker, node: "n1", subject: "n.n1"}).tail(t.Context())
	require.NoError(t, err, "the requests before this one have been answered")
	want := []int64{b.sendRoute(t, "n2", schemas.Added, "good")}
	b.flush(t)
	require.Equal(t, want, table.wait(t, 1))
}
