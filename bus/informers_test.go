package bus

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/schemas"
)

var podsGVR = corev1.SchemeGroupVersion.WithResource("pods")

// runInformers runs a set of informers until the test ends.
func runInformers(t testing.TB, c *Client) *Informers {
	t.Helper()
	i := NewInformers(c, zerolog.Nop())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- i.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return i
}

func requireStore(t testing.TB, inf cache.SharedIndexInformer, want map[string]int64) {
	t.Helper()
	got := map[string]int64{}
	for _, obj := range inf.GetStore().List() {
		p := obj.(*corev1.Pod)
		rev, err := strconv.ParseInt(p.ResourceVersion, 10, 64)
		require.NoError(t, err)
		got[p.Name] = rev
	}
	require.Equal(t, want, got)
}

func TestInformerHasSnapshotThenEveryChange(t *testing.T) {
	b := startBus(t)
	want := map[string]int64{}
	for i := range 500 {
		name := fmt.Sprint("p", i%50)
		want[name] = b.send(t, schemas.Modified, pod(name), i)
	}
	b.send(t, schemas.Deleted, pod("p0"), 0)
	delete(want, "p0")
	b.flush(t)
	b.settle(t, StreamState)
	i := runInformers(t, b.Client)
	pods := i.For(podsGVR, &corev1.Pod{})
	require.NoError(t, i.WaitForSync(t.Context()))
	requireStore(t, pods, want)

	var last int64
	for n := range 300 {
		name := fmt.Sprint("q", n%20)
		last = b.send(t, schemas.Modified, pod(name), n)
		want[name] = last
	}
	last = b.send(t, schemas.Deleted, pod("p1"), 0)
	delete(want, "p1")
	b.flush(t)
	require.NoError(t, i.WaitForRevision(t.Context(), last))
	requireStore(t, pods, want)
}

func TestInformerOfNothingSyncs(t *testing.T) {
	b := startBus(t)
	i := runInformers(t, b.Client)
	pods := i.For(podsGVR, &corev1.Pod{})
	require.NoError(t, i.WaitForSync(t.Context()))
	rev := b.send(t, schemas.Added, pod("a"), 1)
	other := b.send(t, schemas.Added, schemas.Key{Resource: "nodes", Name: "n"}, 1)
	b.flush(t)
	require.NoError(t, i.WaitForRevision(t.Context(), other))
	requireStore(t, pods, map[string]int64{"a": rev})
}

func TestInformerSyncsWhileOthersWrite(t *testing.T) {
	b := startBus(t)
	want := map[string]int64{}
	var mu sync.Mutex
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			name := fmt.Sprint("p", n%100)
			mu.Lock()
			want[name] = b.send(t, schemas.Modified, pod(name), n)
			mu.Unlock()
		}
	}()
	var informers []*Informers
	for range 5 {
		i := runInformers(t, b.Client)
		i.For(podsGVR, &corev1.Pod{})
		require.NoError(t, i.WaitForSync(t.Context()))
		informers = append(informers, i)
	}
	close(stop)
	<-done
	b.flush(t)
	for _, i := range informers {
		require.NoError(t, i.WaitForRevision(t.Context(), b.rev))
		requireStore(t, i.For(podsGVR, nil), want)
	}
}

func TestInformerKeepsUpOverLostConsumersAndRestarts(t *testing.T) {
	dir := t.TempDir()
	server := testServer(t, dir)
	c := connect(t, ClientConfig{Server: server})
	made, err := c.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	b := &testBus{Client: c, server: server, epoch: made.Epoch, rev: 10}
	b.open(t)
	i := runInformers(t, c)
	pods := i.For(podsGVR, &corev1.Pod{})
	require.NoError(t, i.WaitForSync(t.Context()))
	want := map[string]int64{}
	for round := range 3 {
		for n := range 50 {
			name := fmt.Sprint("p", n)
			want[name] = b.send(t, schemas.Modified, pod(name), round)
		}
		b.flush(t)
		stream, err := c.js.Stream(t.Context(), StreamState)
		require.NoError(t, err)
		for name := range stream.ConsumerNames(t.Context()).Name() {
			require.NoError(t, stream.DeleteConsumer(t.Context(), name))
		}
	}
	require.NoError(t, i.WaitForRevision(t.Context(), b.rev))
	requireStore(t, pods, want)
}

func TestInformerListsAgainWhenTheStreamIsMadeAnew(t *testing.T) {
	b := startBus(t)
	b.send(t, schemas.Added, pod("old"), 1)
	b.flush(t)
	b.settle(t, StreamState)
	i := runInformers(t, b.Client)
	pods := i.For(podsGVR, &corev1.Pod{})
	require.NoError(t, i.WaitForSync(t.Context()))
	require.NoError(t, b.DropStreams(t.Context()))
	made, err := b.MakeStreams(t.Context(), testCluster, 9)
	require.NoError(t, err)
	b.epoch = made.Epoch
	b.open(t)
	rev := b.send(t, schemas.Added, pod("new"), 1)
	b.flush(t)
	require.NoError(t, i.WaitForRevision(t.Context(), rev))
	requireStore(t, pods, map[string]int64{"new": rev})
}

func TestInformerSkipsWhatItCanNotRead(t *testing.T) {
	b := startBus(t)
	bad := b.event(schemas.Added, pod("bad"), 1)
	bad.Object = []byte(`{"metadata":`)
	require.NoError(t, b.window.Publish(t.Context(), pod("bad").Subject(), bad, 0))
	rev := b.send(t, schemas.Added, pod("good"), 1)
	b.flush(t)
	i := runInformers(t, b.Client)
	pods := i.For(podsGVR, &corev1.Pod{})
	require.NoError(t, i.WaitForSync(t.Context()))
	require.NoError(t, i.WaitForRevision(t.Context(), rev))
	requireStore(t, pods, map[string]int64{"good": rev})
}

func TestInformerOfUnstructuredObjects(t *testing.T) {
	b := startBus(t)
	rev := b.send(t, schemas.Added, pod("a"), 1)
	b.flush(t)
	example := &unstructured.Unstructured{}
	example.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	i := runInformers(t, b.Client)
	inf := i.For(podsGVR, example)
	require.NoError(t, i.WaitForSync(t.Context()))
	require.NoError(t, i.WaitForRevision(t.Context(), rev))
	obj, ok, err := inf.GetStore().GetByKey("default/a")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, strconv.FormatInt(rev, 10), obj.(runtime.Object).(*unstructured.Unstructured).GetResourceVersion())
}

func TestSourceListsAndResumesWithoutWatchList(t *testing.T) {
	b := startBus(t)
	for n := range 10 {
		b.send(t, schemas.Added, pod(fmt.Sprint("p", n)), 1)
	}
	b.send(t, schemas.Deleted, pod("p3"), 1)
	b.flush(t)
	b.settle(t, StreamState)
	s := newSource(b.Client, podsGVR, &corev1.Pod{}, zerolog.Nop())
	obj, err := s.ListWithContext(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	list := obj.(*metav1.List)
	require.Len(t, list.Items, 9)

	_, err = s.WatchWithContext(t.Context(), metav1.ListOptions{ResourceVersion: "1"})
	require.ErrorContains(t, err, "can't resume")
	w, err := s.WatchWithContext(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	require.NoError(t, err)
	defer w.Stop()
	b.send(t, schemas.Deleted, pod("p4"), 1)
	b.flush(t)
	event := <-w.ResultChan()
	require.Equal(t, watch.Deleted, event.Type)
	require.Equal(t, "p4", event.Object.(*corev1.Pod).Name)
	require.Equal(t, strconv.FormatInt(b.rev, 10), event.Object.(*corev1.Pod).ResourceVersion)
}

func TestForReturnsOneInformerPerResource(t *testing.T) {
	b := startBus(t)
	i := NewInformers(b.Client, zerolog.Nop())
	require.Same(t, i.For(podsGVR, &corev1.Pod{}), i.For(podsGVR, &corev1.Pod{}))
	require.NotSame(t, i.For(podsGVR, &corev1.Pod{}), i.For(schema.GroupVersionResource{Version: "v1", Resource: "nodes"}, &corev1.Node{}))
}
