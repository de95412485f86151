package podstate

import (
	"fmt"
	"time"
)

// minStop is the least time a container has between SIGTERM and SIGKILL when
// its hook, or the containers that had to end before it, used up the grace.
const minStop = 2 * time.Second

// pullReasonShown is how long a failed pull shows its own reason before it
// shows as ImagePullBackOff.
const pullReasonShown = 2 * time.Second

// prepareRetry bounds the wait between tries to prepare or release.
var prepareRetry = Backoff{First: time.Second, Max: time.Minute}

// turn is one call of Step.
type turn struct {
	p    *Pod
	spec Spec
	now  time.Time
	todo []Action
}

// Step returns what becomes of the pod by the event, and what is to be done.
// An event that comes too late, or of an earlier attempt, changes nothing.
func Step(p Pod, spec Spec, ev Event, now time.Time) (Pod, []Action) {
	next := p.clone()
	t := &turn{p: &next, spec: spec, now: now}
	t.dispatch(ev)
	t.advance()
	return next, t.todo
}

func (t *turn) dispatch(ev Event) {
	switch ev := ev.(type) {
	case Begin:
		t.do(Prepare{})
	case Prepared:
		t.prepared(ev)
	case PrepareFailed:
		t.prepareFailed(ev)
	case Pulled:
		t.pulled(ev)
	case PullFailed:
		t.pullFailed(ev)
	case Started:
		t.started(ev)
	case StartFailed:
		t.startFailed(ev)
	case PostStartDone:
		t.postStartDone(ev)
	case PreStopDone:
		t.preStopDone(ev)
	case Exited:
		t.exited(ev)
	case Probed:
		t.probed(ev)
	case DeleteAsked:
		t.deleteAsked(ev.Grace)
	case Vanished:
		t.vanished(ev.Grace)
	case Evicted:
		t.stop(Stop{Reason: ev.Reason, Message: ev.Message, Failed: true}, ev.Grace)
	case ReleasedAll:
		t.releasedAll()
	case ReleaseFailed:
		t.retryPod(Releasing, "", ev.Message)
	case RemovedObject:
		t.removedObject()
	case RemoveFailed:
		t.retryPod(Removing, "", ev.Message)
	case Adopted:
		t.adopted(ev)
	case Changed:
		t.changed()
	case Retry:
		t.retry()
	case Tick:
		t.tick()
	default:
		panic(fmt.Sprintf("podstate: unknown event %T", ev))
	}
}

func (t *turn) do(a Action) { t.todo = append(t.todo, a) }

func (t *turn) announce(c int, warning bool, reason, format string, args ...any) {
	t.do(Announce{C: c, Warning: warning, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// movePod is the only place that assigns a pod's state.
func (t *turn) movePod(s State) {
	t.p.State = s
	t.p.Reason, t.p.Message = "", ""
	t.p.RetryAt = time.Time{}
	t.p.Backoff = 0
}

// move is the only place that assigns a container's state.
func (t *turn) move(c *Container, s ContainerState) {
	c.State = s
	c.Reason, c.Message = "", ""
	c.RetryAt, c.KillAt = time.Time{}, time.Time{}
	if s != Running {
		c.Ready = false
	}
	if s != Running && s != PreStop && s != Terminating {
		c.Started = false
	}
}

// current returns the container an event is about, or nil when the event is of
// an earlier attempt.
func (t *turn) current(i int, id string) *Container {
	if i < 0 || i >= len(t.p.Containers) || t.p.Containers[i].ID != id {
		return nil
	}
	return &t.p.Containers[i]
}

func (t *turn) prepared(ev Prepared) {
	t.p.IPs = ev.IPs
	switch t.p.State {
	case Preparing:
		t.movePod(Active)
	default: // adopted pods prepare again in any state; a stopping pod releases it later
		t.p.Reason, t.p.Message = "", ""
	}
}

func (t *turn) prepareFailed(ev PrepareFailed) {
	switch t.p.State {
	case Preparing, Active:
		fresh := t.p.Reason != ev.Reason || t.p.Message != ev.Message
		t.p.Reason, t.p.Message = ev.Reason, ev.Message
		t.p.Backoff = prepareRetry.next(t.p.Backoff)
		t.p.RetryAt = t.now.Add(t.p.Backoff)
		if fresh {
			t.announce(-1, true, ev.Reason, "%s", ev.Message)
		}
	default: // the pod is being ended: what exists of it is released, nothing is tried again
	}
}

func (t *turn) retryPod(in State, reason, message string) {
	if t.p.State != in {
		return
	}
	t.p.Reason, t.p.Message = reason, message
	t.p.Backoff = prepareRetry.next(t.p.Backoff)
	t.p.RetryAt = t.now.Add(t.p.Backoff)
}

func (t *turn) pulled(ev Pulled) {
	c := &t.p.Containers[ev.C]
	switch c.State {
	case Pulling:
		c.ImageID = ev.ImageID
		t.move(c, Queued)
	default: // the pod was ended meanwhile
	}
}

func (t *turn) pullFailed(ev PullFailed) {
	c := &t.p.Containers[ev.C]
	switch c.State {
	case Pulling:
		t.move(c, PullBackoff)
		c.Reason, c.Message = ev.Reason, ev.Message
		c.Patience = t.spec.Backoff.next(c.Patience)
		c.RetryAt = t.now.Add(min(pullReasonShown, c.Patience))
		t.announce(ev.C, true, "Failed", "Failed to pull image %q: %s", c.Image, ev.Message)
		t.announce(ev.C, true, "Failed", "Error: %s", ev.Reason)
	default: // the pod was ended meanwhile
	}
}

func (t *turn) started(ev Started) {
	c := t.current(ev.C, ev.ID)
	if c == nil || c.State != Starting {
		return // the process ended before the news of its start came
	}
	c.Patience = 0
	spec := t.spec.Containers[ev.C]
	t.announce(ev.C, false, "Started", "Container started")
	if t.p.State == Stopping {
		t.move(c, Running)
		c.StartedAt = ev.At
		t.end(ev.C, t.left())
		return
	}
	if spec.PostStart {
		t.move(c, Greeting)
		c.StartedAt = ev.At
		t.do(RunPostStart{C: ev.C, ID: c.ID})
		return
	}
	t.runs(ev.C, ev.At)
}

// runs makes a container Running and starts the probes it begins with.
func (t *turn) runs(i int, at time.Time) {
	c, spec := &t.p.Containers[i], t.spec.Containers[i]
	t.move(c, Running)
	c.StartedAt = at
	if spec.Startup {
		t.do(StartProbe{C: i, ID: c.ID, Kind: Startup})
		return
	}
	t.startedUp(i)
}

// startedUp follows a startup probe's success, or a start without one.
func (t *turn) startedUp(i int) {
	c, spec := &t.p.Containers[i], t.spec.Containers[i]
	c.Started, c.Passed = true, true
	c.Ready = !spec.Readiness
	if spec.Liveness {
		t.do(StartProbe{C: i, ID: c.ID, Kind: Liveness})
	}
	if spec.Readiness {
		t.do(StartProbe{C: i, ID: c.ID, Kind: Readiness})
	}
}

func (t *turn) startFailed(ev StartFailed) {
	c := t.current(ev.C, ev.ID)
	if c == nil || c.State != Starting {
		return
	}
	t.announce(ev.C, true, "Failed", "Error: %s", ev.Message)
	switch {
	case t.p.State == Stopping:
		t.move(c, Done)
		t.do(Forget{C: ev.C, ID: c.ID})
	case ev.Ran:
		t.ended(ev.C, Exit{ID: c.ID, Code: 128, Reason: ev.Reason, Message: ev.Message, StartedAt: ev.At, FinishedAt: ev.At})
	default:
		t.move(c, StartBackoff)
		c.Reason, c.Message = ev.Reason, ev.Message
		c.Patience = t.spec.Backoff.next(c.Patience)
		c.RetryAt = t.now.Add(c.Patience)
	}
}

func (t *turn) postStartDone(ev PostStartDone) {
	c := t.current(ev.C, ev.ID)
	if c == nil || c.State != Greeting {
		return
	}
	if ev.Err == "" {
		t.runs(ev.C, c.StartedAt)
		return
	}
	t.announce(ev.C, true, "FailedPostStartHook", "PostStartHook failed: %s", ev.Err)
	c.Restart = restartHook
	t.end(ev.C, t.spec.Grace)
}

func (t *turn) preStopDone(ev PreStopDone) {
	c := t.current(ev.C, ev.ID)
	if c == nil || c.State != PreStop {
		return
	}
	if ev.Err != "" {
		t.announce(ev.C, true, "FailedPreStopHook", "PreStopHook failed: %s", ev.Err)
	}
	t.terminate(ev.C, c.KillAt)
}

func (t *turn) probed(ev Probed) {
	c := t.current(ev.C, ev.ID)
	if c == nil || c.State != Running {
		return
	}
	spec := t.spec.Containers[ev.C]
	if !ev.Healthy {
		t.announce(ev.C, true, "Unhealthy", "%s probe failed: %s", title(ev.Kind), ev.Message)
	}
	switch ev.Kind {
	case Startup:
		if ev.Healthy && !c.Started {
			t.startedUp(ev.C)
		}
		if !ev.Healthy {
			t.unhealthy(ev.C, ev.Kind, spec.StartupStop)
		}
	case Liveness:
		if !ev.Healthy {
			t.unhealthy(ev.C, ev.Kind, spec.LivenessStop)
		}
	case Readiness:
		c.Ready = ev.Healthy && c.Started
	default:
		panic("podstate: unknown probe " + string(ev.Kind))
	}
}

func title(k ProbeKind) string {
	switch k {
	case Startup:
		return "Startup"
	case Liveness:
		return "Liveness"
	default: // there are three
		return "Readiness"
	}
}

func (t *turn) unhealthy(i int, kind ProbeKind, grace time.Duration) {
	c := &t.p.Containers[i]
	c.Restart = restartUnhealthy
	t.announce(i, false, "Killing", "Container %s failed %s probe, will be restarted", c.Name, kind)
	t.end(i, grace)
}

func (t *turn) changed() {
	if t.p.State != Active && t.p.State != Preparing {
		return // a pod that is being ended ends as it was
	}
	for i := range t.p.Containers {
		c, spec := &t.p.Containers[i], t.spec.Containers[i]
		if c.Image == spec.Image {
			continue
		}
		switch c.State {
		case Greeting, Running:
			c.Restart = restartChanged
			t.announce(i, false, "Killing", "Container %s definition changed, will be restarted", c.Name)
			t.end(i, t.spec.Grace)
		case PullBackoff, StartBackoff, Crashed, Queued, Pulling:
			t.move(c, Waiting)
			c.Backoff, c.Patience = 0, 0
		default: // the next attempt uses the new image anyway
		}
	}
}

func (t *turn) retry() {
	for i := range t.p.Containers {
		c := &t.p.Containers[i]
		if c.State == StartBackoff {
			c.RetryAt = t.now
		}
	}
	if t.p.State == Preparing && !t.p.RetryAt.IsZero() {
		t.p.RetryAt = t.now
	}
	t.tick()
}

func (t *turn) tick() {
	for i := range t.p.Containers {
		t.tickContainer(i)
	}
	due := !t.p.RetryAt.IsZero() && !t.now.Before(t.p.RetryAt)
	if due {
		t.p.RetryAt = time.Time{}
	}
	switch t.p.State {
	case Preparing:
		if due {
			t.do(Prepare{})
		}
		t.checkDeadline()
	case Active:
		if due {
			t.do(Prepare{})
		}
		t.checkDeadline()
	case Releasing:
		if due {
			t.do(Release{})
		}
	case Removing:
		if due {
			t.do(Remove{})
		}
	default: // the other states are not timed
	}
}

func (t *turn) checkDeadline() {
	if d := t.spec.Deadline; d > 0 && !t.now.Before(t.p.StartTime.Add(d)) {
		t.announce(-1, false, "DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
		t.stop(Stop{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline", Failed: true}, t.spec.Grace)
	}
}

func (t *turn) tickContainer(i int) {
	c := &t.p.Containers[i]
	switch c.State {
	case PullBackoff:
		t.tickPull(i)
	case StartBackoff, Crashed:
		if !t.now.Before(c.RetryAt) {
			again(t, i)
		}
	case PreStop:
		if !t.now.Before(c.KillAt) {
			t.terminate(i, t.now.Add(minStop))
		}
	case Terminating:
		if !t.now.Before(c.KillAt) {
			t.kill(i)
		}
	default: // not timed
	}
}

// tickPull shows the back-off after the reason was shown, then pulls again.
func (t *turn) tickPull(i int) {
	c := &t.p.Containers[i]
	if t.now.Before(c.RetryAt) {
		return
	}
	if c.Reason != reasonPullBackoff && c.Patience > pullReasonShown {
		message := fmt.Sprintf("Back-off pulling image %q: %s: %s", c.Image, c.Reason, c.Message)
		c.Reason, c.Message = reasonPullBackoff, message
		c.RetryAt = t.now.Add(c.Patience - pullReasonShown)
		t.announce(i, false, "BackOff", "Back-off pulling image %q", c.Image)
		return
	}
	again(t, i)
}

const reasonPullBackoff = "ImagePullBackOff"

// again puts a container back to the start of its way, keeping its back-off.
func again(t *turn, i int) {
	c := &t.p.Containers[i]
	crashed := c.State == Crashed
	t.move(c, Waiting)
	if crashed {
		c.Restarts++
		c.Last, c.Exit = c.Exit, nil
	}
}
