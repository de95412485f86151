package bus

// Compare two versions with
//
//	go test ./bus -run '^$' -bench . -count 10 | tee new.txt; benchstat old.txt new.txt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/schemas"
)

// benchObject has the size of a small deployment.
func benchObject(name string) []byte {
	return []byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"` + name + `","namespace":"default","annotations":{"x":"` +
		strings.Repeat("y", 1800) + `"}}}`)
}

func (b *testBus) benchEvent(key schemas.Key) schemas.Event {
	b.rev++
	return schemas.Event{
		Rev: b.rev, Cnt: 1, Type: schemas.Modified, Key: key, PrevRev: b.rev - 1, Epoch: b.epoch, Object: benchObject(key.Name),
		Header: schemas.Header{V: 1, Time: time.Now(), Verb: "update", User: "system:serviceaccount:kube-system:deployment-controller", Request: "8f1c"},
	}
}

func BenchmarkPublishPipelined(b *testing.B) {
	bus := startBus(b)
	keys := make([]schemas.Key, 1000)
	for i := range keys {
		keys[i] = pod(fmt.Sprint("p", i))
	}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		key := keys[n%len(keys)]
		n++
		require.NoError(b, bus.window.Publish(b.Context(), key.Subject(), bus.benchEvent(key), 0))
	}
	bus.flush(b)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkPublishAndWait(b *testing.B) {
	bus := startBus(b)
	for b.Loop() {
		require.NoError(b, bus.window.Publish(b.Context(), pod("a").Subject(), bus.benchEvent(pod("a")), 0))
		bus.flush(b)
	}
}

// BenchmarkLatency is the time from publishing to receipt by the last of n live
// subscribers on one connection.
func BenchmarkLatency(b *testing.B) {
	for _, subscribers := range []int{1, 100} {
		b.Run(fmt.Sprintf("subscribers=%d", subscribers), func(b *testing.B) {
			bus := startBus(b)
			got := make(chan struct{}, subscribers)
			for range subscribers {
				_, err := bus.nc.Subscribe("live.n.n1", func(*nats.Msg) { got <- struct{}{} })
				require.NoError(b, err)
			}
			require.NoError(b, bus.nc.Flush())
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				require.NoError(b, bus.window.Publish(b.Context(), "n.n1", bus.benchEvent(pod("a")), 0))
				for range subscribers {
					<-got
				}
				took = append(took, time.Since(start))
			}
			reportQuantiles(b, took)
		})
	}
}

// BenchmarkFanOut is the time from publishing until each of 100 subscribers with
// a connection of its own has read the event, at 1,000 events a second.
func BenchmarkFanOut(b *testing.B) {
	const subscribers, interval = 100, time.Millisecond
	bus := startBus(b)
	seen := make(chan time.Duration, 1<<20)
	for range subscribers {
		c := connect(b, ClientConfig{Server: bus.server})
		_, err := c.nc.Subscribe("live.n.n1", func(msg *nats.Msg) {
			e, err := schemas.ParseEvent(map[string][]string(msg.Header), msg.Data)
			if err == nil {
				seen <- time.Since(e.Header.Time)
			}
		})
		require.NoError(b, err)
		require.NoError(b, c.nc.Flush())
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for b.Loop() {
		<-ticker.C
		require.NoError(b, bus.window.Publish(b.Context(), "n.n1", bus.benchEvent(pod("a")), 0))
	}
	rate := float64(b.N) / b.Elapsed().Seconds()
	var took []time.Duration
	for range b.N * subscribers {
		took = append(took, <-seen)
	}
	reportQuantiles(b, took)
	b.ReportMetric(rate, "events/s")
}

func reportQuantiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}

// BenchmarkInformerSync is the time until an informer holds 10,000 objects.
func BenchmarkInformerSync(b *testing.B) {
	bus := startBus(b)
	for i := range 10000 {
		key := pod(fmt.Sprint("p", i))
		require.NoError(b, bus.window.Publish(b.Context(), key.Subject(), bus.benchEvent(key), 0))
	}
	bus.flush(b)
	bus.settle(b, StreamState)
	for b.Loop() {
		i := runInformers(b, bus.Client)
		pods := i.For(podsGVR, &corev1.Pod{})
		require.NoError(b, i.WaitForSync(b.Context()))
		require.Len(b, pods.GetStore().ListKeys(), 10000)
	}
	b.ReportMetric(10000*float64(b.N)/b.Elapsed().Seconds(), "objects/s")
}

// BenchmarkReplay is the rate at which the past can be read: message by message, as taps
// do, and in packs.
func BenchmarkReplay(b *testing.B) {
	bus := startBus(b)
	const events = 20480
	for i := range events {
		key := pod(fmt.Sprint("p", i%1000))
		require.NoError(b, bus.window.Publish(b.Context(), key.Subject(), bus.benchEvent(key), 0))
	}
	bus.flush(b)
	bus.settle(b, StreamArchive)
	require.NoError(b, bus.PackArchive(b.Context()))
	for name, read := range map[string]func(func(schemas.Event) error) error{
		"messages": func(fn func(schemas.Event) error) error {
			return bus.scan(b.Context(), scan{stream: StreamArchive, filter: schemas.AllObjects}, fn)
		},
		"packs": func(fn func(schemas.Event) error) error {
			return bus.ReadRange(b.Context(), Range{Urgent: true}, fn)
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				require.NoError(b, read(func(schemas.Event) error { n++; return nil }))
				require.Equal(b, events, n)
			}
			b.ReportMetric(events*float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkLookForHoles is what the start of a server pays to find that its mirrors have lost
// nothing, with 100,000 objects of which a tenth were changed again.
func BenchmarkLookForHoles(b *testing.B) {
	bus := startBus(b)
	const objects = 100_000
	for i := range objects + objects/10 {
		key := pod(fmt.Sprint("p", i%objects))
		require.NoError(b, bus.window.Publish(b.Context(), key.Subject(), bus.event(schemas.Modified, key, i), 0))
	}
	bus.flush(b)
	for _, mirror := range []string{StreamState, StreamArchive} {
		require.NoError(b, bus.WaitMirror(b.Context(), mirror))
		b.Run(mirror, func(b *testing.B) {
			for b.Loop() {
				holed, err := bus.mirrorHoled(b.Context(), mirror)
				require.NoError(b, err)
				require.False(b, holed)
			}
		})
	}
}
