package podwork

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/signal"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/engine"
	"github.com/rutter-project/rutter/nodeagent/internal/env"
	"github.com/rutter-project/rutter/nodeagent/internal/image"
	"github.com/rutter-project/rutter/nodeagent/internal/netns"
	"github.com/rutter-project/rutter/nodeagent/internal/podstate"
	"github.com/rutter-project/rutter/nodeagent/internal/probe"
)

// act performs one action. What takes time goes on in the background.
func (w *Worker) act(ctx context.Context, a podstate.Action) {
	switch a := a.(type) {
	case podstate.Prepare:
		w.prepare(ctx)
	case podstate.Pull:
		w.pull(ctx, a.C)
	case podstate.Start:
		w.start(ctx, a.C, a.ID)
	case podstate.RunPostStart:
		w.hook(ctx, a.C, a.ID, w.container(a.C).Lifecycle.PostStart, 0, func(err string) podstate.Event {
			return podstate.PostStartDone{C: a.C, ID: a.ID, Err: err}
		})
	case podstate.RunPreStop:
		w.hook(ctx, a.C, a.ID, w.container(a.C).Lifecycle.PreStop, a.Timeout, func(err string) podstate.Event {
			return podstate.PreStopDone{C: a.C, ID: a.ID, Err: err}
		})
	case podstate.Signal:
		w.signal(ctx, a)
	case podstate.Forget:
		w.forget(ctx, a)
	case podstate.StartProbe:
		w.startProbe(ctx, a)
	case podstate.StopProbes:
		if cancel := w.probes[a.C]; cancel != nil {
			cancel()
			delete(w.probes, a.C)
		}
	case podstate.Release:
		w.release(ctx)
	case podstate.Remove:
		w.status.remove = true
		w.publish() // the last status, to be written before
		w.flushStatus(ctx)
		w.removeIfClean(ctx)
	case podstate.Announce:
		name := ""
		if a.C >= 0 {
			name = w.spec.Containers[a.C].Name
		}
		w.deps.Announce(w.pod, name, a)
	default:
		panic(fmt.Sprintf("podwork: unknown action %T", a))
	}
}

// container returns the API's view of container i.
func (w *Worker) container(i int) *corev1.Container {
	if n := len(w.pod.Spec.InitContainers); i >= n {
		return &w.pod.Spec.Containers[i-n]
	}
	return &w.pod.Spec.InitContainers[i]
}

func (w *Worker) pull(ctx context.Context, i int) {
	pod, c, deps := w.pod, w.container(i), w.deps
	policy := c.ImagePullPolicy
	if policy == "" {
		policy = image.DefaultPolicy(c.Image)
	}
	announce := func(reason, format string, args ...any) {
		deps.Announce(pod, c.Name, podstate.Announce{C: i, Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
	w.spawn(func() {
		keys := w.keyring(ctx, pod)
		if policy == corev1.PullAlways {
			announce("Pulling", "Pulling image %q", c.Image)
		}
		out, err := deps.Images.Ensure(ctx, image.Request{Ref: c.Image, Policy: policy, Keys: keys})
		var failed *image.Error
		switch {
		case err == nil && out.Pulled:
			announce("Pulled", "Successfully pulled image %q in %s", c.Image, out.Took.Round(time.Millisecond))
		case err == nil:
			announce("Pulled", "Container image %q already present on machine", c.Image)
		case ctx.Err() != nil:
			return
		case errors.As(err, &failed):
			w.post(podstate.PullFailed{C: i, Reason: failed.Reason, Message: failed.Error()})
			return
		default:
			w.post(podstate.PullFailed{C: i, Reason: image.ReasonPull, Message: err.Error()})
			return
		}
		w.post(imageReady{i, out.Image})
	})
}

// keyring collects the pod's pull secrets. One that is missing or broken is
// told and passed over: the image may be public.
func (w *Worker) keyring(ctx context.Context, pod *corev1.Pod) image.Keyring {
	var keys image.Keyring
	for _, ref := range pod.Spec.ImagePullSecrets {
		secret, ok, err := w.deps.Objects.For(pod.UID).Secret(ctx, pod.Namespace, ref.Name)
		if err == nil && !ok {
			err = fmt.Errorf("secret %q %w", ref.Name, env.ErrMissing)
		}
		var more image.Keyring
		if err == nil {
			more, err = image.ParseSecret(secret)
		}
		if err != nil {
			w.deps.Announce(pod, "", podstate.Announce{C: -1, Warning: true, Reason: "FailedToRetrieveImagePullSecret",
				Message: fmt.Sprintf("Unable to retrieve image pull secret %s: %v", ref.Name, err)})
			continue
		}
		keys = append(keys, more...)
	}
	return keys
}

// signal asks a container to end. It is repeated until containerd takes it.
func (w *Worker) signal(ctx context.Context, a podstate.Signal) {
	sig := syscall.SIGKILL
	if !a.Force {
		sig = w.stopSignal(a.C)
	}
	w.spawn(func() {
		w.persist(ctx, "container not signalled", func() error { return w.deps.Engine.Signal(ctx, a.ID, sig) })
	})
}

// persist tries until it succeeds or ctx ends; failed says in the log what went wrong.
func (w *Worker) persist(ctx context.Context, failed string, try func() error) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := try()
		if err == nil || ctx.Err() != nil {
			return
		}
		w.log.Warn().Err(err).Msg(failed + ", trying again")
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (w *Worker) stopSignal(i int) syscall.Signal {
	name := w.stopSignals[i]
	if l := w.container(i).Lifecycle; l != nil && l.StopSignal != nil {
		name = string(*l.StopSignal)
	}
	if sig, err := signal.ParseSignal(name); err == nil {
		return sig
	}
	return syscall.SIGTERM
}

// forget removes what is left of an attempt that ended, and the logs that are
// older than the one before it.
func (w *Worker) forget(ctx context.Context, a podstate.Forget) {
	name, newest := w.spec.Containers[a.C].Name, w.state.Containers[a.C].Restarts
	w.spawn(func() {
		w.persist(ctx, "ended container not removed", func() error { return w.deps.Engine.Remove(ctx, a.ID) })
		w.mu.Lock()
		delete(w.busy, a.ID)
		delete(w.ends, a.ID)
		w.mu.Unlock()
		for n := newest - 2; n >= 0; n-- {
			old, _ := filepath.Glob(w.dirs.log(name, n) + "*")
			if len(old) == 0 {
				break // older ones are gone already
			}
			for _, path := range old {
				_ = os.Remove(path)
			}
			_ = os.Remove(w.dirs.termination(name, n))
		}
	})
}

// target is how probes and hooks reach container i.
func (w *Worker) target(i int, id string) probe.Target {
	t := probe.Target{Ports: w.container(i).Ports}
	if len(w.state.IPs) > 0 {
		t.IP = w.state.IPs[0]
	}
	ns := w.infra.netns
	t.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return netns.Dial(ctx, ns, network, address)
	}
	t.Exec = func(ctx context.Context, args []string, out io.Writer) (uint32, error) {
		return w.deps.Engine.Exec(ctx, id, engine.ExecSpec{Args: args, Stdout: out, Stderr: out, FIFODir: w.dirs.run})
	}
	return t
}

func (w *Worker) hook(ctx context.Context, i int, id string, h *corev1.LifecycleHandler, limit time.Duration, done func(string) podstate.Event) {
	t := w.target(i, id)
	w.spawn(func() {
		hctx, cancel := ctx, context.CancelFunc(func() {})
		if limit > 0 {
			hctx, cancel = context.WithTimeout(ctx, limit)
		}
		defer cancel()
		message := ""
		if err := probe.Hook(hctx, t, *h); err != nil {
			message = strings.TrimSpace(err.Error())
		}
		if ctx.Err() == nil { // the next agent decides otherwise
			w.post(done(message))
		}
	})
}

// startProbe begins one of a container's probes; they end together.
func (w *Worker) startProbe(ctx context.Context, a podstate.StartProbe) {
	c := w.container(a.C)
	spec, first := c.ReadinessProbe, probe.Unhealthy
	switch a.Kind {
	case podstate.Startup:
		spec, first = c.StartupProbe, probe.Unknown
	case podstate.Liveness:
		spec, first = c.LivenessProbe, probe.Healthy
	case podstate.Readiness:
		if w.state.Containers[a.C].Ready { // adopted
			first = probe.Healthy
		}
	}
	if spec == nil {
		return // the specification changed under us
	}
	ctx, cancel := context.WithCancel(ctx)
	if before := w.probes[a.C]; before != nil {
		own := cancel
		cancel = func() { before(); own() }
	}
	w.probes[a.C] = cancel
	t := w.target(a.C, a.ID)
	w.spawn(func() {
		probe.Run(ctx, spec, first, func(ctx context.Context) error { return probe.Check(ctx, t, spec.ProbeHandler) },
			func(v probe.Verdict, message string) {
				w.post(podstate.Probed{C: a.C, ID: a.ID, Kind: a.Kind, Healthy: v == probe.Healthy, Message: message})
			})
	})
}
