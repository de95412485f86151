package relay

// Compare two versions with
//
//	go test ./apiserver/internal/relay -run '^$' -bench . -count 10 | tee new.txt; benchstat old.txt new.txt

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/apiserver/internal/feed/feedtest"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

func benchPod() string {
	return `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"default","annotations":{"x":"` +
		strings.Repeat("y", 1700) + `"}},"spec":{"nodeName":"n1"}}`
}

// fromNow is what happens in ARCHIVE from now on; ready is closed when nothing of it is
// missed.
func fromNow(b *testing.B, c *bus.Client, ready chan struct{}) bus.Range {
	b.Helper()
	head, err := c.Head(b.Context(), bus.StreamArchive)
	require.NoError(b, err)
	return bus.Range{From: head.Seq + 1, Follow: true, Ready: sync.OnceFunc(func() { close(ready) })}
}

// BenchmarkCommitToTap is the time from etcd's answer to the writer until a tap
// has the change.
func BenchmarkCommitToTap(b *testing.B) {
	r := newRig(b)
	r.start(b)
	waitForStreams(b, r)
	object := benchPod()
	seen := make(chan int64, 1024)
	ready := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- r.client.ReadRange(b.Context(), fromNow(b, r.client, ready), func(e schemas.Event) error {
			seen <- e.Rev
			return nil
		})
	}()
	select {
	case <-ready:
	case err := <-done:
		b.Fatal(err)
	}
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		rev := r.Put(b.Context(), b, feedtest.PodKey("a"), object)
		committed := time.Since(start)
		for got := range seen {
			if got >= rev {
				break
			}
		}
		took = append(took, time.Since(start)-committed)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}

// BenchmarkCatchUp is the rate at which a relay works off what it has missed.
func BenchmarkCatchUp(b *testing.B) {
	r := newRig(b)
	object := benchPod()
	const events = 5000
	var last int64
	for i := range events {
		last = r.Put(b.Context(), b, feedtest.PodKey(fmt.Sprint("p", i%100)), object)
	}
	var total time.Duration
	for b.Loop() {
		b.StopTimer()
		if err := r.client.DropStreams(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		start := time.Now()
		relay, kill := r.start(b)
		require.Eventually(b, func() bool { return relay.Position() >= last }, time.Minute, time.Millisecond)
		total += time.Since(start)
		b.StopTimer()
		kill()
		b.StartTimer()
	}
	b.ReportMetric(events*float64(b.N)/total.Seconds(), "events/s")
}

// waitForStreams returns once a first change has come through.
func waitForStreams(t testing.TB, r *rig) {
	t.Helper()
	rev := r.Put(t.Context(), t, feedtest.PodKey("first"), "{}")
	require.Eventually(t, func() bool { return r.client.WaitForRevision(t.Context(), rev) == nil }, 20*time.Second, 10*time.Millisecond)
}
