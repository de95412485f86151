package bus

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/schemas"
)

// podTable is a RouteHandler that keeps the pods, and every change it was told.
type podTable struct {
	mu      sync.Mutex
	pods    map[string]int64
	changes []int64
	syncs   int
	signal  chan struct{}
}

func newPodTable() *podTable { return &podTable{signal: make(chan struct{}, 1)} }

func (p *podTable) Sync(pods []*corev1.Pod, rev int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.syncs++
	p.pods = map[string]int64{}
	for _, pod := range pods {
		p.pods[pod.Name] = rev
	}
	p.wake()
}

func (p *podTable) Apply(e RouteEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changes = append(p.changes, e.Rev)
	if e.Type == schemas.Deleted || e.Type == schemas.Left {
		delete(p.pods, e.Pod.Name)
	} else {
		p.pods[e.Pod.Name] = e.Rev
	}
	p.wake()
}

func (p *podTable) wake() {
	select {
	case p.signal <- struct{}{}:
	default:
	}
}

// wait waits until n changes were told.
func (p *podTable) wait(t testing.TB, n int) []int64 {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		p.mu.Lock()
		changes := append([]int64(nil), p.changes...)
		synced := p.syncs > 0
		p.mu.Unlock()
		if len(changes) >= n && synced {
			return changes
		}
		select {
		case <-p.signal:
		case <-deadline:
			t.Fatalf("%d changes came instead of %d", len(changes), n)
		}
	}
}

// sendRoute publishes a change of a pod on a node's route, as the relay would.
func (b *testBus) sendRoute(t testing.TB, node string, kind schemas.EventType, name string) int64 {
	t.Helper()
	e := b.event(kind, pod(name), 1)
	require.NoError(t, b.window.Publish(t.Context(), schemas.NodeRoute(node), e, 0))
	return e.Rev
}

func emptyList(rev int64) PodLister {
	return func(context.Context) ([]*corev1.Pod, int64, error) { return nil, rev, nil }
}

func followRoute(t testing.TB, c *Client, node string, list PodLister, h RouteHandler) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.NodeRoute(ctx, node, list, h) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

func TestNodeRouteTellsEveryChangeOnce(t *testing.T) {
	b := startBus(t)
	node := connect(t, ClientConfig{Server: b.server, Node: "n1.example"})
	b.sendRoute(t, "n1.example", schemas.Added, "old")
	b.flush(t)
	table := newPodTable()
	followRoute(t, node, "n1.example", emptyList(b.rev), table)
	table.wait(t, 0)
	var want []int64
	for i := range 50 {
		want = append(want, b.sendRoute(t, "n1.example", schemas.Modified, fmt.Sprint("p", i%5)))
		b.sendRoute(t, "n2", schemas.Modified, "foreign")
	}
	want = append(want, b.sendRoute(t, "n1.example", schemas.Left, "p0"))
	b.flush(t)
	require.Equal(t, want, table.wait(t, len(want)))
	require.NotContains(t, table.pods, "p0")
}

func TestNodeRouteRepairsGapsFromTheStream(t *testing.T) {
	b := startBus(t)
	node := connect(t, ClientConfig{Server: b.server, Node: "n1", TailCheck: 50 * time.Millisecond})
	table := newPodTable()
	followRoute(t, node, "n1", emptyList(b.rev), table)
	table.wait(t, 0)
	rng := rand.New(rand.NewPCG(1, 1))
	var want []int64
	for i := range 200 {
		want = append(want, b.sendRoute(t, "n1", schemas.Modified, fmt.Sprint("p", i%5)))
		if rng.IntN(40) == 0 {
			b.flush(t)
			require.NoError(t, node.nc.ForceReconnect())
		}
	}
	b.flush(t)
	require.Equal(t, want, table.wait(t, len(want)))
	require.Equal(t, 1, table.syncs, "gaps are no reason to list again")
}

// The mirror that the tail is asked of may lag behind what came live: only if it stays
// behind, the stream has lost something.
func TestNodeRouteWaitsForTheMirror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &route{seq: 7}
		for _, step := range []struct {
			wait time.Duration
			seq  uint64 // of what came live, if not 0
			tail uint64
			lost bool
		}{
			{0, 0, 5, false},
			{tailLag, 0, 5, false},
			{0, 0, 7, false}, // it has caught up
			{time.Hour, 9, 7, false},
			{tailLag / 2, 12, 8, false},
			{tailLag / 2, 0, 9, false}, // it goes on, if slowly
			{tailLag, 0, 10, false},
			{time.Second, 0, 10, true},
		} {
			time.Sleep(step.wait)
			r.seq = max(r.seq, step.seq)
			require.Equal(t, step.lost, r.lost(step.tail), "%+v", step)
		}
	})
}

func TestNodeRouteNoticesALostLastMessage(t *testing.T) {
	b := startBus(t)
	c := connect(t, ClientConfig{Server: b.server, Node: "n1"})
	table := newPodTable()
	r := &route{c: c, node: "n1", subject: schemas.NodeRoute("n1"), list: emptyList(b.rev), handler: table}
	require.NoError(t, r.begin(t.Context()))
	want := []int64{b.sendRoute(t, "n1", schemas.Added, "a"), b.sendRoute(t, "n1", schemas.Modified, "a")}
	b.flush(t)
	b.settle(t, StreamLastN)
	require.NoError(t, r.checkTail(t.Context()))
	require.Equal(t, want, table.changes)
}

func TestNodeRouteIgnoresSmuggledMessages(t *testing.T) {
	b := startBus(t)
	c := connect(t, ClientConfig{Server: b.server, Node: "n1"})
	table := newPodTable()
	followRoute(t, c, "n1", emptyList(b.rev), table)
	table.wait(t, 0)
	e := b.event(schemas.Added, pod("evil"), 1)
	headers, body := e.Message()
	headers["Nats-Sequence"], headers["Nats-Last-Sequence"] = []string{"99999999"}, []string{"0"}
	for _, stream := range []string{"", StreamState, StreamHistory} {
		headers["Nats-Stream"], headers["Nats-Subject"] = []string{stream}, []string{"n.n2"}
		require.NoError(t, b.nc.PublishMsg(&nats.Msg{Subject: "live.n.n1", Header: headers, Data: body}))
	}
	want := []int64{b.sendRoute(t, "n1", schemas.Added, "good")}
	b.flush(t)
	require.Equal(t, want, table.wait(t, 1))
}

func TestNodeRouteListsAgainAfterAResync(t *testing.T) {
	b := startBus(t)
	c := connect(t, ClientConfig{Server: b.server, Node: "n1"})
	table := newPodTable()
	followRoute(t, c, "n1", emptyList(b.rev), table)
	table.wait(t, 0)
	require.NoError(t, b.AnnounceResync())
	require.Eventually(t, func() bool {
		table.mu.Lock()
		defer table.mu.Unlock()
		return table.syncs == 2
	}, 5*time.Second, time.Millisecond)
}
