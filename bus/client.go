package bus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

// ClientConfig says how to reach a bus. Exactly one of Server and URL is set.
type ClientConfig struct {
	// Name is shown in the server's connection list.
	Name string
	// Server is the embedded server of this process.
	Server *Server
	// URL is an external server or the embedded server of another process; TLS
	// holds the client certificate, if that is the credential.
	URL string
	TLS *tls.Config
	// Token is a bearer token; CredentialsFile a NATS credentials file, for an
	// external server.
	Token           string
	CredentialsFile string
	// Node connects as this node, with nothing but the node's rights.
	Node string
	// User is set by other clients of the account EDGE: the name under which the
	// credentials authenticate.
	User string
	// Heartbeat is how often the server tells an idle consumer that it is there. A
	// consumer that misses two in a row is made anew. 0 means DefaultHeartbeat.
	Heartbeat time.Duration
	// TailCheck is how often NodeRoute asks for the route's last message. 0 means
	// DefaultTailCheck.
	TailCheck time.Duration
	// Fetch reads an object that is too large for the bus from the API server, by the
	// path that stands for it. Without it, informers and routes leave such objects out.
	Fetch func(ctx context.Context, path string) ([]byte, error)
	// Streams must be what the API server made the streams with.
	Streams StreamsConfig
}

// Client is one connection to the bus. It reconnects by itself, for ever.
type Client struct {
	cfg ClientConfig
	nc  *nats.Conn
	js  jetstream.JetStream
	log zerolog.Logger
	// traffic is shared by all clients of an embedded server.
	traffic *traffic

	mu     sync.Mutex
	lost   chan struct{} // closed and replaced when the connection is lost; guarded by mu
	losses uint64        // how often it was; guarded by mu
}

// DefaultHeartbeat is how often an idle consumer hears from the server.
const DefaultHeartbeat = 3 * time.Second

// edge reports that the client belongs to the account EDGE.
func (c ClientConfig) edge() bool { return c.Node != "" || c.User != "" }

// requestTimeout bounds one request to the bus.
const requestTimeout = 5 * time.Second

// Connect connects to the bus. The first connection must succeed; later the
// client reconnects whenever it loses it.
func Connect(ctx context.Context, cfg ClientConfig, log zerolog.Logger) (*Client, error) {
	if (cfg.Server == nil) == (cfg.URL == "") {
		return nil, errors.New("bus: a client needs either a server or a URL")
	}
	if cfg.Streams == (StreamsConfig{}) {
		cfg.Streams = DefaultStreamsConfig()
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = DefaultHeartbeat
	}
	if cfg.TailCheck == 0 {
		cfg.TailCheck = DefaultTailCheck
	}
	c := &Client{cfg: cfg, lost: make(chan struct{}), log: log.With().Str("component", "bus").Logger()}
	if c.traffic = newTraffic(); cfg.Server != nil {
		c.traffic = cfg.Server.traffic
	}
	nc, err := nats.Connect(cfg.URL, c.options(ctx)...)
	if err != nil {
		return nil, fmt.Errorf("bus: connect: %w", err)
	}
	c.nc = nc
	if cfg.edge() {
		c.js, err = jetstream.NewWithAPIPrefix(nc, edgeAPI, jetstream.WithDefaultTimeout(requestTimeout))
	} else {
		c.js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(requestTimeout))
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("bus: %w", err)
	}
	return c, nil
}

func (c *Client) options(ctx context.Context) []nats.Option {
	opts := []nats.Option{
		nats.Name(c.cfg.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(50 * time.Millisecond),
		nats.ReconnectJitter(50*time.Millisecond, 500*time.Millisecond),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectBufSize(-1),
		nats.Timeout(requestTimeout),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			c.connectionLost()
			if err != nil {
				c.log.Warn().Err(err).Msg("connection to the bus lost")
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { c.log.Info().Msg("connection to the bus is back") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			c.log.Warn().Err(err).Msg("bus reports an error")
		}),
	}
	if deadline, ok := ctx.Deadline(); ok {
		opts = append(opts, nats.Timeout(min(requestTimeout, time.Until(deadline))))
	}
	switch {
	case c.cfg.Node != "":
		opts = append(opts, nats.CustomInboxPrefix(nodeInbox(c.cfg.Node)))
	case c.cfg.User != "":
		opts = append(opts, nats.CustomInboxPrefix(userInbox(c.cfg.User)))
	}
	if c.cfg.Server != nil {
		user := coreUser
		if c.cfg.Node != "" {
			user = nodeUserPrefix + c.cfg.Node
		}
		return append(opts, nats.InProcessServer(c.cfg.Server.nats), nats.UserInfo(user, c.cfg.Server.password(user)))
	}
	if c.cfg.TLS != nil {
		opts = append(opts, nats.Secure(c.cfg.TLS))
	}
	if c.cfg.Token != "" {
		opts = append(opts, nats.Token(c.cfg.Token))
	}
	if c.cfg.CredentialsFile != "" {
		opts = append(opts, nats.UserCredentials(c.cfg.CredentialsFile))
	}
	return opts
}

// connectionLost tells everybody who relies on the connection.
func (c *Client) connectionLost() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.lost)
	c.lost = make(chan struct{})
	c.losses++
}

// whenLost is a channel that is closed when the connection is lost next.
func (c *Client) whenLost() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// whenReopened is a channel that is closed when the server of this process closes its streams.
// Of another process' server the consumers' silence tells, half a minute later.
func (c *Client) whenReopened() <-chan struct{} {
	if c.cfg.Server == nil {
		return nil
	}
	return c.cfg.Server.whenReopened()
}

// Openings is another number whenever the streams may have been opened anew. A mirror may then
// have lost an end that it had, and gets it again.
func (c *Client) Openings(ctx context.Context) (uint64, error) {
	c.mu.Lock()
	losses := c.losses
	c.mu.Unlock()
	turn, err := c.serverTurn(ctx)
	return losses<<32 + turn, err
}

// Close ends the connection and everything that runs on it.
func (c *Client) Close() { c.nc.Close() }

// Connected reports whether the client has a connection right now.
func (c *Client) Connected() bool { return c.nc.IsConnected() }
