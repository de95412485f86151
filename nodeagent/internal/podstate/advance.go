package podstate

import "time"

// advance begins whatever may begin now, and ends a pod that has nothing left to do.
func (t *turn) advance() {
	switch t.p.State {
	case Preparing:
		t.beginInOrder()
	case Active:
		t.beginInOrder()
		t.finishIfDone()
	case Stopping:
		t.endSidecars()
		if !t.p.AnyAlive() {
			t.movePod(Releasing)
			t.do(Release{})
		}
	default: // no container is left
	}
}

// beginInOrder starts init containers one after the other, then the
// containers of the application. A sidecar holds up the rest until it started
// once; after that it only has to be kept alive.
func (t *turn) beginInOrder() {
	for i := range t.p.Containers {
		c := &t.p.Containers[i]
		switch t.spec.Containers[i].Role {
		case Init:
			if c.State == Done {
				if c.Exit == nil || c.Exit.Code != 0 {
					t.initFailed()
					return
				}
				continue
			}
			t.begin(i)
			return
		case Sidecar:
			t.begin(i)
			if !c.Passed {
				return
			}
		case App:
			t.beginApps(i)
			return
		}
	}
}

// beginApps pulls all images of the application at once and starts its
// containers in order: one starts when those before it run and were greeted,
// or failed.
func (t *turn) beginApps(first int) {
	blocked := false
	for i := first; i < len(t.p.Containers); i++ {
		c := &t.p.Containers[i]
		if c.State == Waiting || !blocked {
			t.begin(i)
		}
		switch c.State {
		case Waiting, Pulling, Queued, Starting, Greeting:
			blocked = true
		default: // it runs, or failed: the next need not wait
		}
	}
}

// begin takes a container the next step towards running.
func (t *turn) begin(i int) {
	c := &t.p.Containers[i]
	switch c.State {
	case Waiting:
		t.move(c, Pulling)
		c.Image = t.spec.Containers[i].Image
		t.do(Pull{C: i})
	case Queued:
		if t.p.State != Active {
			return // namespaces and volumes come first
		}
		t.move(c, Starting)
		c.ID = ContainerID(t.p.UID, c.Name, c.Restarts)
		t.do(Start{C: i, ID: c.ID})
	default: // on its way, running, waiting for its time, or done
	}
}

// initFailed ends a pod whose init container failed for good.
func (t *turn) initFailed() {
	if t.p.State == Active {
		t.stop(Stop{Failed: true}, t.spec.Grace)
		t.advance()
	}
}

// finishIfDone ends a pod all of whose application containers ended for good.
func (t *turn) finishIfDone() {
	apps := false
	for i := range t.p.Containers {
		if t.spec.Containers[i].Role != App {
			continue
		}
		apps = true
		if t.p.Containers[i].State != Done {
			return
		}
	}
	if apps && t.p.State == Active {
		t.stop(Stop{}, t.spec.Grace)
		t.advance()
	}
}

// endSidecars ends sidecars in reverse order, each when everything after it is gone.
func (t *turn) endSidecars() {
	for i := len(t.p.Containers) - 1; i >= 0; i-- {
		c := &t.p.Containers[i]
		if t.spec.Containers[i].Role == Sidecar {
			t.announceKilling(i)
			t.end(i, max(t.left(), minStop))
		}
		if c.State.Alive() {
			return
		}
	}
}

// adopted compares what was saved with what containerd knows. Everything that
// was under way is asked for again.
func (t *turn) adopted(ev Adopted) {
	for i := range t.p.Containers {
		t.adoptContainer(i, ev)
	}
	switch t.p.State {
	case Preparing, Active:
		if !t.p.AnyAlive() {
			t.movePod(Preparing)
		}
		if ev.Lost {
			t.rerunInit()
		}
		t.p.RetryAt = time.Time{}
		t.do(Prepare{})
	case Releasing:
		t.do(Release{})
	case Removing:
		t.do(Remove{})
	default: // Stopping goes on by its containers; Released waits for the API
	}
}

// rerunInit begins the pod anew: what its init containers left in the lost
// namespaces is gone. A pod whose application ended for good is left alone.
func (t *turn) rerunInit() {
	for i := range t.p.Containers {
		if t.spec.Containers[i].Role == App && t.p.Containers[i].State != Done {
			break
		}
		if i == len(t.p.Containers)-1 {
			return
		}
	}
	for i := range t.p.Containers {
		c := &t.p.Containers[i]
		switch t.spec.Containers[i].Role {
		case Sidecar:
			c.Passed = false
		case Init:
			if c.State == Done {
				t.move(c, Crashed)
				again(t, i)
			}
		case App: // restarted by its policy
		}
	}
}

func (t *turn) adoptContainer(i int, ev Adopted) {
	c := &t.p.Containers[i]
	startedAt, running := ev.Running[c.ID]
	exit, exited := ev.Exited[c.ID]
	switch c.State {
	case Pulling:
		t.do(Pull{C: i})
	case Starting:
		t.adoptStarting(i, running, exited, ev)
	case Greeting, Running, PreStop, Terminating, Killed:
		switch {
		case running:
			t.adoptRunning(i, startedAt)
		case exited:
			t.ended(i, exit)
		default:
			t.ended(i, Exit{ID: c.ID, Code: 137, Reason: "ContainerStatusUnknown",
				Message: "The container could not be located when the node agent started", StartedAt: c.StartedAt, FinishedAt: t.now})
		}
	default: // the others hold no process and go on by their timers
	}
}

func (t *turn) adoptStarting(i int, running, exited bool, ev Adopted) {
	c := &t.p.Containers[i]
	switch {
	case running:
		t.started(Started{C: i, ID: c.ID, At: ev.Running[c.ID]})
	case exited:
		t.ended(i, ev.Exited[c.ID])
	case t.p.State == Stopping:
		t.move(c, Done)
		t.do(Forget{C: i, ID: c.ID})
	default:
		t.do(Start{C: i, ID: c.ID})
	}
}

func (t *turn) adoptRunning(i int, at time.Time) {
	c, spec := &t.p.Containers[i], t.spec.Containers[i]
	if c.StartedAt.IsZero() {
		c.StartedAt = at
	}
	switch c.State {
	case Greeting: // a hook is run at most once by one agent; its end is not known
		t.runs(i, c.StartedAt)
	case Running:
		if !c.Started && spec.Startup {
			t.do(StartProbe{C: i, ID: c.ID, Kind: Startup})
			return
		}
		ready := c.Ready
		t.startedUp(i)
		c.Ready = ready // probes decide whether that is still so
	case PreStop:
		t.do(RunPreStop{C: i, ID: c.ID, Timeout: max(minStop, c.KillAt.Sub(t.now))})
	case Terminating:
		t.do(Signal{C: i, ID: c.ID})
	case Killed:
		t.do(Signal{C: i, ID: c.ID, Force: true})
	default:
		panic("podstate: not running: " + string(c.State))
	}
}
