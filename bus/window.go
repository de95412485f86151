package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rutter-project/rutter/schemas"
)

// DefaultWindow is how many messages may be on their way at once.
const DefaultWindow = 1024

// ackTimeout is how long a full or draining window waits for the next answer.
const ackTimeout = 5 * time.Second

// Window appends messages to HISTORY that must follow each other without a gap
// and without anything in between. Every message says which sequence it expects
// to follow, so that the first one that fails makes all later ones fail, and no
// message can enter twice. After an error the window is of no more use: read the
// stream's end and open a new one.
//
// Publish and Flush are called by one goroutine.
type Window struct {
	c     *Client
	inbox string
	sub   *nats.Subscription
	slots chan struct{} // one token for each message on its way
	next  uint64        // sequence of the next message; owned by the publisher
	onAck func(seq uint64)

	mu     sync.Mutex
	acked  uint64        // all up to this sequence are stored; guarded by mu
	err    error         // first failure; guarded by mu
	failed chan struct{} // closed with the first failure
	moved  chan struct{} // closed and replaced with every answer; guarded by mu
}

// OpenWindow opens a window after the message with sequence last. onAck, if not
// nil, is called with each sequence once it is stored, in order.
func (c *Client) OpenWindow(last uint64, size int, onAck func(seq uint64)) (*Window, error) {
	w := &Window{
		c: c, inbox: c.nc.NewInbox(), slots: make(chan struct{}, size), next: last + 1, acked: last, onAck: onAck,
		failed: make(chan struct{}), moved: make(chan struct{}),
	}
	sub, err := c.nc.Subscribe(w.inbox+".*", w.answer)
	if err != nil {
		return nil, fmt.Errorf("bus: window: %w", err)
	}
	w.sub = sub
	return w, sub.SetPendingLimits(-1, -1)
}

// Close stops listening for answers. Messages on their way may still be stored.
func (w *Window) Close() { _ = w.sub.Unsubscribe() }

// Err is the first failure, nil while there is none.
func (w *Window) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Failed is closed with the first failure.
func (w *Window) Failed() <-chan struct{} { return w.failed }

// Next is the sequence that the next message will have.
func (w *Window) Next() uint64 { return w.next }

// Publish sends an event to a subject. It waits only if the window is full. The
// event is stored when onAck has been called with its sequence. A ttl of 0 keeps
// the message as long as the stream does.
func (w *Window) Publish(ctx context.Context, subject string, e schemas.Event, ttl time.Duration) error {
	if err := w.reserve(ctx); err != nil {
		return err
	}
	headers, body := w.c.fit(e).Message()
	headers[jetstream.ExpectedStreamHeader] = historyName
	headers[jetstream.ExpectedLastSeqHeader] = []string{strconv.FormatUint(w.next-1, 10)}
	if ttl > 0 {
		headers[jetstream.MsgTTLHeader] = []string{strconv.FormatInt(int64(ttl/time.Second), 10) + "s"}
	}
	msg := &nats.Msg{Subject: subject, Reply: w.inbox + "." + strconv.FormatUint(w.next, 10), Header: headers, Data: body}
	if err := w.c.nc.PublishMsg(msg); err != nil {
		return w.fail(fmt.Errorf("bus: publish %s: %w", subject, err))
	}
	w.next++
	w.c.traffic.note()
	return w.Err()
}

var historyName = []string{StreamHistory}

// reserve waits until there is room for one more message.
func (w *Window) reserve(ctx context.Context) error {
	select {
	case w.slots <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(ackTimeout)
	defer timer.Stop()
	select {
	case w.slots <- struct{}{}:
		return nil
	case <-w.failed:
		return w.Err()
	case <-timer.C:
		return w.fail(errNoAnswer)
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errNoAnswer = errors.New("bus: no answer from the stream")

// Flush waits until all messages are stored.
func (w *Window) Flush(ctx context.Context) error {
	timer := time.NewTimer(ackTimeout)
	defer timer.Stop()
	for {
		w.mu.Lock()
		done, moved, err := w.acked+1 == w.next, w.moved, w.err
		w.mu.Unlock()
		if done || err != nil {
			return err
		}
		select {
		case <-moved:
			timer.Reset(ackTimeout)
		case <-w.failed:
		case <-timer.C:
			return w.fail(errNoAnswer)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// answer takes the stream's answer to one message. Answers come in order.
func (w *Window) answer(msg *nats.Msg) {
	seq, err := parseAck(msg)
	want, _ := strconv.ParseUint(msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:], 10, 64)
	if err == nil && seq != want {
		err = fmt.Errorf("%w: message stored as %d instead of %d", ErrFenced, seq, want)
	}
	if err != nil {
		_ = w.fail(err)
		return
	}
	w.mu.Lock()
	inOrder := w.err == nil && seq == w.acked+1
	if inOrder {
		w.acked = seq
		close(w.moved)
		w.moved = make(chan struct{})
	}
	w.mu.Unlock()
	if !inOrder {
		_ = w.fail(fmt.Errorf("bus: answer for message %d came out of order", seq))
		return
	}
	if w.onAck != nil {
		w.onAck(seq)
	}
	w.c.traffic.note()
	<-w.slots
}

func (w *Window) fail(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
		close(w.failed)
	}
	return w.err
}

func parseAck(msg *nats.Msg) (uint64, error) {
	if status := msg.Header.Get("Status"); status != "" {
		return 0, fmt.Errorf("bus: publish: status %s: the stream is not there", status)
	}
	var ack struct {
		Seq   uint64              `json:"seq"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &ack); err != nil {
		return 0, fmt.Errorf("bus: publish: %w", err)
	}
	if ack.Error != nil {
		return 0, fmt.Errorf("bus: publish: %w", explain(ack.Error))
	}
	return ack.Seq, nil
}
