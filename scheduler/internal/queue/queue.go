// Package queue holds the pods that wait for a place: those to decide on next, and
// those that fit nowhere until something changes.
//
// A parked pod is woken only by an event that can undo one of the rejections it met.
// One that is woken again soon waits out a back-off first, so that a storm of events
// does not spin on a pod that keeps failing.
package queue

import (
	"container/heap"
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
)

// Event is a kind of change that can make a pod fit.
type Event uint8

// Events are bits, so that several can be named at once.
const (
	NodeAdded Event = 1 << iota
	NodeChanged
	PodGone
	PodPlaced
	NodeGone
	PodChanged       // labels, or its deletion began
	Any        Event = 0xff
)

// wakers names the events that can change a filter's mind.
var wakers = map[string]Event{
	"NodeUnschedulable": NodeAdded | NodeChanged,
	"NodeName":          NodeAdded,
	"TaintToleration":   NodeAdded | NodeChanged,
	"NodeAffinity":      NodeAdded | NodeChanged,
	"NodePorts":         NodeAdded | PodGone,
	"NodeResourcesFit":  NodeAdded | NodeChanged | PodGone,
	"PodTopologySpread": NodeAdded | NodeChanged | NodeGone | PodGone | PodPlaced | PodChanged,
}

// Back-off of a pod that keeps failing, kube-scheduler's defaults.
const (
	firstBackoff = time.Second
	lastBackoff  = 10 * time.Second
)

// Entry is a pod in the queue. It is owned by whoever popped it until Park, Done or
// Retry.
type Entry struct {
	Pod      *corev1.Pod
	Causes   []int64 // revisions that woke it
	Attempts int

	newest  *corev1.Pod // came while the entry was popped; nil if none
	changed bool        // newest has another spec or labels
	timer   *time.Timer // ends the back-off; nil if none runs
	added   time.Time
	last    time.Time // of the last attempt
	wakes   Event
	popped  uint64 // count of events when popped
	index   int    // in the heap, -1 outside
}

// Queue is safe for concurrent use.
type Queue struct {
	mu      sync.Mutex
	entries map[types.UID]*Entry // all that wait, popped ones too; guarded by mu
	active  byPriority           // guarded by mu
	parked  map[types.UID]*Entry // guarded by mu
	events  []Event              // the last events, for pods that were being decided on; guarded by mu
	seen    uint64               // count of events; guarded by mu
	ready   chan struct{}
	now     func() time.Time
}

// remembered is how many events Park can look back on; a decision takes far fewer.
const remembered = 1024

// New returns an empty queue. now is the clock.
func New(now func() time.Time) *Queue {
	return &Queue{entries: map[types.UID]*Entry{}, parked: map[types.UID]*Entry{}, ready: make(chan struct{}, 1), now: now}
}

// Add queues a pod, or gives a waiting one its newest form. A changed spec of a parked
// pod wakes it.
func (q *Queue) Add(p *corev1.Pod, rev int64, changed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, ok := q.entries[p.UID]
	if !ok {
		e = &Entry{Pod: p, added: q.now(), index: -1}
		q.entries[p.UID] = e
		e.cause(rev)
		q.activateLocked(e)
		return
	}
	if _, parked := q.parked[p.UID]; !parked && e.index < 0 {
		e.newest = p // whoever popped it reads e.Pod
		e.changed = e.changed || changed
		return
	}
	e.Pod = p
	if _, parked := q.parked[p.UID]; parked && changed {
		e.cause(rev)
		q.wakeLocked(e)
	}
}

// catchUp takes the newest form, and reports whether that can change the decision.
func (e *Entry) catchUp() (changed bool) {
	if e.newest != nil {
		e.Pod, e.newest = e.newest, nil
	}
	changed, e.changed = e.changed, false
	return changed
}

const maxCauses = 8

func (e *Entry) cause(rev int64) {
	if rev > 0 && len(e.Causes) < maxCauses {
		e.Causes = append(e.Causes, rev)
	}
}

// Remove forgets a pod.
func (q *Queue) Remove(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, ok := q.entries[uid]
	if !ok {
		return
	}
	delete(q.entries, uid)
	delete(q.parked, uid)
	if e.timer != nil {
		e.timer.Stop()
	}
	if e.index >= 0 {
		heap.Remove(&q.active, e.index)
	}
}

// Pop waits for the next pod to decide on: the highest priority, then the longest wait.
func (q *Queue) Pop(ctx context.Context) (*Entry, error) {
	for {
		q.mu.Lock()
		if len(q.active) > 0 {
			e := heap.Pop(&q.active).(*Entry)
			e.Attempts++
			e.last, e.popped = q.now(), q.seen
			if len(q.active) > 0 {
				q.signal()
			}
			q.mu.Unlock()
			return e, nil
		}
		q.mu.Unlock()
		select {
		case <-q.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Park puts a pod that fits nowhere aside until an event that can change one of the
// filters that rejected it. If one came while the pod was being decided on, it waits
// out its back-off only.
func (q *Queue) Park(e *Entry, rejectedBy map[string]int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.entries[e.Pod.UID] != e {
		return // removed meanwhile
	}
	changed := e.catchUp()
	e.wakes, e.Causes = NodeAdded, nil
	for name := range rejectedBy {
		if w, ok := wakers[name]; ok {
			e.wakes |= w
		} else {
			e.wakes = Any
		}
	}
	q.parked[e.Pod.UID] = e
	if changed {
		q.wakeLocked(e)
		return
	}
	missed := q.seen - e.popped
	for i := uint64(0); i < min(missed, uint64(len(q.events))); i++ {
		if q.events[len(q.events)-1-int(i)]&e.wakes != 0 {
			q.wakeLocked(e)
			return
		}
	}
	if missed > remembered {
		q.wakeLocked(e)
	}
}

// Retry queues a pod again after its back-off: the decision was right, but carrying it
// out failed.
func (q *Queue) Retry(e *Entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.entries[e.Pod.UID] == e {
		e.catchUp()
		q.parked[e.Pod.UID] = e
		q.wakeLocked(e)
	}
}

// Happened wakes the parked pods that the event, or events, can help.
func (q *Queue) Happened(event Event, rev int64) {
	if event == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.seen++
	if q.events = append(q.events, event); len(q.events) > 2*remembered {
		q.events = append([]Event(nil), q.events[remembered:]...)
	}
	for _, e := range q.parked {
		if e.wakes&event != 0 {
			e.cause(rev)
			q.wakeLocked(e)
		}
	}
}

// wakeLocked moves a parked pod to the active ones, at once or when its back-off ends.
func (q *Queue) wakeLocked(e *Entry) {
	uid := e.Pod.UID
	wait := e.last.Add(backoff(e.Attempts)).Sub(q.now())
	if wait <= 0 {
		if e.timer != nil {
			e.timer.Stop()
			e.timer = nil
		}
		delete(q.parked, uid)
		q.activateLocked(e)
		return
	}
	if e.timer != nil {
		return
	}
	e.timer = time.AfterFunc(wait, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		e.timer = nil
		if q.parked[uid] == e {
			delete(q.parked, uid)
			q.activateLocked(e)
		}
	})
}

func backoff(attempts int) time.Duration {
	d := firstBackoff
	for i := 1; i < attempts && d < lastBackoff; i++ {
		d *= 2
	}
	return min(d, lastBackoff)
}

func (q *Queue) activateLocked(e *Entry) {
	if e.index < 0 {
		heap.Push(&q.active, e)
	}
	q.signal()
}

func (q *Queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// byPriority is a heap: higher priority first, then who came first.
type byPriority []*Entry

func (h byPriority) Len() int { return len(h) }
func (h byPriority) Less(i, j int) bool {
	a, b := corev1helpers.PodPriority(h[i].Pod), corev1helpers.PodPriority(h[j].Pod)
	if a != b {
		return a > b
	}
	return h[i].added.Before(h[j].added)
}
func (h byPriority) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *byPriority) Push(x any) {
	e := x.(*Entry)
	e.index = len(*h)
	*h = append(*h, e)
}

// Pop implements heap.Interface.
func (h *byPriority) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.index = -1
	return e
}
