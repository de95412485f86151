package bus

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/schemas"
)

// TestInformerRepairsArtificialLoss: an informer whose messages are taken away notices by
// the consumer's numbers, and reads them again.
func TestInformerRepairsArtificialLoss(t *testing.T) {
	b := startBus(t)
	var lose atomic.Bool
	var lost atomic.Int32
	s := newSource(b.Client, podsGVR, &corev1.Pod{}, zerolog.Nop())
	s.drop = func(msg *nats.Msg) bool {
		if msg.Header.Get("Status") != "" || !lose.Load() {
			return false
		}
		return lost.Add(1)%7 == 0
	}
	w := s.start(t.Context(), place{})
	defer w.Stop()
	bookmark := <-w.ResultChan()
	require.Equal(t, "BOOKMARK", string(bookmark.Type))
	lose.Store(true)
	want := map[string]int64{}
	last := int64(0)
	for i := range 500 {
		name := fmt.Sprint("p", i%50)
		last = b.send(t, schemas.Modified, pod(name), i)
		want[name] = last
	}
	b.flush(t)
	got := map[string]int64{}
	previous := int64(0)
	for len(got) < len(want) || got["p49"] != want["p49"] {
		select {
		case event := <-w.ResultChan():
			p := event.Object.(*corev1.Pod)
			var rev int64
			_, err := fmt.Sscan(p.ResourceVersion, &rev)
			require.NoError(t, err)
			require.Greater(t, rev, previous, "in order, none twice")
			previous, got[p.Name] = rev, rev
		case <-time.After(20 * time.Second):
			t.Fatalf("%d of %d objects came", len(got), len(want))
		}
	}
	require.Equal(t, want, got)
	require.Greater(t, lost.Load(), int32(7), "nothing was lost: the test tests nothing")
}

// TestTapOvertakenByRetentionIsTold: a reader so slow that the stream no longer keeps what
// it has not read is told of the gap, with its bounds.
func TestTapOvertakenByRetentionIsTold(t *testing.T) {
	b := startBus(t)
	stream, err := b.js.Stream(t.Context(), StreamArchive)
	require.NoError(t, err)
	cfg := stream.CachedInfo().Config
	cfg.MaxMsgs = 100
	_, err = b.js.UpdateStream(t.Context(), cfg)
	require.NoError(t, err)
	release, begun := make(chan struct{}), make(chan struct{})
	var got []schemas.Event
	seen := make(chan schemas.Event, 10000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	slow := connect(t, ClientConfig{Server: b.server})
	go func() {
		done <- slow.Tap(ctx, TapOptions{Ready: func() { close(begun) }}, func(e schemas.Event) error {
			<-release
			seen <- e
			return nil
		})
	}()
	<-begun
	const sent = 3000 // more than the tap asks for at once
	var last int64
	for i := range sent {
		last = b.send(t, schemas.Modified, pod("a"), i)
	}
	b.flush(t)
	b.settle(t, StreamArchive)
	sentAt := time.Now()
	require.Eventually(t, func() bool { return time.Since(sentAt) > scanFresh }, 10*time.Second, 10*time.Millisecond, "a reader that lags")
	close(release)
	for e := range seen {
		if got = append(got, e); e.Rev == last && e.Type != schemas.Gap {
			break
		}
	}
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	covered := got[0].Rev - 1
	for _, e := range got {
		if e.Type == schemas.Gap {
			require.Equal(t, covered, e.PrevRev, "the gap begins behind what was read")
			covered = e.Rev - 1
			continue
		}
		require.Equal(t, covered+1, e.Rev, "nothing is skipped in silence, and nothing comes twice")
		covered = e.Rev
	}
	require.Less(t, len(got), sent, "the stream has overtaken nobody: the test tests nothing")
}

// TestInformerSaysThatItListsAgain: whoever runs an informer learns that it had to.
func TestInformerSaysThatItListsAgain(t *testing.T) {
	b := startBus(t)
	var log bytes.Buffer
	i := NewInformers(b.Client, zerolog.New(zerolog.SyncWriter(&log)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- i.Run(ctx) }()
	i.For(podsGVR, &corev1.Pod{})
	require.NoError(t, i.WaitForSync(t.Context()))
	require.Zero(t, i.Relists())
	require.NoError(t, b.DropStreams(t.Context()))
	made, err := b.MakeStreams(t.Context(), testCluster, 9)
	require.NoError(t, err)
	b.epoch = made.Epoch
	b.open(t)
	rev := b.send(t, schemas.Added, pod("new"), 1)
	b.flush(t)
	require.NoError(t, i.WaitForRevision(t.Context(), rev))
	require.EqualValues(t, 1, i.Relists())
	cancel()
	require.NoError(t, <-done)
	require.Contains(t, log.String(), "listing again")
}
