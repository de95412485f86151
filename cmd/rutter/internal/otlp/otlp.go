// Package otlp hands the event log on to an OpenTelemetry collector: each change becomes
// one log record, sent by OTLP over HTTP.
//
// # Guarantees
//
// Every change is delivered at least once and in order. What was delivered is noted in a
// file after the collector has taken it; after a crash the last batch may come again, with
// the same ids (cloudevents.event_source and cloudevents.event_id), by which a receiver
// can tell. A collector that is away is waited for; meanwhile nothing is read, so that
// memory is bounded. So is an API server. A collector that refuses for good ends the bridge with its answer.
package otlp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/schemas"
)

// Config is what is fixed for a bridge.
type Config struct {
	// Endpoint is the collector's base URL, such as http://localhost:4318.
	Endpoint string
	// Headers are sent with every request, for example to authenticate.
	Headers map[string]string
	// StateFile is where the position is noted.
	StateFile string
	// Start says where to begin when there is no position yet.
	Start remote.Query
	// Pass decides which changes are sent; nil sends all.
	Pass func(schemas.Event) bool
	// BatchRecords bounds how many records one request has, BatchBytes about how many
	// bytes their objects have, and Linger how long a record waits for others.
	BatchRecords int
	BatchBytes   int
	Linger       time.Duration
	// Timeout bounds one request. MinBackoff and MaxBackoff bound the pause after one
	// that failed.
	Timeout                time.Duration
	MinBackoff, MaxBackoff time.Duration
}

// DefaultConfig fits a collector on the same network.
func DefaultConfig() Config {
	return Config{
		BatchRecords: 500, BatchBytes: 2 << 20, Linger: 200 * time.Millisecond,
		Timeout: 10 * time.Second, MinBackoff: 100 * time.Millisecond, MaxBackoff: 30 * time.Second,
	}
}

// Validate names the first field that is missing or wrong.
func (c Config) Validate() error {
	u, err := url.Parse(c.Endpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("collector %q is no address; give one such as http://localhost:4318", c.Endpoint)
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("collector %q: want an address without a query", c.Endpoint)
	case c.StateFile == "":
		return errors.New("no file for the position; give one")
	case c.BatchRecords < 1 || c.BatchBytes < 1 || c.Timeout <= 0 || c.MinBackoff <= 0 || c.MaxBackoff < c.MinBackoff:
		return errors.New("batch, timeout and backoff must be positive")
	}
	return nil
}

// source is where events come from.
type source interface {
	Follow(ctx context.Context, q remote.Query, away func(error), fn func(schemas.Event) error) error
}

// Bridge is one way from the log to a collector.
type Bridge struct {
	cfg    Config
	source source
	client *http.Client
	log    zerolog.Logger
	at     position
}

// New checks the configuration and reads the position.
func New(cfg Config, from source, log zerolog.Logger) (*Bridge, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.Endpoint = strings.TrimSuffix(cfg.Endpoint, "/")
	at, err := loadPosition(cfg.StateFile)
	if err != nil {
		return nil, err
	}
	return &Bridge{cfg: cfg, source: from, client: &http.Client{Timeout: cfg.Timeout}, log: log, at: at}, nil
}

// Run sends until ctx ends, and then returns nil.
func (b *Bridge) Run(ctx context.Context) error {
	events := make(chan schemas.Event, b.cfg.BatchRecords)
	defer b.client.CloseIdleConnections()
	g, groupCtx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.read(groupCtx, events) })
	g.Go(func() error { return b.send(groupCtx, events) })
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// read follows the log from the position. It takes everything, whatever is sent: only so
// the sequence says that nothing before it is left.
func (b *Bridge) read(ctx context.Context, to chan<- schemas.Event) error {
	q, at := b.cfg.Start, b.at
	if at.Rev > 0 {
		q = remote.Query{Behind: at.place()}
	}
	away := func(err error) { b.log.Warn().Err(err).Msg("API server does not answer, waiting") }
	return b.source.Follow(ctx, q, away, func(e schemas.Event) error {
		if at.Epoch != "" && clusterOf(at.Epoch) != clusterOf(e.Epoch) {
			return fmt.Errorf("position in %s is of cluster %s, this is %s: give another file, or remove it to begin anew", b.cfg.StateFile, clusterOf(at.Epoch), clusterOf(e.Epoch))
		}
		if at.covers(e) {
			return nil
		}
		select {
		case to <- e:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

func clusterOf(epoch string) string {
	cluster, _, _ := strings.Cut(epoch, ".")
	return cluster
}

// send collects batches and delivers them.
func (b *Bridge) send(ctx context.Context, events <-chan schemas.Event) error {
	for {
		batch, err := b.collect(ctx, events)
		if err != nil {
			return err
		}
		records := batch
		if b.cfg.Pass != nil {
			records = nil
			for _, e := range batch {
				if b.cfg.Pass(e) {
					records = append(records, e)
				}
			}
		}
		if len(records) > 0 {
			if err := b.deliver(ctx, records); err != nil {
				return err
			}
		}
		if b.at = b.at.behind(batch); b.at.Rev == 0 {
			continue
		}
		if err := b.at.save(b.cfg.StateFile); err != nil {
			return err
		}
	}
}

// collect waits for an event and for those that come right behind it.
func (b *Bridge) collect(ctx context.Context, events <-chan schemas.Event) ([]schemas.Event, error) {
	var batch []schemas.Event
	var linger <-chan time.Time
	bytes := 0
	for len(batch) < b.cfg.BatchRecords && bytes < b.cfg.BatchBytes {
		select {
		case e := <-events:
			if batch = append(batch, e); linger == nil {
				linger = time.After(b.cfg.Linger)
			}
			bytes += len(e.Object)
		case <-linger:
			return batch, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return batch, nil
}
