package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/rutter-project/rutter/schemas"
)

const (
	heartbeatsMissed  = 2
	consumerIdle      = 5 * time.Minute
	watchBuffer       = 256
	arrivalBuffer     = 64
	minResubscribe    = 50 * time.Millisecond
	maxResubscribe    = 5 * time.Second
	statusControl     = "100"
	headerLastSeq     = "Nats-Last-Consumer"
	headerStalled     = "Nats-Consumer-Stalled"
	consumerDeleteMax = time.Second
)

// stateWatch delivers one resource from STATE: what is there, the mark, and
// every change after it. It has one push consumer at a time, and makes another
// one, right after the last message it saw, whenever something is amiss.
type stateWatch struct {
	source *source
	cancel context.CancelFunc
	done   chan struct{}
	events chan watch.Event

	// Owned by run.
	at      place
	synced  bool      // the initial events have ended
	retried bool      // the initial events were begun more than once
	mark    uint64    // where STATE ended when the initial events began
	seen    time.Time // when the bus was last heard of
}

// Stop implements watch.Interface.
func (w *stateWatch) Stop() {
	w.cancel()
	<-w.done
}

// ResultChan implements watch.Interface.
func (w *stateWatch) ResultChan() <-chan watch.Event { return w.events }

// run repeats sessions until the watch is stopped or can't go on without a new
// list.
func (w *stateWatch) run(ctx context.Context) {
	defer close(w.done)
	defer close(w.events)
	backoff := minResubscribe
	w.seen = time.Now()
	for {
		before := w.at.seq
		err := w.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, ErrExpired) {
			w.source.relists.Add(1)
			w.source.log.Info().Err(err).Msg("listing again")
			status := apierrors.NewResourceExpired(err.Error()).Status()
			_ = w.send(ctx, watch.Event{Type: watch.Error, Object: &status})
			return
		}
		if w.at.seq != before {
			backoff = minResubscribe
		}
		w.retried = true
		w.source.log.Warn().Err(err).Dur("backoff", backoff).Msg("consumer lost, making another")
		select {
		case <-time.After(backoff/2 + rand.N(backoff)):
		case <-ctx.Done():
			return
		}
		backoff = min(2*backoff, maxResubscribe)
	}
}

// session lives as long as one consumer.
func (w *stateWatch) session(ctx context.Context) error {
	c := w.source.c
	cfg, err := w.prepare(ctx)
	if err != nil {
		return err
	}
	arrivals, err := c.arrivals(ctx, cfg.DeliverSubject)
	if err != nil {
		return err
	}
	defer arrivals.stop()
	consumer, err := c.js.CreatePushConsumer(ctx, StreamState, cfg)
	if err != nil {
		return fmt.Errorf("create consumer: %w", explain(err))
	}
	defer c.deleteConsumer(ctx, StreamState, cfg.Name)
	if !w.synced && consumer.CachedInfo().NumPending == 0 {
		if err := w.endOfInitial(ctx); err != nil {
			return err
		}
	}
	return w.receive(ctx, arrivals)
}

// prepare decides where the next consumer begins.
func (w *stateWatch) prepare(ctx context.Context) (jetstream.ConsumerConfig, error) {
	head, err := w.source.c.Head(ctx, StreamState)
	if err != nil {
		return jetstream.ConsumerConfig{}, err
	}
	cfg := jetstream.ConsumerConfig{
		Name: "informer-" + nuid.Next(), DeliverSubject: w.source.c.nc.NewInbox(), FilterSubject: w.source.filter(),
		AckPolicy: jetstream.AckNonePolicy, MaxDeliver: 1, FlowControl: true, IdleHeartbeat: w.source.c.cfg.Heartbeat,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: consumerIdle,
	}
	if !w.synced {
		w.at, w.mark = place{epoch: head.Epoch}, head.Seq
		w.source.track.begin(head.Epoch)
		cfg.DeliverPolicy = jetstream.DeliverLastPerSubjectPolicy
		return cfg, nil
	}
	switch {
	case head.Epoch != w.at.epoch:
		return cfg, fmt.Errorf("%w: the stream was made anew", ErrExpired)
	case head.Seq < w.at.seq:
		return cfg, fmt.Errorf("%w: the stream ends at %d, before %d", ErrExpired, head.Seq, w.at.seq)
	case time.Since(w.seen) > w.source.c.cfg.Streams.TombstoneTTL()/2:
		return cfg, fmt.Errorf("%w: no contact since %s", ErrExpired, w.seen.Format(time.RFC3339))
	}
	cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, w.at.seq+1
	return cfg, nil
}

// receive takes messages until one is missing or the server falls silent.
func (w *stateWatch) receive(ctx context.Context, arrivals *arrivals) error {
	// A little more than the heartbeats take, so that a late one is no loss.
	silence := heartbeatsMissed*w.source.c.cfg.Heartbeat + w.source.c.cfg.Heartbeat/2
	var consumerSeq uint64
	for {
		msg, err := arrivals.next(silence)
		if err != nil {
			return fmt.Errorf("next message: %w", err)
		}
		w.seen = time.Now()
		if drop := w.source.drop; drop != nil && drop(msg) {
			continue
		}
		if msg.Header.Get("Status") != "" {
			if err := control(w.source.c.nc, msg, consumerSeq); err != nil {
				return err
			}
			continue
		}
		m, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("message on %s: %w", msg.Subject, err)
		}
		if m.Sequence.Consumer != consumerSeq+1 {
			return fmt.Errorf("message %d of the consumer came after %d", m.Sequence.Consumer, consumerSeq)
		}
		consumerSeq = m.Sequence.Consumer
		if err := w.take(ctx, msg, m); err != nil {
			return err
		}
	}
}

// control answers flow control and checks heartbeats, which say what we should
// have received.
func control(nc *nats.Conn, msg *nats.Msg, consumerSeq uint64) error {
	if status := msg.Header.Get("Status"); status != statusControl {
		return fmt.Errorf("consumer ended: %s %s", status, msg.Header.Get("Description"))
	}
	if msg.Reply != "" {
		return nc.Publish(msg.Reply, nil)
	}
	if stalled := msg.Header.Get(headerStalled); stalled != "" {
		if err := nc.Publish(stalled, nil); err != nil {
			return err
		}
	}
	if last := msg.Header.Get(headerLastSeq); last != "" {
		if n, err := strconv.ParseUint(last, 10, 64); err == nil && n != consumerSeq {
			return fmt.Errorf("server sent %d messages, %d came", n, consumerSeq)
		}
	}
	return nil
}

// take hands one message on.
func (w *stateWatch) take(ctx context.Context, msg *nats.Msg, m *nats.MsgMetadata) error {
	seq := m.Sequence.Stream
	if !w.synced && seq > w.mark {
		if err := w.endOfInitial(ctx); err != nil {
			return err
		}
	}
	e, err := schemas.ParseEvent(map[string][]string(msg.Header), msg.Data)
	if err != nil {
		// Nobody but a relay can write here. To stop at a message that can't be
		// read would stop at it for ever.
		w.source.log.Error().Err(err).Uint64("seq", seq).Msg("message can't be read, skipped")
		w.at.seq = seq
	} else {
		e.Seq = seq
		if w.synced && e.Epoch != w.at.epoch {
			return fmt.Errorf("%w: the stream was made anew", ErrExpired)
		}
		if err := w.deliver(ctx, e); err != nil {
			return err
		}
	}
	if !w.synced && m.NumPending == 0 {
		return w.endOfInitial(ctx)
	}
	return nil
}

// deliver sends one event to the reflector.
func (w *stateWatch) deliver(ctx context.Context, e schemas.Event) error {
	w.at.seq, w.at.rev = e.Seq, max(e.Rev, w.at.rev)
	kind, ok := w.eventType(e.Type)
	if !ok {
		return nil
	}
	obj, err := w.source.decode(ctx, e)
	if err != nil {
		w.source.log.Error().Err(err).Str("namespace", e.Key.Namespace).Str("name", e.Key.Name).Int64("rev", e.Rev).
			Msg("object can't be decoded, skipped")
		return nil
	}
	w.source.track.delivered(e)
	if err := w.send(ctx, watch.Event{Type: kind, Object: obj}); err != nil {
		return err
	}
	w.source.moved(w.at)
	return nil
}

// eventType is what the reflector is told; false if nothing.
func (w *stateWatch) eventType(t schemas.EventType) (watch.EventType, bool) {
	switch t {
	case schemas.Added, schemas.Modified:
		if !w.synced || t == schemas.Added {
			return watch.Added, true
		}
		return watch.Modified, true
	case schemas.Deleted:
		return watch.Deleted, w.synced || w.retried
	default:
		return "", false
	}
}

// endOfInitial tells the reflector that the initial events are complete.
func (w *stateWatch) endOfInitial(ctx context.Context) error {
	w.synced = true
	w.at.seq, w.at.rev = max(w.at.seq, w.mark), max(w.at.rev, 1)
	obj, err := w.source.bookmark(w.at.rev)
	if err != nil {
		return err
	}
	if err := w.send(ctx, watch.Event{Type: watch.Bookmark, Object: obj}); err != nil {
		return err
	}
	w.source.moved(w.at)
	w.source.track.passed(w.at.seq)
	return nil
}

func (w *stateWatch) send(ctx context.Context, event watch.Event) error {
	select {
	case w.events <- event:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// deleteConsumer tidies up; a consumer that stays is removed by the server.
func (c *Client) deleteConsumer(ctx context.Context, stream, name string) {
	if !c.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), consumerDeleteMax)
	defer cancel()
	if err := c.js.DeleteConsumer(ctx, stream, name); err != nil {
		c.log.Debug().Err(err).Str("consumer", name).Msg("consumer not deleted")
	}
}
