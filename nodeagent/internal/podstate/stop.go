package podstate

import "time"

func (t *turn) deleteAsked(grace time.Duration) {
	switch t.p.Wanted {
	case Present:
		t.p.Wanted = Deleted
	default: // asked again, perhaps with less grace
	}
	t.goAway(grace)
}

func (t *turn) vanished(grace time.Duration) {
	t.p.Wanted = Gone
	if t.p.State == Removing {
		t.movePod(Removed)
		return
	}
	t.goAway(grace)
}

func (t *turn) goAway(grace time.Duration) {
	switch t.p.State {
	case Preparing, Active, Stopping:
		t.stop(Stop{}, grace)
	case Released:
		t.afterRelease()
	default: // already on its way
	}
}

// stop ends all containers by the deadline; asked again, it can only shorten it.
func (t *turn) stop(why Stop, grace time.Duration) {
	why.Deadline = t.now.Add(grace)
	switch t.p.State {
	case Preparing, Active:
		t.movePod(Stopping)
		t.p.Stop = &why
		t.endAll()
	case Stopping:
		if why.Deadline.Before(t.p.Stop.Deadline) {
			t.p.Stop.Deadline = why.Deadline
			t.hurry()
		}
	default: // nothing is left to end
	}
}

// left is how much of the pod's grace remains.
func (t *turn) left() time.Duration {
	if t.p.Stop == nil {
		return t.spec.Grace
	}
	return max(0, t.p.Stop.Deadline.Sub(t.now))
}

func (t *turn) hurry() {
	for i := range t.p.Containers {
		c := &t.p.Containers[i]
		switch c.State {
		case PreStop, Terminating:
			if t.p.Stop.Deadline.Before(c.KillAt) {
				c.KillAt = t.p.Stop.Deadline
			}
			t.tickContainer(i)
		default: // not running, or killed already
		}
	}
}

// endAll ends every container but sidecars that run: those go last, see endSidecars.
func (t *turn) endAll() {
	for i := range t.p.Containers {
		c := &t.p.Containers[i]
		if t.spec.Containers[i].Role == Sidecar && c.State.Alive() {
			continue
		}
		t.announceKilling(i)
		t.end(i, t.left())
	}
}

func (t *turn) announceKilling(i int) {
	switch t.p.Containers[i].State {
	case Greeting, Running:
		t.announce(i, false, "Killing", "Stopping container %s", t.p.Containers[i].Name)
	default: // there is nothing to stop
	}
}

// end brings one container to its end: hook, signal, force.
func (t *turn) end(i int, grace time.Duration) {
	c := &t.p.Containers[i]
	switch c.State {
	case Greeting, Running:
		t.do(StopProbes{C: i})
		switch {
		case grace <= 0:
			t.kill(i)
		case t.spec.Containers[i].PreStop:
			restart := c.Restart
			t.move(c, PreStop)
			c.Restart, c.KillAt = restart, t.now.Add(grace)
			t.do(RunPreStop{C: i, ID: c.ID, Timeout: grace})
		default:
			t.terminate(i, t.now.Add(grace))
		}
	case Waiting, Pulling, PullBackoff, Queued, StartBackoff, Crashed:
		t.move(c, Done)
	default: // Starting ends when its start is known; the others are ending or ended
	}
}

func (t *turn) terminate(i int, killAt time.Time) {
	c := &t.p.Containers[i]
	if least := t.now.Add(minStop); killAt.Before(least) {
		killAt = least
	}
	t.move(c, Terminating)
	c.KillAt = killAt
	t.do(Signal{C: i, ID: c.ID})
}

func (t *turn) kill(i int) {
	c := &t.p.Containers[i]
	t.move(c, Killed)
	t.do(Signal{C: i, ID: c.ID, Force: true})
}

func (t *turn) exited(ev Exited) {
	c := t.current(ev.C, ev.Exit.ID)
	if c == nil || !c.State.Alive() {
		return // told before
	}
	t.ended(ev.C, ev.Exit)
}

// ended accounts for the end of an attempt and decides whether another follows.
func (t *turn) ended(i int, exit Exit) {
	c, spec := &t.p.Containers[i], t.spec.Containers[i]
	why := c.Restart
	c.Patience = 0
	if exit.StartedAt.IsZero() {
		exit.StartedAt = c.StartedAt
	}
	t.do(StopProbes{C: i})
	t.do(Forget{C: i, ID: exit.ID})
	if healthy := 2 * t.spec.Backoff.Max; exit.FinishedAt.Sub(exit.StartedAt) > healthy {
		c.Backoff = 0
	}
	restarts := why == restartChanged || spec.restarts(exit.Code)
	if t.p.State != Active && t.p.State != Preparing || !restarts {
		t.move(c, Done)
		c.Exit, c.Restart = &exit, ""
		return
	}
	backoff := c.Backoff
	t.move(c, Crashed)
	c.Exit, c.Restart = &exit, ""
	if backoff == 0 { // the first restart comes at once
		c.Backoff = t.spec.Backoff.First
		c.RetryAt = t.now
		again(t, i)
		return
	}
	c.RetryAt = t.now.Add(backoff)
	c.Backoff = t.spec.Backoff.next(backoff)
	c.Reason = "CrashLoopBackOff"
	c.Message = "back-off " + backoff.String() + " restarting failed container=" + c.Name
	t.announce(i, true, "BackOff", "Back-off restarting failed container %s", c.Name)
}

func (t *turn) releasedAll() {
	if t.p.State != Releasing {
		return
	}
	t.movePod(Released)
	t.afterRelease()
}

func (t *turn) afterRelease() {
	switch t.p.Wanted {
	case Present:
	case Deleted:
		t.movePod(Removing)
		t.do(Remove{})
	case Gone:
		t.movePod(Removed)
	default:
		panic("podstate: unknown wish " + string(t.p.Wanted))
	}
}

func (t *turn) removedObject() {
	if t.p.State == Removing {
		t.p.Wanted = Gone
		t.movePod(Removed)
	}
}
