package queue

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pod(name string, priority int32) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Priority: &priority}}
}

// ready reports whether a pod can be popped now, and which.
func ready(t *testing.T, q *Queue) *Entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	e, err := q.Pop(ctx)
	if err != nil {
		return nil
	}
	return e
}

// bubble runs a test with a queue in fake time.
func bubble(t *testing.T, test func(t *testing.T, q *Queue)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, New(time.Now)) })
}

func TestPriorityThenAge(t *testing.T) {
	bubble(t, func(t *testing.T, q *Queue) {
		for _, p := range []*corev1.Pod{pod("low", 0), pod("first", 5), pod("second", 5), pod("high", 9)} {
			q.Add(p, 1, false)
			time.Sleep(time.Millisecond)
		}
		var got []string
		for range 4 {
			got = append(got, ready(t, q).Pod.Name)
		}
		require.Equal(t, []string{"high", "first", "second", "low"}, got)
		require.Nil(t, ready(t, q))
	})
}

func TestPopWaits(t *testing.T) {
	bubble(t, func(t *testing.T, q *Queue) {
		got := make(chan *Entry)
		go func() {
			e, err := q.Pop(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- e
		}()
		synctest.Wait()
		q.Add(pod("a", 0), 7, false)
		require.Equal(t, []int64{7}, (<-got).Causes)
	})
}

func TestParkedPodsWakeByTheRightEvent(t *testing.T) {
	for _, tc := range []struct {
		filter string
		event  Event
		wakes  bool
	}{
		{"NodeResourcesFit", PodGone, true},
		{"NodeResourcesFit", NodeAdded, true},
		{"NodeResourcesFit", NodeChanged, true},
		{"NodeResourcesFit", PodPlaced, false},
		{"NodeAffinity", PodGone, false},
		{"NodeAffinity", NodeChanged, true},
		{"NodePorts", PodGone, true},
		{"NodePorts", NodeChanged, false},
		{"TaintToleration", NodeChanged, true},
		{"PodTopologySpread", PodPlaced, true},
		{"PodTopologySpread", NodeGone, true},
		{"PodTopologySpread", PodChanged, true},
		{"a filter that names no events", PodPlaced, true},
	} {
		t.Run(tc.filter, func(t *testing.T) {
			bubble(t, func(t *testing.T, q *Queue) {
				q.Add(pod("a", 0), 1, false)
				q.Park(ready(t, q), map[string]int{tc.filter: 1})
				time.Sleep(time.Minute) // past the back-off
				require.Nil(t, ready(t, q), "nothing is tried again by time alone")
				q.Happened(tc.event, 9)
				e := ready(t, q)
				require.Equal(t, tc.wakes, e != nil)
				if e != nil {
					require.Equal(t, []int64{9}, e.Causes, "the event is the cause")
				}
			})
		})
	}
}

func TestWakingSoonWaitsOutTheBackoff(t *testing.T) {
	bubble(t, func(t *testing.T, q *Queue) {
		q.Add(pod("a", 0), 1, false)
		for _, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
			e := ready(t, q)
			require.NotNil(t, e)
			q.Park(e, map[string]int{"NodeAffinity": 1})
			q.Happened(NodeChanged, 2)
			q.Happened(NodeChanged, 3)
			time.Sleep(want*time.Second - 2*time.Millisecond)
			require.Nil(t, ready(t, q), "%d s are not over", want)
			time.Sleep(2 * time.Millisecond)
			synctest.Wait()
		}
	})
}

func TestEventDuringDecisionIsNotMissed(t *testing.T) {
	for _, tc := range []struct {
		name   string
		events []Event
		wakes  bool
	}{
		{"one that helps", []Event{NodeChanged}, true},
		{"one that does not", []Event{PodPlaced}, false},
		{"one of many", append([]Event{NodeChanged}, make([]Event, 9)...), true},
		{"so many that the first are forgotten", manyEvents(3*remembered, PodPlaced), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, q *Queue) {
				q.Add(pod("a", 0), 1, false)
				e := ready(t, q)
				for _, event := range tc.events {
					q.Happened(event, 2)
				}
				q.Park(e, map[string]int{"NodeAffinity": 1})
				time.Sleep(2 * firstBackoff)
				synctest.Wait()
				require.Equal(t, tc.wakes, ready(t, q) != nil)
			})
		})
	}
}

func manyEvents(n int, e Event) []Event {
	events := make([]Event, n)
	for i := range events {
		events[i] = e
	}
	return events
}

// A pod whose spec changed while it was decided on was parked with the old answer.
func TestChangeDuringDecisionIsNotMissed(t *testing.T) {
	bubble(t, func(t *testing.T, q *Queue) {
		q.Add(pod("a", 0), 1, false)
		e := ready(t, q)
		q.Add(pod("a", 3), 2, true)
		require.EqualValues(t, 0, *e.Pod.Spec.Priority, "whoever decides keeps what it read")
		q.Park(e, map[string]int{"NodeAffinity": 1})
		time.Sleep(2 * firstBackoff)
		synctest.Wait()
		again := ready(t, q)
		require.NotNil(t, again)
		require.EqualValues(t, 3, *again.Pod.Spec.Priority)
	})
}

func TestChangedSpecWakesTheParked(t *testing.T) {
	bubble(t, func(t *testing.T, q *Queue) {
		q.Add(pod("a", 0), 1, false)
		q.Park(ready(t, q), map[string]int{"NodeAffinity": 1})
		time.Sleep(time.Minute)
		q.Add(pod("a", 0), 2, false)
		require.Nil(t, ready(t, q), "a status alone wakes nobody")
		q.Add(pod("a", 0), 3, true)
		require.NotNil(t, ready(t, q))
	})
}

func TestRetryComesBackAfterTheBackoff(t *testing.T) {
	bubble(t, func(t *testing.T, q *Queue) {
		q.Add(pod("a", 0), 5, false)
		q.Retry(ready(t, q))
		require.Nil(t, ready(t, q))
		time.Sleep(firstBackoff)
		synctest.Wait()
		e := ready(t, q)
		require.Equal(t, 2, e.Attempts)
		require.Equal(t, []int64{5}, e.Causes, "the cause is still the same")
	})
}

func TestRemoveWhereverThePodIs(t *testing.T) {
	for name, put := range map[string]func(t *testing.T, q *Queue){
		"active":      func(*testing.T, *Queue) {},
		"popped":      func(t *testing.T, q *Queue) { e := ready(t, q); defer q.Park(e, nil); q.Remove("a") },
		"parked":      func(t *testing.T, q *Queue) { q.Park(ready(t, q), nil) },
		"backing off": func(t *testing.T, q *Queue) { q.Retry(ready(t, q)) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, q *Queue) {
				q.Add(pod("a", 0), 1, false)
				put(t, q)
				q.Remove("a")
				q.Remove("a")
				q.Happened(Any, 2)
				time.Sleep(time.Minute)
				require.Nil(t, ready(t, q))
				require.Empty(t, q.entries)
				require.Empty(t, q.parked)
			})
		})
	}
}
