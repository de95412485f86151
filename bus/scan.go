package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/rutter-project/rutter/schemas"
)

const (
	scanBatch    = 500
	scanIdle     = time.Minute
	scanAttempts = 5
)

// scan describes one pass over messages that are in a stream already.
type scan struct {
	stream string
	filter string
	name   string // of the consumer; "" for a random one
	// Where the pass begins: at a sequence, at a time, or at the last message of
	// every subject.
	from           uint64
	since          time.Time
	lastPerSubject bool
	headersOnly    bool
	// until is the last sequence of interest, 0 for all there are.
	until uint64
}

// errStop ends a scan early without being an error.
var errStop = errors.New("stop")

// run calls fn for every message, in order, until there are no more. fn returns
// errStop to end the scan. A pass that is interrupted goes on after the last
// message, except over last messages, where it begins anew; fn must bear that.
func (c *Client) scan(ctx context.Context, s scan, fn func(schemas.Event) error) error {
	var err error
	for range scanAttempts {
		if err = c.scanOnce(ctx, &s, fn); err == nil || errors.Is(err, errStop) {
			return nil
		}
		var failed *scanError
		if ctx.Err() != nil || !errors.As(err, &failed) {
			return err
		}
		c.log.Debug().Err(err).Str("stream", s.stream).Msg("scan interrupted, going on")
	}
	return err
}

// scanError is a failure of the bus, as opposed to one of the caller's function.
type scanError struct{ err error }

func (e *scanError) Error() string { return e.err.Error() }
func (e *scanError) Unwrap() error { return e.err }

func (s *scan) config(name string) jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{
		Name: name, FilterSubject: s.filter, AckPolicy: jetstream.AckNonePolicy, MaxDeliver: 1,
		HeadersOnly: s.headersOnly, MemoryStorage: true, Replicas: 1, InactiveThreshold: scanIdle,
		DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	switch {
	case s.lastPerSubject:
		cfg.DeliverPolicy = jetstream.DeliverLastPerSubjectPolicy
	case s.from > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, s.from
	case !s.since.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &s.since
	}
	return cfg
}

func (c *Client) scanOnce(ctx context.Context, s *scan, fn func(schemas.Event) error) error {
	name := s.name
	if name == "" {
		name = "scan-" + nuid.Next()
	}
	consumer, err := c.js.CreateOrUpdateConsumer(ctx, s.stream, s.config(name))
	if err != nil {
		return &scanError{fmt.Errorf("bus: read %s: %w", s.stream, explain(err))}
	}
	defer c.deleteConsumer(ctx, s.stream, name)
	if consumer.CachedInfo().NumPending == 0 {
		return nil
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(scanBatch))
	if err != nil {
		return &scanError{fmt.Errorf("bus: read %s: %w", s.stream, err)}
	}
	defer messages.Stop()
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	var consumerSeq uint64
	for {
		msg, err := messages.Next()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return &scanError{fmt.Errorf("bus: read %s: %w", s.stream, err)}
		}
		m, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("bus: read %s: %w", s.stream, err)
		}
		if m.Sequence.Consumer != consumerSeq+1 {
			return &scanError{fmt.Errorf("bus: read %s: message %d came after %d", s.stream, m.Sequence.Consumer, consumerSeq)}
		}
		consumerSeq = m.Sequence.Consumer
		if s.until > 0 && m.Sequence.Stream > s.until {
			return nil
		}
		if err := c.scanned(s, msg, m, fn); err != nil {
			return err
		}
		if m.NumPending == 0 || s.until > 0 && m.Sequence.Stream == s.until {
			return nil
		}
	}
}

func (c *Client) scanned(s *scan, msg jetstream.Msg, m *jetstream.MsgMetadata, fn func(schemas.Event) error) error {
	e, err := schemas.ParseEvent(map[string][]string(msg.Headers()), msg.Data())
	if err != nil {
		return fmt.Errorf("bus: message %d of %s on %s: %w", m.Sequence.Stream, s.stream, msg.Subject(), err)
	}
	e.Seq, e.Recorded = m.Sequence.Stream, m.Timestamp
	if err := fn(e); err != nil {
		return err
	}
	if !s.lastPerSubject {
		s.from = e.Seq + 1
	}
	return nil
}

// ReadState calls fn with the last event of every object whose subject matches
// filter, deleted ones included as long as their tombstones are kept. It sees
// everything that STATE had when it was called. An object may be given twice if
// the connection breaks; the later one counts.
func (c *Client) ReadState(ctx context.Context, filter string, fn func(schemas.Event) error) error {
	return c.scan(ctx, scan{stream: StreamState, filter: filter, lastPerSubject: true}, fn)
}

// LastRevision is the revision of the last message of an object or gap in a
// stream, 0 if the stream has none.
func (c *Client) LastRevision(ctx context.Context, stream string) (int64, error) {
	msg, err := c.lastMsg(ctx, stream, schemas.AllObjects)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	e, err := parseStored(msg)
	if err != nil {
		return 0, err
	}
	return e.Rev, nil
}
