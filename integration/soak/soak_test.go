package soak

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rutter-project/rutter/schemas"
)

var (
	duration = flag.Duration("duration", time.Minute, "how long to write and hurt")
	seedFlag = flag.Uint64("seed", 0, "of all that is random; 0 takes one from the clock")
)

// round is how long it is written and hurt before everything is compared; it bounds what
// the comparison keeps in memory.
const round = 20 * time.Second

// TestExactlyOnceUnderFaults is invariant 2. Its name sorts last on purpose: it takes a
// minute, or as long as -duration says.
func TestExactlyOnceUnderFaults(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with -duration %s -seed %d", *duration, seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	r := newRig(t)
	ownDisk := r.ownDisk()
	if !ownDisk {
		t.Log("not root: the disk is not filled")
	}
	r.etcd, r.bus = r.start("etcd"), r.start("bus")
	r.dialEtcd()
	r.relays = []*process{r.start("relay"), r.start("relay")}
	w := &writers{client: r.client, seed: seed}
	all := faults(w, ownDisk)
	counts := map[string]int{}
	var at position
	begun := time.Now()
	for time.Since(begun) < *duration {
		w.seed++
		ctx, cancel := context.WithTimeout(t.Context(), min(round, *duration-time.Since(begun)))
		written := make(chan struct{})
		before, start := w.count.Load(), time.Now()
		go func() {
			defer close(written)
			w.run(ctx)
		}()
		hurt(ctx, r, rng, all, counts)
		<-written
		cancel()
		rate := float64(w.count.Load()-before) / time.Since(start).Seconds()
		at = r.compare(at, rate)
	}
	require.NotZero(t, at.records, "nothing was compared")
	if counts["clock jumped"] > 1 { // the last jump may come when nobody writes any more
		require.NotZero(t, at.turns, "the clock never ran backwards")
	}
	t.Logf("%d changes, %d messages compared; %d transactions with unknown end; %s", at.changes, at.records, w.failed.Load(), summary(counts))
}

// position is how far the comparison has come.
type position struct {
	rev              int64  // everything up to it was compared
	last             Record // last message compared
	changes, records int
	turns            int // of the clock, backwards
}

// compareTimeout bounds how long the relays may take to catch up after a round.
const compareTimeout = 2 * time.Minute

// compare waits until the stream has everything, and applies all guarantees to what is
// new. Then it lets etcd forget, while one of the relays sleeps.
func (r *rig) compare(at position, rate float64) position {
	t := r.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), compareTimeout)
	defer cancel()
	resp, err := r.client.Get(ctx, schemas.Prefix)
	require.NoError(t, err)
	to := resp.Header.Revision
	history := r.history(ctx, at.rev+1, to)
	require.NotEmpty(t, history)
	js, hangUp := r.dialBus(ctx)
	defer hangUp()
	t.Logf("etcd's history read: %d changes", len(history))
	caughtUp := time.Now()
	stream := r.read(ctx, js, "HISTORY", at.last.Seq, history[len(history)-1].Rev)
	lag := time.Since(caughtUp)
	for name, rule := range Guarantees() {
		require.NoError(t, rule(history, stream), name)
	}
	if at.rev > 0 {
		require.NoError(t, Continued(at.last, stream))
	}
	archive := r.read(ctx, js, "ARCHIVE", at.last.Seq, history[len(history)-1].Rev)
	require.NoError(t, Mirrored(stream, archive))
	turns := clockTurns(stream)
	t.Logf("revisions %d to %d: %d changes at %.0f/s, %d messages, read %s after the last write; clock ran backwards %d times", at.rev+1, to, len(history), rate,
		len(stream), lag.Round(time.Millisecond), turns)
	sleeper := r.relays[0]
	sleeper.signal(syscall.SIGSTOP)
	_, err = r.client.Compact(ctx, to-1)
	require.NoError(t, err)
	sleeper.signal(syscall.SIGCONT)
	return position{rev: to, last: stream[len(stream)-1], changes: at.changes + len(history), records: at.records + len(stream), turns: at.turns + turns}
}

// clockTurns is how often a message has an earlier time than the one before it, by more
// than two writers' racing explains.
func clockTurns(stream []Record) int {
	turns := 0
	for i := 1; i < len(stream); i++ {
		before, now := stream[i-1].Event.Header.Time, stream[i].Event.Header.Time
		if !before.IsZero() && !now.IsZero() && before.Sub(now) > time.Minute {
			turns++
		}
	}
	return turns
}

// history is what etcd says happened to objects. Whatever the writers write is below the
// prefix, so that the last revision has an event there.
func (r *rig) history(ctx context.Context, from, to int64) []Change {
	r.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all []Change
	for resp := range r.client.Watch(ctx, schemas.Prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(from)) {
		require.NoError(r.t, resp.Err())
		causes := map[int64]*schemas.Header{}
		for _, e := range resp.Events {
			if strings.HasPrefix(string(e.Kv.Key), schemas.CausePrefix) {
				h, err := schemas.DecodeHeader(e.Kv.Value)
				require.NoError(r.t, err)
				causes[e.Kv.ModRevision] = &h
			}
		}
		for _, e := range resp.Events {
			if key, err := schemas.ParsePath(string(e.Kv.Key)); err == nil && e.Kv.ModRevision <= to {
				all = append(all, r.change(key, e, causes[e.Kv.ModRevision]))
			}
		}
		if n := len(resp.Events); n > 0 && resp.Events[n-1].Kv.ModRevision >= to {
			return all
		}
	}
	require.NoError(r.t, ctx.Err())
	return nil
}

func (r *rig) change(key schemas.Key, e *clientv3.Event, cause *schemas.Header) Change {
	r.t.Helper()
	c := Change{Rev: e.Kv.ModRevision, Key: key, Deleted: e.Type == clientv3.EventTypeDelete}
	if e.PrevKv != nil {
		c.PrevRev = e.PrevKv.ModRevision
		_, object, err := schemas.DecodeValue(e.PrevKv.Value)
		require.NoError(r.t, err)
		c.From, c.Object = nodeOf(r.t, key, object), object
	}
	if c.Deleted {
		c.Header = cause
		return c
	}
	h, object, err := schemas.DecodeValue(e.Kv.Value)
	require.NoError(r.t, err)
	c.Header, c.Object, c.To = &h, object, nodeOf(r.t, key, object)
	return c
}

func nodeOf(t *testing.T, key schemas.Key, object []byte) string {
	t.Helper()
	var o struct{ Spec struct{ NodeName string } }
	require.NoError(t, json.Unmarshal(object, &o))
	if key.Resource != "pods" {
		return ""
	}
	return o.Spec.NodeName
}

// read reads a stream from behind a sequence until it has passed a revision.
func (r *rig) read(ctx context.Context, js jetstream.JetStream, name string, after uint64, rev int64) []Record {
	r.t.Helper()
	consumer, err := orderedConsumer(ctx, js, name, after)
	require.NoError(r.t, err)
	messages, err := consumer.Messages()
	require.NoError(r.t, err)
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	var all []Record
	for {
		msg, err := messages.Next()
		require.NoError(r.t, err, "%s ends before revision %d", name, rev)
		record, err := recordOf(msg)
		require.NoError(r.t, err)
		if record.Event.Rev > rev {
			return all
		}
		all = append(all, record)
		if record.Event.Rev == rev && record.Event.Last() {
			return all
		}
	}
}

// orderedConsumer waits until the stream is there.
func orderedConsumer(ctx context.Context, js jetstream.JetStream, name string, after uint64) (jetstream.Consumer, error) {
	for {
		consumer, err := js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1})
		if err == nil || ctx.Err() != nil {
			return consumer, errors.Join(err, ctx.Err())
		}
		pause(ctx, 100*time.Millisecond)
	}
}

func recordOf(msg jetstream.Msg) (Record, error) {
	m, err := msg.Metadata()
	if err != nil {
		return Record{}, err
	}
	e, err := schemas.ParseEvent(map[string][]string(msg.Headers()), msg.Data())
	if err != nil {
		return Record{}, fmt.Errorf("message %d: %w", m.Sequence.Stream, err)
	}
	return Record{Seq: m.Sequence.Stream, Subject: msg.Subject(), Event: e}, nil
}
