package engine_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
	"github.com/rutter-project/rutter/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var configMaps = corev1.SchemeGroupVersion.WithResource("configmaps")

// recorder is a reconciler made of a function.
type recorder func(ctx context.Context, key string) error

func (recorder) Name() string { return "recorder" }

func (r recorder) Reconcile(ctx context.Context, key string) error { return r(ctx, key) }

// run runs the controller until the test ends.
func run(t *testing.T, c *engine.Controller) {
	t.Helper()
	fakeapi.Start(t, fakeapi.New(), c)
}

func TestCausesOfAllEventsReachReconcile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []int64
		c := engine.NewController(recorder(func(ctx context.Context, _ string) error {
			got = schemas.CauseOf(ctx)
			return nil
		}), 1, zerolog.Nop())
		c.Enqueue("a", 5)
		c.Enqueue("a", 7)
		run(t, c)
		require.Equal(t, []int64{5, 7}, got)
		c.Enqueue("a", 0)
		fakeapi.Settle()
		require.Empty(t, got, "causes are used once")
	})
}

func TestCausesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var newest int64
		tries, most := 0, 0
		var c *engine.Controller
		c = engine.NewController(recorder(func(ctx context.Context, key string) error {
			for _, rev := range schemas.CauseOf(ctx) {
				newest = max(newest, rev)
			}
			most = max(most, len(schemas.CauseOf(ctx)))
			if tries++; tries < 5 {
				for rev := range int64(16) {
					c.Enqueue(key, int64(tries)*100+rev)
				}
				return errors.New("not yet")
			}
			return nil
		}), 1, zerolog.Nop())
		c.Enqueue("a", 1)
		run(t, c)
		require.Equal(t, 16, most)
		require.Equal(t, int64(415), newest, "the newest win")
	})
}

func TestFailureKeepsCausesAndBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		var causes [][]int64
		c := engine.NewController(recorder(func(ctx context.Context, _ string) error {
			at, causes = append(at, time.Now()), append(causes, schemas.CauseOf(ctx))
			if len(at) < 5 {
				return errors.New("not yet")
			}
			return nil
		}), 1, zerolog.Nop())
		c.Enqueue("a", 5)
		run(t, c)
		require.Len(t, at, 5)
		for i := 1; i < len(at); i++ {
			require.Equal(t, 5*time.Millisecond<<(i-1), at[i].Sub(at[i-1]), "wait %d", i)
			require.Equal(t, []int64{5}, causes[i])
		}
	})
}

func TestAfterComesBackInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := make(chan time.Time, 9)
		var tries atomic.Int32
		c := engine.NewController(recorder(func(context.Context, string) error {
			at <- time.Now()
			if tries.Add(1) == 1 {
				return engine.After{Wait: time.Minute}
			}
			return nil
		}), 1, zerolog.Nop())
		c.Enqueue("a", 0)
		run(t, c)
		first := <-at
		require.Empty(t, at)
		require.Equal(t, time.Minute, (<-at).Sub(first))
		fakeapi.Settle()
		require.Empty(t, at)
	})
}

func TestOneKeyNeverInTwoWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		busy := map[string]bool{}
		var calls, most, now atomic.Int32
		c := engine.NewController(recorder(func(_ context.Context, key string) error {
			mu.Lock()
			if busy[key] {
				t.Errorf("%s is in two workers", key)
			}
			busy[key] = true
			mu.Unlock()
			calls.Add(1)
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Millisecond)
			now.Add(-1)
			mu.Lock()
			defer mu.Unlock()
			busy[key] = false
			return nil
		}), 8, zerolog.Nop())
		fakeapi.Start(t, fakeapi.New(), c)
		for i := range 200 {
			c.Enqueue("key-"+strconv.Itoa(i%4), int64(i+1))
			if i%10 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		fakeapi.Settle()
		require.Greater(t, calls.Load(), int32(4))
		require.EqualValues(t, 4, most.Load(), "different keys run beside each other")
	})
}

func TestRunFailsWhenInformersDoNotFill(t *testing.T) {
	c := engine.NewController(recorder(func(context.Context, string) error { return nil }), 1, zerolog.Nop())
	require.NoError(t, c.Watch(fakeapi.New().For(configMaps, &corev1.ConfigMap{}), engine.Self))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := c.Run(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "recorder: informers did not fill")
}

func TestWatchMapsAddUpdateAndDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keys []string
		s := fakeapi.New()
		c := engine.NewController(recorder(func(_ context.Context, key string) error { keys = append(keys, key); return nil }), 1, zerolog.Nop())
		require.NoError(t, c.Watch(s.For(configMaps, &corev1.ConfigMap{}), engine.Self))
		fakeapi.Start(t, s, c)
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}}
		for _, change := range []func(){
			func() { cm = fakeapi.Put(s, cm) },
			func() { cm.Data = map[string]string{"x": "y"}; cm = fakeapi.Put(s, cm) },
			func() {
				require.NoError(t, s.Client().CoreV1().ConfigMaps("default").Delete(t.Context(), "a", metav1.DeleteOptions{}))
			},
		} {
			change()
			fakeapi.Settle()
		}
		require.Equal(t, []string{"default/a", "default/a", "default/a"}, keys)
	})
}

// A controller's own handler may be called before the one of Writes; then nobody but
// Writes can wake the key.
func TestWritesWakeWhoFoundItselfBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		informer := s.For(configMaps, &corev1.ConfigMap{})
		var woken []string
		writes, err := engine.NewWrites(informer, func(key string, _ int64) { woken = append(woken, key) })
		require.NoError(t, err)
		fakeapi.Start(t, s)
		release := s.Hold(configMaps)
		for _, name := range []string{"a", "b"} {
			writes.Wrote(name, fakeapi.Put(s, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}))
		}
		require.True(t, writes.Behind("a"))
		require.False(t, writes.Behind("other"))
		release()
		fakeapi.Settle()
		require.Equal(t, []string{"a"}, woken, "only who waited is woken")
		require.False(t, writes.Behind("a"))
		require.False(t, writes.Behind("b"))
	})
}

func TestOwnerKey(t *testing.T) {
	isController := true
	owned := func(kind, owner string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", OwnerReferences: []metav1.OwnerReference{{Kind: kind, Name: owner, Controller: &isController}}}}
	}
	for _, tc := range []struct {
		name     string
		old, obj any
		want     []string
	}{
		{"added", nil, owned("ReplicaSet", "a"), []string{"ns/a"}},
		{"of another kind", nil, owned("Job", "a"), nil},
		{"same owner", owned("ReplicaSet", "a"), owned("ReplicaSet", "a"), []string{"ns/a"}},
		{"changed hands", owned("ReplicaSet", "a"), owned("ReplicaSet", "b"), []string{"ns/a", "ns/b"}},
		{"released", owned("ReplicaSet", "a"), &corev1.Pod{}, []string{"ns/a"}},
		{"no object", nil, "what", nil},
	} {
		t.Run(tc.name, func(t *testing.T) { require.Equal(t, tc.want, engine.OwnerKey("ReplicaSet")(tc.old, tc.obj)) })
	}
}

func TestIndexOwnedTwiceIsFine(t *testing.T) {
	informer := fakeapi.New().For(configMaps, &corev1.ConfigMap{})
	require.NoError(t, engine.IndexOwned(informer))
	require.NoError(t, engine.IndexOwned(informer))
	orphan := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"}}
	require.NoError(t, informer.GetIndexer().Add(orphan))
	require.Equal(t, []*corev1.ConfigMap{orphan}, engine.Owned[*corev1.ConfigMap](informer.GetIndexer(), engine.Orphans, "ns"))
	require.Empty(t, engine.Owned[*corev1.ConfigMap](informer.GetIndexer(), engine.ByController, "uid"))
}

func TestRevision(t *testing.T) {
	for _, tc := range []struct {
		obj  any
		want int64
	}{
		{&corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "42"}}, 42},
		{&corev1.Pod{}, 0},
		{&corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "x"}}, 0},
		{cache.DeletedFinalStateUnknown{}, 0},
	} {
		require.Equal(t, tc.want, engine.Revision(tc.obj))
	}
}
