package podwork

import (
	"context"
	"io"
	"os"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/engine"
	"github.com/rutter-project/rutter/nodeagent/internal/logfile"
	"github.com/rutter-project/rutter/nodeagent/internal/podstate"
)

// Limits of a termination message.
const (
	maxTermination      = 4096
	maxTerminationLog   = 2048
	maxTerminationLines = 80
)

// drainTimeout is how long the end of an attempt waits for its last output.
const drainTimeout = 10 * time.Second

// Exited tells that the process of an attempt ended. It may be told again.
func (w *Worker) Exited(ctx context.Context, id string, code int32, at time.Time) {
	w.mu.Lock()
	told := w.ends[id]
	w.ends[id] = true
	started := w.busy[id]
	w.mu.Unlock()
	if told {
		return
	}
	v := w.View()
	i := indexOf(v, id)
	if i < 0 {
		return
	}
	w.spawn(func() {
		if started != nil {
			select {
			case <-started:
			case <-ctx.Done():
				return
			}
		}
		exit, ok := w.takeExit(ctx, v.Pod, v.Containers[i], podstate.Exit{ID: id, Code: code, FinishedAt: at})
		if ok {
			w.post(podstate.Exited{C: i, Exit: exit})
		}
	})
}

func indexOf(v *View, id string) int {
	for i, c := range v.Containers {
		if c.ID == id {
			return i
		}
	}
	return -1
}

// OutOfMemory tells that the kernel killed a process of an attempt.
func (w *Worker) OutOfMemory(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ooms[id] = true
}

// takeExit collects the last output of an attempt and why it ended. ok is
// false when the agent is ending: the next one will do it.
func (w *Worker) takeExit(ctx context.Context, pod *corev1.Pod, c ContainerView, exit podstate.Exit) (podstate.Exit, bool) {
	w.closeInput(exit.ID)
	rctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	// Reaping waits until the shim has written all output.
	if err := w.deps.Engine.Reap(rctx, exit.ID); err != nil && ctx.Err() == nil {
		w.log.Warn().Err(err).Msg("ended container not reaped")
	}
	if p := w.Pump(exit.ID); p != nil {
		p.Finish()
		select {
		case <-p.Done():
		case <-rctx.Done():
		}
	}
	if ctx.Err() != nil {
		return exit, false
	}
	w.mu.Lock()
	oom := w.ooms[exit.ID]
	delete(w.ooms, exit.ID)
	w.mu.Unlock()
	if exit.StartedAt.IsZero() {
		exit.StartedAt = c.StartedAt
	}
	switch {
	case oom:
		exit.Reason = "OOMKilled"
	case exit.Code == 0:
		exit.Reason = "Completed"
	default:
		exit.Reason = "Error"
	}
	exit.Message = w.terminationMessage(ctx, pod, c.Name, c.Restarts, exit.Code)
	return exit, true
}

func (w *Worker) terminationMessage(ctx context.Context, pod *corev1.Pod, name string, attempt int, code int32) string {
	policy := corev1.TerminationMessageReadFile
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				policy = list[i].TerminationMessagePolicy
			}
		}
	}
	if f, err := os.Open(w.dirs.termination(name, attempt)); err == nil {
		data, err := io.ReadAll(io.LimitReader(f, maxTermination))
		_ = f.Close()
		if err == nil && len(data) > 0 {
			return string(data)
		}
	}
	if policy != corev1.TerminationMessageFallbackToLogsOnError || code == 0 {
		return ""
	}
	text, err := logfile.TailBytes(ctx, w.dirs.log(name, attempt), maxTerminationLines, maxTerminationLog)
	if err != nil {
		return ""
	}
	return text
}

// adopt compares the saved state with what containerd has, after a restart of
// the agent.
func (w *Worker) adopt(ctx context.Context, found map[string]engine.Found) {
	ev := podstate.Adopted{Running: map[string]time.Time{}, Exited: map[string]podstate.Exit{}}
	v := w.View()
	alive := false
	for i := range w.state.Containers {
		c := &w.state.Containers[i]
		if !c.State.Alive() {
			continue
		}
		f, ok := found[c.ID]
		w.stopSignals[i] = f.Labels[labelStopSignal]
		w.resumeOutput(ctx, i, f)
		switch {
		case ok && f.Running:
			alive = true
			at := c.StartedAt
			if at.IsZero() {
				at = f.CreatedAt
			}
			ev.Running[c.ID] = at
		case ok && f.Exited:
			exit, _ := w.takeExit(ctx, w.pod, v.Containers[i], podstate.Exit{ID: c.ID, Code: f.Code, FinishedAt: f.At})
			ev.Exited[c.ID] = exit
		}
	}
	ev.Lost = !alive && w.lostNamespaces()
	w.step(ctx, ev)
}

// lostNamespaces reports whether what the pod's containers shared is gone.
func (w *Worker) lostNamespaces() bool {
	_, err := os.Stat(w.dirs.run)
	return os.IsNotExist(err)
}

// resumeOutput goes on moving output into the log where an earlier agent left
// off. A start that has to be made again brings its own pump.
func (w *Worker) resumeOutput(ctx context.Context, i int, f engine.Found) {
	c := &w.state.Containers[i]
	if c.State == podstate.Starting && !f.Running && !f.Exited {
		return
	}
	files := w.dirs.attempt(c.Name, c.Restarts, w.container(i).TTY)
	if _, err := os.Stat(files.Stdout); err != nil {
		return // complete, or never begun
	}
	p := w.pump(ctx, c.ID, files)
	if !f.Running {
		p.Finish()
	}
}

// Resynced tells what containerd has after its connection was made anew. Exits
// that happened in between are taken in.
func (w *Worker) Resynced(ctx context.Context, found map[string]engine.Found) {
	for _, c := range w.View().Containers {
		f, ok := found[c.ID]
		switch c.State {
		case podstate.Greeting, podstate.Running, podstate.PreStop, podstate.Terminating, podstate.Killed:
			if ok && f.Running {
				continue
			}
			if !ok || !f.Exited {
				f.Code, f.At = 255, time.Now() // its process was lost with containerd's memory
			}
			w.Exited(ctx, c.ID, f.Code, f.At)
		default: // a start under way has its own answer
			if ok && f.Exited && c.State == podstate.Starting {
				w.Exited(ctx, c.ID, f.Code, f.At)
			}
		}
	}
}

// Attempt reads which attempt of a container a label names.
func Attempt(labels map[string]string) int {
	n, err := strconv.Atoi(labels[engine.LabelAttempt])
	if err != nil {
		return 0
	}
	return n
}
