package bus

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

// tapping runs a tap and hands its events to a channel.
func tapping(t testing.TB, c *Client, opts TapOptions) <-chan schemas.Event {
	t.Helper()
	events := make(chan schemas.Event, 10000)
	ready := make(chan struct{})
	opts.Ready = func() { close(ready) }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- c.Tap(ctx, opts, func(e schemas.Event) error {
			events <- e
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatal(err)
	}
	return events
}

func next(t testing.TB, events <-chan schemas.Event) schemas.Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no event came")
		return schemas.Event{}
	}
}

func TestTapFollowsLive(t *testing.T) {
	b := startBus(t)
	b.send(t, schemas.Added, pod("before"), 1)
	b.flush(t)
	b.settle(t, StreamArchive)
	events := tapping(t, b.Client, TapOptions{Filter: schemas.Filter(schemas.Key{Group: "*", Resource: "pods", Namespace: "*", Name: "a"})})
	b.send(t, schemas.Added, pod("b"), 1)
	rev := b.send(t, schemas.Added, pod("a"), 1)
	b.flush(t)
	e := next(t, events)
	require.Equal(t, rev, e.Rev)
	require.Equal(t, "jane", e.Header.User)
	require.False(t, e.Recorded.IsZero())
}

func TestTapSinceARevision(t *testing.T) {
	b := startBus(t)
	var revs []int64
	for i := range 100 {
		revs = append(revs, b.send(t, schemas.Modified, pod(fmt.Sprint("p", i%7)), i))
		b.rev += 3
	}
	b.flush(t)
	b.settle(t, StreamArchive)
	for _, from := range []int{0, 1, 50, 99} {
		for _, delta := range []int64{0, -1} {
			events := tapping(t, b.Client, TapOptions{SinceRev: revs[from] + delta})
			for _, want := range revs[from:] {
				require.Equal(t, want, next(t, events).Rev)
			}
		}
	}
}

func TestTapSinceATime(t *testing.T) {
	b := startBus(t)
	b.send(t, schemas.Added, pod("a"), 1)
	b.flush(t)
	b.settle(t, StreamArchive)
	start := time.Now()
	rev := b.send(t, schemas.Added, pod("b"), 1)
	b.flush(t)
	events := tapping(t, b.Client, TapOptions{Since: start})
	require.Equal(t, rev, next(t, events).Rev)
}

func TestTapTellsGapsWhateverTheFilter(t *testing.T) {
	b := startBus(t)
	events := tapping(t, b.Client, TapOptions{Filter: schemas.SubjectPrefix("apps", "deployments", "")})
	gap := schemas.Event{Rev: 200, Cnt: 1, Type: schemas.Gap, PrevRev: 120, Resync: 200, Epoch: b.epoch, Object: []byte(`{"reason":"x"}`)}
	require.NoError(t, b.window.Publish(t.Context(), schemas.ResyncSubject, gap, 0))
	b.flush(t)
	e := next(t, events)
	require.Equal(t, schemas.Gap, e.Type)
	require.EqualValues(t, 120, e.PrevRev)
}

func TestTapTellsGapsInTheirPlace(t *testing.T) {
	b := startBus(t)
	first := b.send(t, schemas.Added, pod("a"), 1)
	for range 20 {
		gap := schemas.Event{Rev: b.rev + 10, Cnt: 1, Type: schemas.Gap, PrevRev: b.rev, Resync: b.rev + 10, Epoch: b.epoch, Object: []byte(`{"reason":"x"}`)}
		b.rev += 10
		require.NoError(t, b.window.Publish(t.Context(), schemas.ResyncSubject, gap, 0))
		b.send(t, schemas.Modified, schemas.Key{Resource: "nodes", Name: "n"}, 1)
		b.send(t, schemas.Modified, pod("a"), 2)
	}
	b.flush(t)
	b.settle(t, StreamArchive)
	events := tapping(t, b.Client, TapOptions{Filter: schemas.SubjectPrefix("", "pods", ""), SinceRev: first})
	require.Equal(t, first, next(t, events).Rev)
	for range 20 {
		gap := next(t, events)
		require.Equal(t, schemas.Gap, gap.Type)
		require.Equal(t, gap.Rev+2, next(t, events).Rev)
	}
}

func TestTapNamesWhatTheStreamNoLongerKeeps(t *testing.T) {
	b := startBus(t)
	first := b.send(t, schemas.Added, pod("a"), 1)
	b.send(t, schemas.Modified, pod("a"), 2)
	kept := b.send(t, schemas.Modified, pod("a"), 3)
	b.flush(t)
	b.settle(t, StreamArchive)
	s := scan{stream: StreamArchive, filter: pod("a").Subject(), from: 1, follow: true}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := b.js.Stream(ctx, StreamArchive)
	require.NoError(t, err)
	require.NoError(t, stream.DeleteMsg(ctx, stream.CachedInfo().State.FirstSeq))
	require.NoError(t, stream.DeleteMsg(ctx, stream.CachedInfo().State.FirstSeq+1))
	events := make(chan schemas.Event)
	done := make(chan error, 1)
	go func() { done <- b.tail(ctx, s, first, events) }()
	gap := next(t, events)
	require.Equal(t, schemas.Gap, gap.Type)
	require.Equal(t, first-1, gap.PrevRev)
	require.Equal(t, kept, gap.Rev)
	require.Equal(t, kept, next(t, events).Rev)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}

func TestTapGoesOnAfterReconnect(t *testing.T) {
	b := startBus(t)
	c := connect(t, ClientConfig{Server: b.server})
	events := tapping(t, c, TapOptions{})
	var want []int64
	for i := range 200 {
		want = append(want, b.send(t, schemas.Modified, pod("a"), i))
		if i%50 == 25 {
			b.flush(t)
			require.NoError(t, c.nc.ForceReconnect())
		}
	}
	b.flush(t)
	for _, rev := range want {
		require.Equal(t, rev, next(t, events).Rev)
	}
}

func TestTapEndsWithItsFunction(t *testing.T) {
	b := startBus(t)
	b.send(t, schemas.Added, pod("a"), 1)
	b.flush(t)
	b.settle(t, StreamArchive)
	stop := fmt.Errorf("enough")
	err := b.Tap(t.Context(), TapOptions{SinceRev: 1}, func(schemas.Event) error { return stop })
	require.ErrorIs(t, err, stop)
}

func TestLogHasOneObjectsChangesAndTheGapsBetween(t *testing.T) {
	b := startBus(t)
	first := b.send(t, schemas.Added, pod("a"), 1)
	b.send(t, schemas.Added, pod("b"), 1)
	b.rev++
	gap := schemas.Event{Rev: b.rev, Cnt: 1, Type: schemas.Gap, PrevRev: first + 1, Resync: b.rev, Epoch: b.epoch}
	require.NoError(t, b.window.Publish(t.Context(), schemas.ResyncSubject, gap, 0))
	last := b.send(t, schemas.Deleted, pod("a"), 1)
	b.flush(t)
	b.settle(t, StreamArchive)
	var got []string
	require.NoError(t, b.Log(t.Context(), pod("a"), func(e schemas.Event) error {
		got = append(got, fmt.Sprint(e.Type, e.Rev))
		return nil
	}))
	require.Equal(t, []string{fmt.Sprint("ADDED", first), fmt.Sprint("GAP", gap.Rev), fmt.Sprint("DELETED", last)}, got)
	require.ErrorIs(t, b.Log(t.Context(), pod("none"), nil), ErrNotFound)
}

// TestTapThatStopsReadingHoldsUpNobody: a client that does not take its events, and later
// does.
func TestTapThatStopsReadingHoldsUpNobody(t *testing.T) {
	b := startBus(t)
	lazy := connect(t, ClientConfig{Server: b.server})
	release, begun := make(chan struct{}), make(chan struct{})
	got := make(chan int64, 5000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- lazy.Tap(ctx, TapOptions{Ready: func() { close(begun) }}, func(e schemas.Event) error {
			<-release
			got <- e.Rev
			return nil
		})
	}()
	<-begun
	quick := tapping(t, b.Client, TapOptions{})
	var want []int64
	for i := range 3000 {
		want = append(want, b.send(t, schemas.Modified, pod(fmt.Sprint("p", i%50)), i))
	}
	b.flush(t)
	for _, rev := range want {
		require.Equal(t, rev, next(t, quick).Rev)
	}
	require.Empty(t, got)
	close(release)
	for _, rev := range want {
		require.Equal(t, rev, <-got)
	}
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}
