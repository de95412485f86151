package bus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

// packedEvents are events that use every field there is.
func packedEvents() []schemas.Event {
	at := time.Unix(1764064800, 123456789)
	full := schemas.Event{
		Rev: 1234, Ord: 1, Cnt: 3, Type: schemas.Modified, PrevRev: 1200, Epoch: "cdf8.18a3", Resync: 1300, DataRef: "/api/v1/x", Seq: 1 << 40, Recorded: at,
		Key: schemas.Key{Group: "apps", Resource: "deployments", Namespace: "prod", Name: "web"}, Object: []byte(`{"kind":"Deployment"}`),
		Header: schemas.Header{
			V: 1, Time: at.Add(-time.Millisecond).UTC(), Verb: "update", User: "jane", Groups: []string{"a", "b", "a"}, Manager: "kubectl", Agent: "kubectl/1.37",
			Request: "8f1c", Trace: "00-0af7-b7ad-01", TraceState: "v=a", Cause: []int64{12, 1 << 60},
		},
	}
	far := full
	far.Seq, far.Rev, far.Ord, far.Recorded, far.Header.Time = full.Seq+9, 7, 2, at.Add(-time.Hour), time.Date(1, 2, 3, 4, 5, 6, 7, time.UTC)
	return []schemas.Event{
		full, far,
		{Seq: far.Seq + 1, Rev: 1 << 60, Cnt: 1, Type: schemas.Deleted, Key: schemas.Key{Resource: "nodes", Name: "n"}, Recorded: at},
		{Seq: far.Seq + 2, Rev: 1, Cnt: 1, Type: schemas.Gap, PrevRev: 40, Object: []byte(`{"reason":"x"}`), Recorded: at},
		{Seq: far.Seq + 3, Rev: 2, Cnt: 1, Type: schemas.Added, Key: full.Key, Header: schemas.Header{V: 1}, Recorded: at},
	}
}

func unpacked(t testing.TB, body []byte, keep func(schemas.EventType, schemas.Key) bool) []schemas.Event {
	t.Helper()
	r, err := openPack(body, nil)
	require.NoError(t, err)
	var all []schemas.Event
	for r.more() {
		e, kept, err := r.next(keep)
		require.NoError(t, err)
		if kept {
			all = append(all, e)
		}
	}
	return all
}

func TestPackKeepsEveryField(t *testing.T) {
	events := packedEvents()
	for _, v := range []any{events[0], events[0].Key, events[0].Header} {
		of := reflect.ValueOf(v)
		for i := range of.NumField() {
			if name := of.Type().Field(i).Name; name != "Dry" { // no event is of a dry run
				require.False(t, of.Field(i).IsZero(), "%T.%s is not tested", v, name)
			}
		}
	}
	w := newPackWriter()
	for i := range events {
		w.add(&events[i])
	}
	all := func(schemas.EventType, schemas.Key) bool { return true }
	require.Equal(t, events, unpacked(t, w.encode(), all))
	nodes := func(_ schemas.EventType, k schemas.Key) bool { return k.Resource == "nodes" }
	require.Equal(t, events[2:3], unpacked(t, w.encode(), nodes))
}

// FuzzPack reads anything as what is in a pack.
func FuzzPack(f *testing.F) {
	w := newPackWriter()
	for _, e := range packedEvents() {
		w.add(&e)
		f.Add(w.buf)
	}
	f.Add([]byte(packMagic))
	all := func(schemas.EventType, schemas.Key) bool { return true }
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := openPack(s2.Encode(nil, data), nil)
		if err != nil {
			require.ErrorIs(t, err, errPack)
			return
		}
		again := newPackWriter()
		var events []schemas.Event
		for r.more() {
			e, _, err := r.next(all)
			if err != nil {
				require.ErrorIs(t, err, errPack)
				return
			}
			events = append(events, e)
			again.add(&e)
		}
		require.Equal(t, events, unpacked(t, again.encode(), all))
	})
}

func TestWhatIsNoPackIsRefused(t *testing.T) {
	whole := newPackWriter()
	for _, e := range packedEvents() {
		whole.add(&e)
	}
	huge := binary.AppendUvarint(nil, maxPackBytes+1)
	for name, body := range map[string][]byte{
		"nothing": nil, "no S2": []byte("no pack"), "another magic": s2.Encode(nil, []byte("rutter pack 2\n")), "too large": huge, "cut": whole.encode()[:20],
	} {
		_, err := openPack(body, nil)
		require.ErrorIs(t, err, errPack, name)
	}
	r, err := openPack(s2.Encode(nil, whole.buf[:len(whole.buf)-3]), nil)
	require.NoError(t, err)
	for err == nil && r.more() {
		_, _, err = r.next(func(schemas.EventType, schemas.Key) bool { return true })
	}
	require.ErrorIs(t, err, errPack)
}

// fill publishes changes of some resources, deletions, routes and gaps.
func (b *testBus) fill(t testing.TB, rng *rand.Rand, n int) {
	t.Helper()
	for range n {
		key := pod(fmt.Sprint("p", rng.IntN(20)))
		switch rng.IntN(40) {
		case 0:
			b.rev++
			gap := schemas.Event{Rev: b.rev, Cnt: 1, Type: schemas.Gap, PrevRev: b.rev - 1, Resync: b.rev, Epoch: b.epoch, Object: []byte(`{"reason":"test"}`)}
			require.NoError(t, b.window.Publish(t.Context(), schemas.ResyncSubject, gap, 0))
		case 1:
			b.sendRoute(t, "n1", schemas.Modified, key.Name)
		case 2:
			b.send(t, schemas.Deleted, key, 1)
		case 3:
			b.send(t, schemas.Modified, schemas.Key{Resource: "nodes", Name: key.Name}, 1)
		case 4:
			b.send(t, schemas.Modified, schemas.Key{Group: "apps", Resource: "deployments", Namespace: "prod", Name: key.Name}, 1)
		default:
			b.send(t, schemas.Modified, key, rng.Int())
		}
	}
	b.flush(t)
	b.settle(t, StreamArchive)
}

func (b *testBus) read(t testing.TB, r Range) []schemas.Event {
	t.Helper()
	var all []schemas.Event
	require.NoError(t, b.ReadRange(t.Context(), r, func(e schemas.Event) error {
		if r.Fleeting {
			e.Object = bytes.Clone(e.Object)
		}
		all = append(all, e)
		return nil
	}))
	return all
}

// ranges are parts of ARCHIVE to read, of all kinds.
func (b *testBus) ranges(t testing.TB) []Range {
	head, err := b.Head(t.Context(), StreamArchive)
	require.NoError(t, err)
	var all []Range
	for _, filter := range []string{
		"", schemas.AllObjects, schemas.SubjectPrefix("", "pods", ""), schemas.SubjectPrefix("apps", "deployments", "prod"), "h.*.*.default.*",
		schemas.Filter(schemas.Key{Group: "*", Resource: "*", Namespace: "", Name: "*"}), pod("p1").Subject(),
	} {
		for _, from := range []uint64{0, 1, head.First + 1, head.First + 300, (head.First + head.Seq) / 2, head.Seq - 20, head.Seq, head.Seq + 1} {
			all = append(all, Range{Filter: filter, From: from})
		}
	}
	return all
}

type rangeKey struct {
	filter string
	from   uint64
}

func TestPacksAreReadLikeTheArchive(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	b := startBus(t)
	b.fill(t, rng, 1500)
	want := map[rangeKey][]schemas.Event{}
	ranges := b.ranges(t)
	for _, r := range ranges {
		want[rangeKey{r.Filter, r.From}] = b.read(t, r)
	}
	same := func(when string) {
		t.Helper()
		for _, r := range ranges {
			require.Equal(t, want[rangeKey{r.Filter, r.From}], b.read(t, r), "%s: %+v", when, r)
			r.Fleeting = true
			require.Equal(t, want[rangeKey{r.Filter, r.From}], b.read(t, r), "%s: %+v", when, r)
		}
	}
	require.NoError(t, b.PackArchive(t.Context()))
	packs, err := b.openPacks(t.Context())
	require.NoError(t, err)
	require.Greater(t, packs.last, uint64(3))
	same("packed")

	require.NoError(t, packs.stream.DeleteMsg(t.Context(), 2))
	same("with a pack missing")

	damaged, err := packs.get(t.Context(), packs.last)
	require.NoError(t, err)
	require.NoError(t, packs.append(t.Context(), pack{from: damaged.to, to: damaged.to + 200, body: []byte("no pack")}, 0))
	b.fill(t, rng, 600)
	require.NoError(t, b.PackArchive(t.Context()))
	tail := b.read(t, Range{From: damaged.to})
	var plain []schemas.Event
	require.NoError(t, b.scan(t.Context(), scan{stream: StreamArchive, filter: schemas.AllObjects, from: damaged.to}, func(e schemas.Event) error {
		plain = append(plain, e)
		return nil
	}))
	require.Equal(t, plain, tail, "with a pack damaged")
}

func TestHeldByPacks(t *testing.T) {
	b := startBus(t)
	empty, err := b.HeldBy(t.Context(), StreamPacks)
	require.NoError(t, err)
	require.Zero(t, empty.Messages)
	b.fill(t, rand.New(rand.NewPCG(1, 2)), 800)
	all := b.read(t, Range{})
	require.NoError(t, b.PackArchive(t.Context()))
	packs, err := b.openPacks(t.Context())
	require.NoError(t, err)
	newest, err := packs.get(t.Context(), packs.last)
	require.NoError(t, err)
	var last schemas.Event
	for _, e := range all {
		if e.Seq < newest.to {
			last = e
		}
	}
	held, err := b.HeldBy(t.Context(), StreamPacks)
	require.NoError(t, err)
	require.Greater(t, held.Messages, uint64(2))
	require.Positive(t, held.MaxBytes)
	require.Equal(t, all[0].Rev, held.First.Rev)
	require.Equal(t, last.Rev, held.Last.Rev)
	require.True(t, all[0].Recorded.Equal(held.First.At), "%s", held.First.At)
	require.True(t, last.Recorded.Equal(held.Last.At), "%s", held.Last.At)

	require.NoError(t, packs.append(t.Context(), pack{from: newest.to, to: newest.to + 200, body: []byte("no pack")}, 0))
	held, err = b.HeldBy(t.Context(), StreamPacks)
	require.NoError(t, err, "a damaged pack is left to its readers")
	require.Equal(t, all[0].Rev, held.First.Rev)
	require.Zero(t, held.Last.Rev)
}

func TestReadRangeFollowsBehindThePacks(t *testing.T) {
	b := startBus(t)
	b.fill(t, rand.New(rand.NewPCG(1, 2)), 800)
	want := b.read(t, Range{})
	require.NoError(t, b.PackArchive(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []schemas.Event
	var last int64
	err := b.ReadRange(ctx, Range{Follow: true}, func(e schemas.Event) error {
		if got = append(got, e); len(got) == len(want) {
			last = b.send(t, schemas.Modified, pod("live"), 1)
		}
		if e.Rev == last {
			return ErrStop
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, want, got[:len(want)])
	require.Len(t, got, len(want)+1)
}

func TestReadRangeStopsWithinAPack(t *testing.T) {
	b := startBus(t)
	b.fill(t, rand.New(rand.NewPCG(1, 2)), 800)
	require.NoError(t, b.PackArchive(t.Context()))
	failed := errors.New("failed")
	for _, end := range []error{ErrStop, failed} {
		n := 0
		err := b.ReadRange(t.Context(), Range{}, func(schemas.Event) error {
			if n++; n == 300 {
				return end
			}
			return nil
		})
		require.Equal(t, 300, n)
		if errors.Is(end, failed) {
			require.ErrorIs(t, err, failed)
		} else {
			require.NoError(t, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := b.ReadRange(ctx, Range{}, func(schemas.Event) error {
		if n++; n == 300 {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
}

func TestPackersGiveWayToEachOther(t *testing.T) {
	b := startBus(t)
	b.fill(t, rand.New(rand.NewPCG(1, 2)), 3000)
	others := make(chan error)
	for range 3 {
		c := connect(t, ClientConfig{Server: b.server})
		go func() { others <- c.PackArchive(t.Context()) }()
	}
	for range 3 {
		require.NoError(t, <-others)
	}
	packs, err := b.openPacks(t.Context())
	require.NoError(t, err)
	head, err := b.Head(t.Context(), StreamArchive)
	require.NoError(t, err)
	end := head.First
	for seq := packs.first; seq <= packs.last; seq++ {
		p, err := packs.get(t.Context(), seq)
		require.NoError(t, err)
		require.Equal(t, end, p.from)
		end = p.to
	}
	require.Greater(t, end+packEvents*2, head.Seq)
}

func TestPacksOfWhatTheArchiveDroppedGoToo(t *testing.T) {
	b := startBus(t)
	b.fill(t, rand.New(rand.NewPCG(1, 2)), 1500)
	require.NoError(t, b.PackArchive(t.Context()))
	head, err := b.Head(t.Context(), StreamArchive)
	require.NoError(t, err)
	archive, err := b.js.Stream(t.Context(), StreamArchive)
	require.NoError(t, err)
	cut := head.First + 700
	require.NoError(t, archive.Purge(t.Context(), jetstream.WithPurgeSequence(cut)))
	head, err = b.Head(t.Context(), StreamArchive)
	require.NoError(t, err)

	events := b.read(t, Range{})
	require.Equal(t, head.First, events[0].Seq, "nothing is told that the archive no longer has")
	require.Equal(t, head.Seq, events[len(events)-1].Seq)
	require.NoError(t, b.PackArchive(t.Context()))
	packs, err := b.openPacks(t.Context())
	require.NoError(t, err)
	oldest, err := packs.get(t.Context(), packs.first)
	require.NoError(t, err)
	require.LessOrEqual(t, oldest.from, head.First)
	require.Greater(t, oldest.to, head.First)
	require.Equal(t, events, b.read(t, Range{}))

	var first schemas.Event
	require.NoError(t, b.ReadRange(t.Context(), Range{From: cut - 100, Follow: true}, func(e schemas.Event) error {
		first = e
		return ErrStop
	}))
	require.Equal(t, schemas.Gap, first.Type, "a follower is told what it misses")
}

func TestPackTooLargeForTheBusIsLeftOut(t *testing.T) {
	b := smallBus(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 { // hardly compressible, so that a pack of them exceeds the bus' limit
		e := b.event(schemas.Modified, pod(fmt.Sprint("p", i)), i)
		var text strings.Builder
		for range 500 {
			fmt.Fprintf(&text, "%08x", rng.Uint32())
		}
		e.Object = fmt.Appendf(nil, `{"x":%q}`, text.String())
		require.NoError(t, b.window.Publish(t.Context(), e.Key.Subject(), e, 0))
	}
	b.flush(t)
	b.settle(t, StreamArchive)
	require.NoError(t, b.PackArchive(t.Context()))
	packs, err := b.openPacks(t.Context())
	require.NoError(t, err)
	require.Greater(t, packs.first, packs.last, "there are none")
	require.Len(t, b.read(t, Range{}), 3000)
}

func TestFindTellsABadPack(t *testing.T) {
	b := startBus(t)
	msg := nats.NewMsg(packSubject)
	_, err := b.js.PublishMsg(t.Context(), msg)
	require.NoError(t, err)
	packs, err := b.openPacks(t.Context())
	require.NoError(t, err)
	_, err = packs.find(t.Context(), 1)
	require.ErrorIs(t, err, errPack)
}
