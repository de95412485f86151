package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/rutter-project/rutter/schemas"
)

const (
	scanBatch    = 500
	gentleBatch  = 64       // while changes are published: the server sends a batch in one go
	scanBytes    = 24 << 20 // three of the largest messages, lest large objects fill the memory
	scanIdle     = time.Minute
	scanAttempts = 5
)

// scan describes one pass over the messages of a stream.
type scan struct {
	stream  string
	filter  string
	filters []string // instead of filter: several that don't overlap
	name    string   // of the consumer; "" for a random one
	// Where the pass begins: at a sequence, at a time, after the last message of
	// now, or at the last message of every subject. By default, at the first.
	from           uint64
	since          time.Time
	fresh          bool
	lastPerSubject bool
	// to, if set, is the sequence before which scanArchive looks for holes.
	to uint64
	// follow makes the pass go on with messages as they come, until the context
	// ends.
	follow bool
	// gentle reads in small batches.
	gentle bool
	// ready is called, if set, whenever a consumer has begun.
	ready func()
	// lost is called, if set, before the first message after some that the stream
	// no longer has: with the last event seen and the next one.
	lost func(last, next schemas.Event) error

	last    schemas.Event // last event given to the caller
	trimmed bool          // the stream has dropped messages after from
	safe    time.Time     // until then the stream can't have overtaken the reader
}

// errStop ends a scan early without being an error.
var errStop = errors.New("stop")

// scan calls fn for every message, in order, until there are no more, or until
// fn returns errStop. A pass that is interrupted goes on after the last message,
// except over last messages, where it begins anew; fn must bear that.
func (c *Client) scan(ctx context.Context, s scan, fn func(schemas.Event) error) error {
	attempts, backoff := 0, minResubscribe
	mendable := c.mendable(s.stream)
	var mends uint64
	if mendable {
		var err error
		if mends, err = c.mends(ctx); err != nil {
			return err
		}
	}
	for {
		before := s.last.Seq
		err := c.scanOnce(ctx, &s, fn)
		if err == nil || errors.Is(err, errStop) {
			return nil
		}
		var failed *scanError
		if ctx.Err() != nil || !errors.As(err, &failed) {
			return err
		}
		if mendable {
			if now, failed := c.mends(ctx); failed == nil && now != mends {
				return fmt.Errorf("bus: read %s: %w", s.stream, ErrDamaged)
			}
		}
		attempts++
		if s.last.Seq != before {
			attempts, backoff = 0, minResubscribe
		}
		if attempts >= scanAttempts && !s.follow {
			return err
		}
		c.log.Debug().Err(err).Str("stream", s.stream).Msg("reading interrupted, going on")
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return ctx.Err()
		}
		backoff = min(2*backoff, maxResubscribe)
	}
}

// scanError is a failure of the bus, as opposed to one of the caller's function.
type scanError struct{ err error }

// Error implements error.
func (e *scanError) Error() string { return e.err.Error() }

// Unwrap gives the bus' own error.
func (e *scanError) Unwrap() error { return e.err }

func (s *scan) config(name string) jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{
		Name: name, FilterSubject: s.filter, FilterSubjects: s.filters, AckPolicy: jetstream.AckNonePolicy, MaxDeliver: 1,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: scanIdle,
		DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	switch {
	case s.lastPerSubject:
		cfg.DeliverPolicy = jetstream.DeliverLastPerSubjectPolicy
	case s.from > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, s.from
	case s.fresh:
		cfg.DeliverPolicy = jetstream.DeliverNewPolicy
	case !s.since.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &s.since
	}
	return cfg
}

func (c *Client) scanOnce(ctx context.Context, s *scan, fn func(schemas.Event) error) error {
	fail := func(err error) error {
		return &scanError{fmt.Errorf("bus: read %s: %w", s.stream, explain(err))}
	}
	name := s.name
	if name == "" {
		name = "scan-" + nuid.Next()
	} else if err := c.js.DeleteConsumer(ctx, s.stream, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fail(err) // one that was left behind begins elsewhere
	}
	if s.follow && !c.cfg.edge() {
		if err := c.checkAnew(ctx, s); err != nil {
			return err
		}
	}
	lost, reopened := c.whenLost(), c.whenReopened()
	consumer, err := c.js.CreateOrUpdateConsumer(ctx, s.stream, s.config(name))
	if c.cfg.edge() && errors.Is(err, nats.ErrNoResponders) {
		err = fmt.Errorf("nobody answers requests for consumers; only the bus of `rutter up` does: %w", err)
	}
	if err != nil {
		return fail(err)
	}
	defer c.deleteConsumer(ctx, s.stream, name)
	s.begun(consumer.CachedInfo().Delivered.Stream + 1)
	if s.ready != nil {
		s.ready()
	}
	if consumer.CachedInfo().NumPending == 0 && !s.follow {
		return nil
	}
	batch := scanBatch
	if s.gentle {
		batch = gentleBatch
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(batch, scanBytes))
	if err != nil {
		return fail(err)
	}
	defer messages.Stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, messages.Stop)()
	watch := make(chan struct{})
	defer func() { cancel(nil); <-watch }()
	go func() {
		defer close(watch)
		select {
		case <-lost:
			cancel(errConnectionLost)
		case <-reopened:
			cancel(errConnectionLost)
		case <-ctx.Done():
		}
	}()
	return c.scanMessages(ctx, s, messages, fn)
}

var errConnectionLost = errors.New("connection lost")

// scanMessages reads from one consumer.
func (c *Client) scanMessages(ctx context.Context, s *scan, messages jetstream.MessagesContext, fn func(schemas.Event) error) error {
	var consumerSeq uint64
	for {
		msg, err := messages.Next()
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errConnectionLost) {
			return cause
		}
		if err != nil {
			return &scanError{fmt.Errorf("bus: read %s: %w", s.stream, errors.Join(err, context.Cause(ctx)))}
		}
		m, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("bus: read %s: %w", s.stream, err)
		}
		if m.Sequence.Consumer != consumerSeq+1 {
			return &scanError{fmt.Errorf("bus: read %s: message %d came after %d", s.stream, m.Sequence.Consumer, consumerSeq)}
		}
		consumerSeq = m.Sequence.Consumer
		if err := c.checkOvertaken(ctx, s, m); err != nil {
			return err
		}
		if err := c.scanned(s, msg, m, fn); err != nil {
			return err
		}
		if m.NumPending == 0 && !s.follow {
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
	if s.trimmed {
		s.trimmed = false
		if s.lost != nil {
			if err := s.lost(s.last, e); err != nil {
				return err
			}
		}
	}
	if err := fn(e); err != nil {
		return err
	}
	s.last = e
	if !s.lastPerSubject {
		s.from = e.Seq + 1
	}
	return nil
}

// begun takes the sequence at which the server has let the consumer begin. It is
// a later one than asked for if the stream no longer has that.
func (s *scan) begun(at uint64) {
	switch {
	case s.fresh && at == 1: // nothing was ever stored: all that comes is new
		s.fresh = false
	case s.fresh:
		s.fresh, s.from = false, at
	case s.follow && s.from > 0 && at > s.from:
		s.trimmed = true
	}
}

// checkAnew notices that the stream was made anew and ends before the place where
// the reader stands. The server would wait for that place to come.
func (c *Client) checkAnew(ctx context.Context, s *scan) error {
	if s.from == 0 {
		return nil
	}
	head, err := c.Head(ctx, s.stream)
	if err != nil {
		return &scanError{err}
	}
	if head.Seq+1 < s.from {
		s.trimmed, s.from = true, max(head.First, 1)
	}
	return nil
}

const (
	// scanFresh is how old a message may be and still say that its reader keeps up. What
	// retention drops is much older.
	scanFresh = time.Second
	// fastestTrim is more messages in a second than any stream takes, and so drops.
	fastestTrim = 100_000
)

// checkOvertaken notices that the stream has dropped messages before a slow reader came to
// them: the server goes on with what it still has and says nothing. Only who lags asks,
// and not again before the end of the stream can have come near.
func (c *Client) checkOvertaken(ctx context.Context, s *scan, m *jetstream.MsgMetadata) error {
	now := time.Now()
	age := now.Sub(m.Timestamp)
	if s.lost == nil || s.last.Seq == 0 || m.Sequence.Stream <= s.last.Seq+1 || age.Abs() < scanFresh || now.Before(s.safe) {
		return nil
	}
	cfg := s.config("probe-" + nuid.Next())
	cfg.DeliverPolicy, cfg.OptStartSeq, cfg.OptStartTime = jetstream.DeliverByStartSequencePolicy, 1, nil
	probe, err := c.js.CreateOrUpdateConsumer(ctx, s.stream, cfg)
	if err != nil {
		return &scanError{fmt.Errorf("bus: read %s: %w", s.stream, explain(err))}
	}
	defer c.deleteConsumer(ctx, s.stream, cfg.Name)
	first := probe.CachedInfo().Delivered.Stream + 1
	if first > s.last.Seq+1 {
		s.trimmed = true
		return nil
	}
	s.safe = now.Add(time.Duration(s.last.Seq+1-first) * time.Second / fastestTrim)
	return nil
}

// ReadState calls fn with the last event of every object whose subject matches
// filter, deleted ones included as long as their tombstones are kept. It sees
// everything that STATE had when it was called. An object may be given twice if
// the connection breaks; the later one counts.
func (c *Client) ReadState(ctx context.Context, filter string, fn func(schemas.Event) error) error {
	return c.scan(ctx, scan{stream: StreamState, filter: filter, lastPerSubject: true}, fn)
}

// LastEvent is the last change of an object, or the last gap, in a stream, mended ones
// included. ErrNotFound if there is none.
func (c *Client) LastEvent(ctx context.Context, stream string) (schemas.Event, error) {
	msg, err := c.lastMsg(ctx, stream, schemas.AllObjects)
	if err != nil {
		return schemas.Event{}, err
	}
	last, err := parseStored(msg)
	if err != nil || stream != StreamArchive {
		return last, err
	}
	head, err := c.Head(ctx, stream)
	if n := len(head.holes); err != nil || n == 0 || head.holes[n-1].From < last.Seq {
		return last, err
	}
	err = c.scanArchive(ctx, scan{stream: stream, filter: schemas.AllObjects, from: last.Seq + 1}, func(e schemas.Event) error {
		if !e.Lost() {
			last = e
		}
		return nil
	})
	return last, err
}
