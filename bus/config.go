package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/rutter-project/rutter/schemas"
)

// The streams. HISTORY is the log that the relay appends to; the others are
// filtered mirrors of it that keep its sequence numbers, except RELAY, which
// holds the relay's checkpoint.
const (
	StreamHistory = "HISTORY"
	StreamState   = "STATE"
	StreamArchive = "ARCHIVE"
	StreamLastN   = "LASTN"
	StreamRelay   = "RELAY"
)

// Subjects outside the schema of objects.
const (
	checkpointSubject = "relay.ckpt"
	// LiveResync is published on core NATS when a resync has closed a gap.
	LiveResync = schemas.LiveRoot + "resync"
	// edgeAPI is the prefix under which the account EDGE reaches the few calls of
	// JetStream that it may use.
	edgeAPI = "bus.API"
)

// The accounts of the embedded server.
const (
	accountCore = "CORE"
	accountEdge = "EDGE"
)

// ServerConfig is what is fixed for an embedded NATS server.
type ServerConfig struct {
	// Name is the server's name, unique among those that clients know.
	Name string
	// StoreDir holds the streams. It is made with mode 0700 if missing.
	StoreDir string
	// Listen is the host:port for clients of other processes, "" for none. TLS is
	// then required, with certificates verified if given.
	Listen string
	TLS    *tls.Config
	// MaxStore is how many bytes all streams together may take. It must not be
	// less than the sum of the streams' limits.
	MaxStore int64
	// MaxMemory bounds streams and consumers in memory, in bytes.
	MaxMemory int64
	// MaxPayload is the size of the largest message in bytes.
	MaxPayload int32
	// SyncInterval is how often stream files are flushed to disk. A loss of power takes
	// what was not flushed; it is written again from etcd, whose compaction waits for
	// that long. Flushing holds up etcd's own, once for each stream and interval.
	SyncInterval time.Duration
	// CoreUsers are the common names of client certificates that get the account
	// of the system's components.
	CoreUsers []string
	// Authorize decides about everybody else. Nil denies.
	Authorize Authorizer
}

// DefaultServerConfig fits a single machine with a small disk.
func DefaultServerConfig(storeDir string) ServerConfig {
	return ServerConfig{
		Name:         "rutter",
		StoreDir:     storeDir,
		MaxStore:     6 << 30,
		MaxMemory:    256 << 20,
		MaxPayload:   8 << 20,
		SyncInterval: 10 * time.Second,
	}
}

// Validate says what is wrong with the configuration.
func (c ServerConfig) Validate() error {
	switch {
	case c.Name == "":
		return errors.New("bus: server name is empty")
	case c.StoreDir == "":
		return errors.New("bus: store directory is empty")
	case c.Listen != "" && c.TLS == nil:
		return fmt.Errorf("bus: listening on %s needs TLS", c.Listen)
	case c.MaxStore <= 0 || c.MaxMemory <= 0 || c.MaxPayload <= 0:
		return errors.New("bus: limits must be positive")
	case c.SyncInterval <= 0:
		return errors.New("bus: sync interval must be positive")
	default:
		return nil
	}
}

// Credentials are what a client showed when it connected.
type Credentials struct {
	// Token is the bearer token, "" if there is none.
	Token string
	// Certificate is the verified client certificate, nil if there is none.
	Certificate *x509.Certificate
}

// Grant is what a client may do. The zero Grant allows nothing.
type Grant struct {
	// User is the authenticated name; it is for logs only.
	User string
	// Filters are the subjects of objects the client may read, for example
	// "h.*.*.prod.>". They apply to live events and to history alike.
	Filters []string
	// Expires ends the connection, so that the client has to show its credentials
	// again. Zero means the server's default of an hour.
	Expires time.Time
}

// Authorizer maps credentials to a grant. An error denies; it is logged, not
// shown to the client.
type Authorizer func(ctx context.Context, c Credentials) (Grant, error)

// StreamsConfig sizes the streams.
type StreamsConfig struct {
	// Replicas of every stream; 1 on a single server.
	Replicas int
	// HistoryBytes and HistoryAge bound the log that everybody follows.
	HistoryBytes int64
	HistoryAge   time.Duration
	// ArchiveBytes and ArchiveAge bound how far the past can be read.
	ArchiveBytes int64
	ArchiveAge   time.Duration
	// KeyframeBytes bounds the whole states that are kept beside the archive.
	KeyframeBytes int64
	// PackBytes bounds the packed copy of the archive.
	PackBytes int64
}

// DefaultStreamsConfig fits a single machine with a small disk.
func DefaultStreamsConfig() StreamsConfig {
	return StreamsConfig{
		Replicas:      1,
		HistoryBytes:  512 << 20,
		HistoryAge:    12 * time.Hour,
		ArchiveBytes:  2 << 30,
		ArchiveAge:    30 * 24 * time.Hour,
		KeyframeBytes: 1 << 30,
		PackBytes:     1 << 30,
	}
}

// Validate says what is wrong with the configuration.
func (c StreamsConfig) Validate() error {
	switch {
	case c.Replicas < 1:
		return errors.New("bus: streams need at least one replica")
	case c.HistoryBytes <= 0 || c.ArchiveBytes <= 0 || c.KeyframeBytes <= 0 || c.PackBytes <= 0:
		return errors.New("bus: stream sizes must be positive")
	case c.HistoryAge < time.Second || c.ArchiveAge < c.HistoryAge:
		return errors.New("bus: history must be kept for a second at least, and the archive for as long as history")
	default:
		return nil
	}
}

// TombstoneTTL is how long a deleted object stays in STATE. It is longer than
// HISTORY keeps anything: a shorter time would bring the object's previous
// version back.
func (c StreamsConfig) TombstoneTTL() time.Duration { return c.HistoryAge + time.Hour }
