package bus

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

func TestKeyframesAreKeptAndListedInOrder(t *testing.T) {
	b := startBus(t)
	at := time.Date(2026, 11, 25, 9, 0, 0, 123456789, time.UTC)
	for _, rev := range []int64{300, 5, 1_000_000} {
		k := Keyframe{Rev: rev, Time: at, Seq: uint64(rev) * 16, Epoch: b.epoch, Objects: 7}
		require.NoError(t, b.PutKeyframe(t.Context(), k, strings.NewReader(strings.Repeat("x", int(rev)))))
	}
	frames, err := b.Keyframes(t.Context())
	require.NoError(t, err)
	require.Len(t, frames, 3)
	require.Equal(t, Keyframe{Rev: 5, Time: at, Seq: 80, Epoch: b.epoch, Objects: 7, Bytes: 5}, frames[0])
	require.EqualValues(t, 1_000_000, frames[2].Rev)
	body, err := b.ReadKeyframe(t.Context(), 300)
	require.NoError(t, err)
	require.Equal(t, bytes.Repeat([]byte("x"), 300), body)

	require.NoError(t, b.DeleteKeyframe(t.Context(), 300))
	require.NoError(t, b.DeleteKeyframe(t.Context(), 300), "once more does no harm")
	_, err = b.ReadKeyframe(t.Context(), 300)
	require.ErrorIs(t, err, ErrNotFound)
}

func TestKeyframeOfAKilledWriterIsSweptAway(t *testing.T) {
	b := startBus(t)
	require.NoError(t, b.PutKeyframe(t.Context(), Keyframe{Rev: 1, Time: time.Now()}, strings.NewReader("whole")))
	require.NoError(t, b.DeleteKeyframe(t.Context(), 1))
	require.NoError(t, b.PutKeyframe(t.Context(), Keyframe{Rev: 2, Time: time.Now()}, strings.NewReader("kept")))
	_, err := b.js.Publish(t.Context(), chunkSubject+"ORPHAN", []byte("half"))
	require.NoError(t, err)

	require.NoError(t, b.SweepKeyframes(t.Context()))
	stream, err := b.js.Stream(t.Context(), StreamKeyframes)
	require.NoError(t, err)
	info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter("$O.>"))
	require.NoError(t, err)
	require.Len(t, info.State.Subjects, 2, "one keyframe: its body and what is known of it: %v", info.State.Subjects)
	body, err := b.ReadKeyframe(t.Context(), 2)
	require.NoError(t, err)
	require.Equal(t, "kept", string(body))
}

func TestKeyframeThatFailsLeavesNothing(t *testing.T) {
	b := startBus(t)
	broken := io.MultiReader(strings.NewReader("half"), failing{})
	err := b.PutKeyframe(t.Context(), Keyframe{Rev: 9, Time: time.Now()}, broken)
	require.ErrorIs(t, err, errBroken)
	frames, err := b.Keyframes(t.Context())
	require.NoError(t, err)
	require.Empty(t, frames)
}

var errBroken = errors.New("broken")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errBroken }

func TestFullKeyframeStoreSaysSo(t *testing.T) {
	b := &testBus{server: testServer(t, t.TempDir())}
	streams := DefaultStreamsConfig()
	streams.KeyframeBytes = 64 << 10
	b.Client = connect(t, ClientConfig{Name: "test", Server: b.server, Streams: streams})
	_, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	err = b.PutKeyframe(t.Context(), Keyframe{Rev: 1, Time: time.Now()}, bytes.NewReader(make([]byte, 256<<10)))
	require.ErrorIs(t, err, ErrNoSpace)
}

func TestLostStreamsTakeTheKeyframesAlong(t *testing.T) {
	b := startBus(t)
	require.NoError(t, b.PutKeyframe(t.Context(), Keyframe{Rev: 1, Time: time.Now()}, strings.NewReader("x")))
	_, err := b.RemakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	frames, err := b.Keyframes(t.Context())
	require.NoError(t, err)
	require.Empty(t, frames, "they are of a past that etcd does not know")
}

func TestDivideFindsThePlace(t *testing.T) {
	b := startBus(t)
	var revs []int64
	for i := range 300 {
		revs = append(revs, b.send(t, schemas.Modified, pod(string(rune('a'+i%7))), i))
	}
	b.flush(t)
	b.settle(t, StreamArchive)
	for _, want := range []int64{revs[0] - 1, revs[0], revs[1], revs[150], revs[299], revs[299] + 5} {
		before, behind, err := b.Divide(t.Context(), func(e schemas.Event) bool { return e.Rev > want })
		require.NoError(t, err)
		if want < revs[0] {
			require.Zero(t, before.Seq)
			require.Equal(t, revs[0], behind.Rev)
			continue
		}
		require.Equal(t, min(want, revs[299]), before.Rev)
		if want >= revs[299] {
			require.Zero(t, behind.Seq)
			continue
		}
		require.Equal(t, want+1, behind.Rev)
	}
}

func TestReadRangeTellsOneResourceAndGaps(t *testing.T) {
	b := startBus(t)
	node := schemas.Key{Resource: "nodes", Name: "n"}
	first := b.send(t, schemas.Added, pod("a"), 1)
	b.send(t, schemas.Added, node, 1)
	b.rev++
	gap := schemas.Event{Rev: b.rev, Cnt: 1, Type: schemas.Gap, PrevRev: b.rev - 1, Resync: b.rev, Epoch: b.epoch, Object: []byte(`{"reason":"test"}`)}
	require.NoError(t, b.window.Publish(t.Context(), schemas.ResyncSubject, gap, 0))
	last := b.send(t, schemas.Modified, pod("a"), 2)
	b.flush(t)
	b.settle(t, StreamArchive)
	var got []int64
	err := b.ReadRange(t.Context(), Range{Filter: schemas.SubjectPrefix("", "pods", "")}, func(e schemas.Event) error {
		got = append(got, e.Rev)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []int64{first, gap.Rev, last}, got)

	head, err := b.Head(t.Context(), StreamArchive)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	got = nil
	err = b.ReadRange(ctx, Range{Follow: true, From: head.First}, func(e schemas.Event) error {
		if got = append(got, e.Rev); e.Rev == last {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, got, 4)
}
