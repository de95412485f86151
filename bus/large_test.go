package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/schemas"
)

// smallBus carries at most 128 kB.
func smallBus(t testing.TB) *testBus {
	t.Helper()
	b := &testBus{server: testServer(t, t.TempDir(), func(cfg *ServerConfig) { cfg.MaxPayload = 128 << 10 })}
	b.Client = connect(t, ClientConfig{Server: b.server})
	made, err := b.MakeStreams(t.Context(), testCluster, 1)
	require.NoError(t, err)
	b.epoch, b.rev = made.Epoch, 100
	b.open(t)
	return b
}

func (b *testBus) large(key schemas.Key) schemas.Event {
	e := b.event(schemas.Added, key, 1)
	e.Object = []byte(fmt.Sprintf(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":%q,"namespace":%q,"annotations":{"x":%q}}}`, key.Name, key.Namespace, strings.Repeat("x", 100<<10)))
	return e
}

func TestObjectsTooLargeForTheBusAreReferredTo(t *testing.T) {
	b := smallBus(t)
	large := b.large(pod("large"))
	require.NoError(t, b.window.Publish(t.Context(), pod("large").Subject(), large, 0))
	small := b.send(t, schemas.Added, pod("small"), 1)
	b.flush(t)
	b.settle(t, StreamArchive)
	events := tapping(t, b.Client, TapOptions{SinceRev: 1})
	e := next(t, events)
	require.Equal(t, fmt.Sprintf("/at/rev-%d/api/v1/namespaces/default/pods/large", large.Rev), e.DataRef)
	require.Empty(t, e.Object)
	require.Equal(t, small, next(t, events).Rev)
	report, err := b.Verify(t.Context(), script{large, b.eventAt(small, pod("small"))})
	require.NoError(t, err)
	require.True(t, report.OK(), "%+v", report)
}

// eventAt is the event that send made.
func (b *testBus) eventAt(rev int64, key schemas.Key) schemas.Event {
	now := b.rev
	b.rev = rev - 1
	e := b.event(schemas.Added, key, 1)
	b.rev = now
	return e
}

func TestInformersFetchWhatIsTooLarge(t *testing.T) {
	b := smallBus(t)
	large := b.large(pod("large"))
	var calls atomic.Int32
	c := connect(t, ClientConfig{Server: b.server, Fetch: func(_ context.Context, path string) ([]byte, error) {
		if calls.Add(1) < 3 {
			return nil, errors.New("the API server is busy")
		}
		require.Contains(t, path, "/pods/large")
		return large.Object, nil
	}})
	i, without := runInformers(t, c), runInformers(t, b.Client)
	pods, few := i.For(podsGVR, &corev1.Pod{}), without.For(podsGVR, &corev1.Pod{})
	require.NoError(t, b.window.Publish(t.Context(), pod("large").Subject(), large, 0))
	small := b.send(t, schemas.Added, pod("small"), 1)
	b.flush(t)
	require.NoError(t, i.WaitForRevision(t.Context(), small))
	requireStore(t, pods, map[string]int64{"large": large.Rev, "small": small})
	require.NoError(t, without.WaitForRevision(t.Context(), small))
	requireStore(t, few, map[string]int64{"small": small})
}

func TestNodeRoutesFetchWhatIsTooLarge(t *testing.T) {
	b := smallBus(t)
	large := b.large(pod("large"))
	c := connect(t, ClientConfig{Server: b.server, Node: "n1", Fetch: func(context.Context, string) ([]byte, error) { return large.Object, nil }})
	table := newPodTable()
	followRoute(t, c, "n1", emptyList(b.rev-1), table)
	table.wait(t, 0)
	require.NoError(t, b.window.Publish(t.Context(), "n.n1", large, 0))
	b.flush(t)
	require.Equal(t, []int64{large.Rev}, table.wait(t, 1))
}
