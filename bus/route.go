package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/schemas"
)

// DefaultTailCheck is how often a node asks for the last message of its route,
// which is the only way to notice the loss of a last message.
const DefaultTailCheck = 30 * time.Second

const (
	routeBuffer = 1024
	// tailLag is for how long the mirror that tails are asked of may lack what has come
	// live already.
	tailLag      = 10 * time.Second
	apiCore      = "$JS.API"
	statusNoData = "404"
)

// PodLister reads all pods bound to the node from the API server, at a revision
// that is not older than the call.
type PodLister func(ctx context.Context) (pods []*corev1.Pod, rev int64, err error)

// RouteHandler takes what happens to a node's pods. Its methods are called by
// one goroutine, one at a time.
type RouteHandler interface {
	// Sync replaces everything known: these are the node's pods as of rev.
	Sync(pods []*corev1.Pod, rev int64)
	// Apply takes one change. Changes come in order, each once.
	Apply(e RouteEvent)
}

// RouteEvent is one change of one pod.
type RouteEvent struct {
	// Type is ADDED when the pod was bound to the node, MODIFIED, DELETED, or LEFT
	// when it is bound to another node now.
	Type schemas.EventType
	// Pod is the pod after the change; on DELETED and LEFT as it last was on this
	// node. Its resourceVersion is Rev.
	Pod    *corev1.Pod
	Rev    int64
	Header schemas.Header
}

// route follows one node.
type route struct {
	c       *Client
	node    string
	subject string
	list    PodLister
	handler RouteHandler

	synced  bool
	seq     uint64 // last message of the route that was handled
	listRev int64  // what the last list had
	epoch   string
	seen    time.Time // when the route was last known to be complete
	ahead   struct {  // the first message of those that came live and the tail lacks
		seq   uint64 // 0 if there is none
		since time.Time
	}
}

// errRelist says that the route can't be continued and the pods must be listed.
var errRelist = errors.New("pods must be listed again")

// NodeRoute follows the pods of a node until ctx ends, and then returns nil. It
// listens to the node's live subject, which costs the server next to nothing,
// lists the pods once, and finds every gap by the sequence numbers that the
// messages carry; gaps are filled from HISTORY. It lists again only after it was
// away for too long, or when the stream itself has a gap.
func (c *Client) NodeRoute(ctx context.Context, node string, list PodLister, handler RouteHandler) error {
	r := &route{c: c, node: node, subject: schemas.NodeRoute(node), list: list, handler: handler}
	backoff := minResubscribe
	for {
		before := r.seen
		err := r.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if r.seen.After(before) {
			backoff = minResubscribe
		}
		if errors.Is(err, errRelist) {
			r.synced = false
		}
		c.log.Warn().Err(err).Str("node", node).Dur("backoff", backoff).Msg("route of the node interrupted")
		select {
		case <-time.After(backoff/2 + rand.N(backoff)):
		case <-ctx.Done():
			return nil
		}
		backoff = min(2*backoff, maxResubscribe)
	}
}

// session follows the route until the connection breaks.
func (r *route) session(ctx context.Context) error {
	lost := r.c.whenLost()
	live := make(chan *nats.Msg, routeBuffer)
	for _, subject := range []string{schemas.LiveRoot + r.subject, LiveResync} {
		// A full channel makes the client drop messages; that is a gap like any.
		sub, err := r.c.nc.ChanSubscribe(subject, live)
		if err != nil {
			return fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		defer func() { _ = sub.Unsubscribe() }()
	}
	if err := r.c.nc.FlushTimeout(requestTimeout); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	if err := r.begin(ctx); err != nil {
		return err
	}
	check := time.NewTicker(r.c.cfg.TailCheck)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-lost:
			return errConnectionLost
		case <-check.C:
			if err := r.checkTail(ctx); err != nil {
				return err
			}
		case msg := <-live:
			if msg.Subject == LiveResync {
				return fmt.Errorf("%w: the stream had a gap", errRelist)
			}
			if err := r.take(ctx, msg); err != nil {
				return err
			}
		}
	}
}

// begin lists the pods, or fills the gap that an interruption left.
func (r *route) begin(ctx context.Context) error {
	if r.synced && time.Since(r.seen) < r.c.cfg.Streams.HistoryAge/2 {
		return r.checkTail(ctx)
	}
	// The order matters: whatever the tail includes, a later list includes too.
	seq, epoch, err := r.tail(ctx)
	if err != nil {
		return err
	}
	pods, rev, err := r.list(ctx)
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	r.handler.Sync(pods, rev)
	r.synced, r.seq, r.listRev, r.epoch, r.seen = true, seq, rev, epoch, time.Now()
	return nil
}

// checkTail looks whether the route has a message that did not come.
func (r *route) checkTail(ctx context.Context) error {
	seq, epoch, err := r.tail(ctx)
	if err != nil {
		return err
	}
	if seq != 0 && r.epoch != "" && epoch != r.epoch || r.lost(seq) {
		return fmt.Errorf("%w: the stream was made anew", errRelist)
	}
	if seq > r.seq {
		return r.repair(ctx)
	}
	r.seen = time.Now()
	return nil
}

// lost tells that the stream does not have what came from it, by the sequence of its tail.
// That a tail is behind for a moment is how mirrors are.
func (r *route) lost(tail uint64) bool {
	switch {
	case tail == 0 || tail >= r.seq:
		r.ahead.seq = 0
	case r.ahead.seq == 0 || tail >= r.ahead.seq:
		r.ahead.seq, r.ahead.since = r.seq, time.Now()
	default:
		return time.Since(r.ahead.since) > tailLag
	}
	return false
}

// tail is the sequence of the route's last message, 0 if it has none.
func (r *route) tail(ctx context.Context) (seq uint64, epoch string, err error) {
	prefix := apiCore
	if r.c.cfg.edge() {
		prefix = edgeAPI
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	msg, err := r.c.nc.RequestWithContext(ctx, prefix+".DIRECT.GET."+StreamLastN+"."+r.subject, nil)
	if err != nil {
		return 0, "", fmt.Errorf("last message of %s: %w", r.subject, err)
	}
	switch status := msg.Header.Get("Status"); status {
	case "":
	case statusNoData:
		return 0, "", nil
	default:
		return 0, "", fmt.Errorf("last message of %s: status %s %s", r.subject, status, msg.Header.Get("Description"))
	}
	seq, err = strconv.ParseUint(msg.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return 0, "", fmt.Errorf("last message of %s: %w", r.subject, err)
	}
	return seq, msg.Header.Get(schemas.HeaderEpoch), nil
}

// take handles one live message. Only messages that HISTORY has republished for
// this very route count: anything else somebody has smuggled in.
func (r *route) take(ctx context.Context, msg *nats.Msg) error {
	if msg.Header.Get(jetstream.StreamHeader) != StreamHistory || msg.Header.Get(jetstream.SubjectHeader) != r.subject {
		r.c.log.Warn().Str("node", r.node).Str("stream", msg.Header.Get(jetstream.StreamHeader)).
			Msg("foreign message on the node's route ignored")
		return nil
	}
	seq, err := strconv.ParseUint(msg.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return fmt.Errorf("message on %s: %w", msg.Subject, err)
	}
	previous, err := strconv.ParseUint(msg.Header.Get(jetstream.LastSequenceHeader), 10, 64)
	if err != nil {
		return fmt.Errorf("message on %s: %w", msg.Subject, err)
	}
	if epoch := msg.Header.Get(schemas.HeaderEpoch); r.epoch != "" && epoch != r.epoch {
		return fmt.Errorf("%w: the stream was made anew", errRelist)
	}
	if seq <= r.seq {
		return nil
	}
	if previous > r.seq {
		if err := r.repair(ctx); err != nil {
			return err
		}
		if seq <= r.seq {
			return nil
		}
	}
	e, err := schemas.ParseEvent(map[string][]string(msg.Header), msg.Data)
	if err != nil {
		return fmt.Errorf("message %d on %s: %w", seq, msg.Subject, err)
	}
	e.Seq = seq
	return r.apply(ctx, e)
}

// repair reads what is missing from HISTORY.
func (r *route) repair(ctx context.Context) error {
	r.c.log.Info().Str("node", r.node).Uint64("seq", r.seq).Msg("gap in the node's route, reading it from the stream")
	s := scan{stream: StreamHistory, filter: r.subject, name: schemas.EscapeToken(r.node), from: r.seq + 1}
	if err := r.c.scan(ctx, s, func(e schemas.Event) error { return r.apply(ctx, e) }); err != nil {
		return fmt.Errorf("repair route: %w", err)
	}
	return nil
}

// apply hands one event on, unless the list had it.
func (r *route) apply(ctx context.Context, e schemas.Event) error {
	if e.Seq <= r.seq {
		return nil
	}
	if r.epoch == "" {
		r.epoch = e.Epoch
	}
	if e.Epoch != r.epoch {
		return fmt.Errorf("%w: the stream was made anew", errRelist)
	}
	defer func() { r.seq, r.seen = e.Seq, time.Now() }()
	if e.Rev <= r.listRev {
		return nil
	}
	pod := &corev1.Pod{}
	e, err := r.c.whole(ctx, e)
	if err == nil {
		err = json.Unmarshal(e.Object, pod)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		r.c.log.Error().Err(err).Str("namespace", e.Key.Namespace).Str("name", e.Key.Name).Int64("rev", e.Rev).
			Msg("pod can't be decoded, skipped")
		return nil
	}
	pod.ResourceVersion = strconv.FormatInt(e.Rev, 10)
	r.handler.Apply(RouteEvent{Type: e.Type, Pod: pod, Rev: e.Rev, Header: e.Header})
	return nil
}
