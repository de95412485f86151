package podwork

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/engine"
	"github.com/rutter-project/rutter/nodeagent/internal/image"
	"github.com/rutter-project/rutter/nodeagent/internal/logfile"
	"github.com/rutter-project/rutter/nodeagent/internal/podstate"
	"github.com/rutter-project/rutter/nodeagent/internal/podstatus"
	"github.com/rutter-project/rutter/nodeagent/internal/volume"
)

// Worker drives one pod.
type Worker struct {
	deps *Deps
	uid  string // never changes
	log  zerolog.Logger
	dirs podDirs
	view atomic.Pointer[View]
	wake chan struct{}
	acts sync.WaitGroup // goroutines of this worker

	mu     sync.Mutex
	inbox  []any                    // podstate.Event or one of the inputs below; guarded by mu
	pumps  map[string]*logfile.Pump // by container id, while output flows; guarded by mu
	busy   map[string]chan struct{} // by container id, closed when its start returned; guarded by mu
	ends   map[string]bool          // container ids whose exit is being taken in; guarded by mu
	ooms   map[string]bool          // container ids the kernel killed in; guarded by mu
	inputs map[string]*os.File      // by container id, held open for the next client; guarded by mu

	// All below belongs to Run's goroutine.
	pod         *corev1.Pod
	rev         int64 // of pod
	spec        podstate.Spec
	state       podstate.Pod
	saved       []byte // the state as it is on disk
	adopted     bool   // the state came from disk
	images      map[int]image.Image
	stopSignals map[int]string // as the images name them
	infra       infra
	probes      map[int]context.CancelFunc
	status      statusDesk
	stopped     bool // the pod was over before this agent saw it
}

// infra is what Prepare makes.
type infra struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when the running preparation returned

	ready   chan struct{} // closed when prepared once
	volumes *volume.Set   // used by the preparation and by refreshes, one at a time
	netns   string        // written before ready is closed
	pid     string        // path of the shared process id namespace; the same
	refresh time.Time     // when volumes must be written anew; zero for never
	working bool          // a refresh runs
	again   bool          // another was asked for meanwhile
}

// View is a snapshot of a pod for the node's API.
type View struct {
	Pod        *corev1.Pod // with the status as the node knows it; must not be changed
	State      podstate.State
	Containers []ContainerView
	NetNS      string
	IPs        []string
}

// ContainerView is a snapshot of one container.
type ContainerView struct {
	Name      string
	ID        string
	State     podstate.ContainerState
	Restarts  int
	Log       string // of the newest attempt that began
	Previous  string // of the attempt before; empty when there is none
	StartedAt time.Time
}

// Inputs that are no events of the state machine.
type (
	podChanged struct {
		pod *corev1.Pod
		rev int64
	}
	podGone      struct{ rev int64 }
	objectsMoved struct{} // a referenced object changed
	imageReady   struct {
		c   int
		img image.Image
	}
	infraReady struct {
		netns   string
		pid     string
		ips     []string
		refresh time.Time
	}
	refreshed struct {
		next time.Time
		err  error
	}
	statusWritten struct {
		status corev1.PodStatus
		rev    int64 // of the object with this status, 0 if not known
		err    error
		gone   bool
	}
)

// New returns the worker of a pod seen for the first time.
func New(deps *Deps, pod *corev1.Pod, rev int64) *Worker {
	w := newWorker(deps, pod, rev)
	w.state = podstate.New(string(pod.UID), w.spec, time.Now())
	w.stopped = pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if w.stopped {
		w.state.State = podstate.Released
	}
	w.publish()
	return w
}

func newWorker(deps *Deps, pod *corev1.Pod, rev int64) *Worker {
	w := &Worker{
		deps: deps, uid: string(pod.UID), dirs: deps.Dirs.of(pod), pod: pod, rev: rev, spec: podstate.SpecOf(pod, deps.Backoff),
		log:  deps.Log.With().Str("component", "pod").Str("namespace", pod.Namespace).Str("name", pod.Name).Logger(),
		wake: make(chan struct{}, 1), pumps: map[string]*logfile.Pump{}, busy: map[string]chan struct{}{},
		ends: map[string]bool{}, ooms: map[string]bool{}, inputs: map[string]*os.File{}, images: map[int]image.Image{}, stopSignals: map[int]string{}, probes: map[int]context.CancelFunc{},
	}
	w.infra.ready = make(chan struct{})
	w.infra.volumes = volume.NewSet(w.dirs.volumes, deps.Objects.For(pod.UID))
	w.status.last = pod.Status
	w.status.born = time.Now()
	return w
}

// View returns the pod as it is now.
func (w *Worker) View() *View { return w.view.Load() }

// Update tells that the API object changed.
func (w *Worker) Update(pod *corev1.Pod, rev int64) { w.post(podChanged{pod, rev}) }

// Vanish tells that the API object no longer exists.
func (w *Worker) Vanish(rev int64) { w.post(podGone{rev}) }

// Refresh tells that an object the pod uses changed.
func (w *Worker) Refresh() { w.post(objectsMoved{}) }

// post adds to the inbox and wakes Run.
func (w *Worker) post(in any) {
	w.mu.Lock()
	w.inbox = append(w.inbox, in)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // it is awake already
	}
}

func (w *Worker) take() []any {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := w.inbox
	w.inbox = nil
	return in
}

// spawn runs f in a goroutine that Run waits for.
func (w *Worker) spawn(f func()) { w.acts.Go(f) }

// Run drives the pod until nothing of it is left, or until ctx ends; then the
// pod goes on by itself and the next worker continues. found is what
// containerd knows of the pod's containers, by id.
func (w *Worker) Run(ctx context.Context, found map[string]engine.Found) {
	actx, cancel := context.WithCancel(ctx)
	defer w.acts.Wait()
	defer cancel()
	switch {
	case w.stopped:
		w.wanted(actx)
	case w.adopted:
		w.adopt(actx, found)
		w.wanted(actx)
	default:
		w.begin(actx)
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for w.state.State != podstate.Removed {
		w.flushStatus(actx)
		w.arm(timer)
		select {
		case <-w.wake:
			for _, in := range w.take() {
				w.handle(actx, in)
			}
		case <-timer.C:
			w.due(actx)
		case <-ctx.Done():
			return
		}
	}
	cancel()
	w.acts.Wait()
	w.erase()
}

// arm sets the timer to the next time anything is due.
func (w *Worker) arm(timer *time.Timer) {
	next := w.state.NextWake(w.spec)
	for _, t := range []time.Time{w.infra.refresh, w.status.due()} {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if next.IsZero() {
		timer.Stop()
		return
	}
	timer.Reset(max(0, time.Until(next)))
}

// due handles whatever the timer was set for.
func (w *Worker) due(ctx context.Context) {
	now := time.Now()
	if t := w.infra.refresh; !t.IsZero() && !now.Before(t) {
		w.infra.refresh = time.Time{}
		w.refreshVolumes(ctx)
	}
	if t := w.state.NextWake(w.spec); !t.IsZero() && !now.Before(t) {
		w.step(ctx, podstate.Tick{})
	}
}

// begin starts the life of a new pod.
func (w *Worker) begin(ctx context.Context) {
	if err := w.savePod(); err != nil {
		w.log.Error().Err(err).Msg("pod can not be saved")
	}
	w.step(ctx, podstate.Begin{})
	if reason, err := w.admit(); err != nil {
		w.step(ctx, podstate.Evicted{Reason: reason, Message: err.Error()})
	}
	w.wanted(ctx)
}

// wanted applies what the API object asks for.
func (w *Worker) wanted(ctx context.Context) {
	if w.pod.DeletionTimestamp != nil {
		grace := w.spec.Grace
		if g := w.pod.DeletionGracePeriodSeconds; g != nil {
			grace = time.Duration(*g) * time.Second
		}
		// The wish may be old: an agent that was away does not start the grace anew.
		// The API tells whole seconds only, so one is added.
		if left := time.Until(w.pod.DeletionTimestamp.Time) + time.Second; left < grace {
			grace = min(grace, max(left, time.Second))
		}
		w.step(ctx, podstate.DeleteAsked{Grace: grace})
	}
}

func (w *Worker) handle(ctx context.Context, in any) {
	switch in := in.(type) {
	case podstate.Event:
		w.step(ctx, in)
	case podChanged:
		w.changed(ctx, in)
	case podGone:
		w.rev = max(w.rev, in.rev)
		w.status.vanished = true
		grace := w.spec.Grace
		if g := w.pod.DeletionGracePeriodSeconds; g != nil {
			grace = time.Duration(*g) * time.Second
		}
		w.step(ctx, podstate.Vanished{Grace: grace})
	case objectsMoved:
		w.refreshVolumes(ctx)
		w.step(ctx, podstate.Retry{})
	case imageReady:
		w.images[in.c] = in.img
		w.stopSignals[in.c] = in.img.Config.StopSignal
		w.step(ctx, podstate.Pulled{C: in.c, ImageID: in.img.ID})
	case infraReady:
		w.prepared(ctx, in)
	case refreshed:
		w.refreshDone(ctx, in)
	case statusWritten:
		w.status.written(in)
		w.removeIfClean(ctx)
	default:
		panic("podwork: unknown input")
	}
}

// changed takes in a new version of the API object.
func (w *Worker) changed(ctx context.Context, in podChanged) {
	if in.rev < w.rev {
		return // told out of order
	}
	before := w.pod
	w.pod, w.rev = in.pod, in.rev
	w.spec = podstate.SpecOf(in.pod, w.deps.Backoff)
	w.status.seen(in.pod, in.rev)
	if before.Generation != in.pod.Generation || !sameMeta(before, in.pod) {
		if err := w.savePod(); err != nil {
			w.log.Error().Err(err).Msg("pod can not be saved")
		}
		w.step(ctx, podstate.Changed{})
		w.refreshVolumes(ctx)
	}
	w.wanted(ctx)
	w.publish()
}

// step lets the machine decide, saves what it decided, then acts.
func (w *Worker) step(ctx context.Context, ev podstate.Event) {
	before := w.state.State
	next, todo := podstate.Step(w.state, w.spec, ev, time.Now())
	w.state = next
	if next.State != before {
		w.log.Info().Str("from", string(before)).Str("to", string(next.State)).Msg("pod moved")
	}
	if err := w.saveState(); err != nil {
		// The disk is full or gone. Acting is still better than leaving the pod
		// alone: containerd's labels let the next agent find what was made.
		w.log.Error().Err(err).Msg("pod state can not be saved")
	}
	w.publish() // before acting: who is told of an attempt must find it here
	for _, a := range todo {
		w.act(ctx, a)
	}
}

// publish makes the snapshot for readers and notes the status to write.
func (w *Worker) publish() {
	pod := *w.pod
	if !w.stopped {
		w.status.want = podstatus.Build(w.pod, podstatus.Facts{
			State: w.state, Spec: w.spec, HostIPs: w.deps.Node().IPs, Shown: w.status.want.Conditions,
		}, time.Now())
		pod.Status = w.status.want
	}
	v := &View{Pod: &pod, State: w.state.State, NetNS: w.infra.netns, IPs: w.state.IPs}
	for _, c := range w.state.Containers {
		cv := ContainerView{Name: c.Name, ID: c.ID, State: c.State, Restarts: c.Restarts, StartedAt: c.StartedAt}
		newest := c.Restarts
		if c.Restarts > 0 && !c.State.Alive() && c.Exit == nil {
			newest-- // the next attempt has not begun
		}
		cv.Log = w.dirs.log(c.Name, newest)
		if newest > 0 {
			cv.Previous = w.dirs.log(c.Name, newest-1)
		}
		v.Containers = append(v.Containers, cv)
	}
	w.view.Store(v)
}

// containerOf returns the API's view of container i.
func containerOf(v *View, i int) *corev1.Container {
	if n := len(v.Pod.Spec.InitContainers); i >= n {
		return &v.Pod.Spec.Containers[i-n]
	}
	return &v.Pod.Spec.InitContainers[i]
}

// Pump returns the running output of a container, or nil.
func (w *Worker) Pump(id string) *logfile.Pump {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pumps[id]
}
