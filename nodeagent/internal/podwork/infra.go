package podwork

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/engine"
	"github.com/rutter-project/rutter/nodeagent/internal/env"
	"github.com/rutter-project/rutter/nodeagent/internal/netns"
	"github.com/rutter-project/rutter/nodeagent/internal/podfile"
	"github.com/rutter-project/rutter/nodeagent/internal/podstate"
	"github.com/rutter-project/rutter/nodeagent/internal/runspec"
	"github.com/rutter-project/rutter/nodeagent/internal/volume"
)

const shmSize = 64 << 20

func (w *Worker) facts() env.Facts {
	node := w.deps.Node()
	f := env.Facts{HostIPs: node.IPs, PodIPs: w.state.IPs, Allocatable: node.Allocatable}
	if len(node.IPs) > 0 {
		f.HostIP = node.IPs[0]
	}
	return f
}

// prepare makes network, namespaces, volumes and files, side by side.
func (w *Worker) prepare(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	w.infra.cancel, w.infra.done = cancel, make(chan struct{})
	done, pod, facts, node := w.infra.done, w.pod, w.facts(), w.deps.Node()
	set := w.infra.volumes
	w.spawn(func() {
		defer close(done)
		defer cancel()
		out := infraReady{ips: node.IPs}
		g, gctx := errgroup.WithContext(ctx)
		if !pod.Spec.HostNetwork {
			g.Go(func() error {
				n, err := w.deps.Network.Attach(gctx, PodRef{string(pod.UID), pod.Namespace, pod.Name, pod.Labels})
				if err != nil {
					return &setupError{"FailedCreatePodSandBox", fmt.Errorf("attach network: %w", err)}
				}
				out.netns, out.ips = n.NetNSPath, nil
				for _, ip := range n.IPs {
					out.ips = append(out.ips, ip.String())
				}
				return nil
			})
		}
		g.Go(func() error {
			if err := w.pinNamespaces(pod); err != nil {
				return &setupError{"FailedCreatePodSandBox", err}
			}
			return nil
		})
		g.Go(func() (err error) {
			var stale error
			if out.refresh, stale, err = set.Setup(gctx, pod, facts); err != nil {
				return &setupError{"FailedMount", err}
			}
			w.tellStale(pod, stale)
			return nil
		})
		err := g.Wait()
		if err == nil && sharesPID(pod) {
			if out.pid, err = w.pause(ctx, pod, out.netns); err != nil {
				err = &setupError{"FailedCreatePodSandBox", err}
			}
		}
		if err == nil {
			if err = podfile.Write(w.dirs.root, pod, out.ips, w.deps.DNS); err != nil {
				err = &setupError{"FailedCreatePodSandBox", err}
			}
		}
		var failed *setupError
		switch {
		case err == nil:
			w.post(out)
		case ctx.Err() != nil: // the pod is being ended, or the agent
		case errors.As(err, &failed):
			w.post(podstate.PrepareFailed{Reason: failed.reason, Message: failed.Error()})
		}
	})
}

func sharesPID(pod *corev1.Pod) bool {
	s := pod.Spec.ShareProcessNamespace
	return s != nil && *s && !pod.Spec.HostPID
}

// pause holds the pod's process id namespace and returns its path.
func (w *Worker) pause(ctx context.Context, pod *corev1.Pod, network string) (string, error) {
	opts, err := runspec.Build(runspec.Input{
		Pod: pod, Container: &corev1.Container{Name: "pause"}, Args: []string{"/pause"}, Cgroup: w.cgroup("pause", 0),
		Namespaces: runspec.Namespaces{Network: network}, OOMScore: -998, Node: w.deps.Spec,
	})
	if err != nil {
		return "", err
	}
	labels := map[string]string{engine.LabelPodUID: w.uid, engine.LabelPodName: pod.Name, engine.LabelPodNamespace: pod.Namespace}
	pid, err := w.deps.Engine.Pause(ctx, w.pauseID(), filepath.Join(w.dirs.root, "pause"), labels, opts)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/%d/ns/pid", pid), nil
}

func (w *Worker) pauseID() string { return podstate.ContainerID(w.uid, "", 0) }

// setupError is a failed preparation with the reason that users see.
type setupError struct {
	reason string
	err    error
}

func (e *setupError) Error() string { return e.err.Error() }
func (e *setupError) Unwrap() error { return e.err }

func (w *Worker) pinNamespaces(pod *corev1.Pod) error {
	if err := os.MkdirAll(w.dirs.run, 0o700); err != nil {
		return err
	}
	var pins netns.Pins
	if !pod.Spec.HostIPC {
		pins.IPC = w.dirs.ipc()
		if err := volume.Tmpfs(w.dirs.shm(), shmSize); err != nil {
			return err
		}
		if err := os.Chmod(w.dirs.shm(), 0o1777|os.ModeSticky); err != nil {
			return err
		}
	}
	if !pod.Spec.HostNetwork {
		pins.UTS = w.dirs.uts()
	}
	short, _ := podfile.Hostname(pod, w.deps.DNS.Domain)
	return netns.Pin(pins, short)
}

// namespaces are the paths that containers join. The pod must be prepared.
func (w *Worker) namespaces(pod *corev1.Pod) (ns runspec.Namespaces, shm string) {
	ns.Network, ns.PID = w.infra.netns, w.infra.pid
	if !pod.Spec.HostIPC {
		ns.IPC, shm = w.dirs.ipc(), w.dirs.shm()
	} else {
		shm = "/dev/shm"
	}
	if !pod.Spec.HostNetwork {
		ns.UTS = w.dirs.uts()
	}
	return ns, shm
}

func (w *Worker) prepared(ctx context.Context, in infraReady) {
	w.infra.refresh = in.refresh
	select {
	case <-w.infra.ready: // the network is the same each time it is attached
	default:
		w.infra.netns, w.infra.pid = in.netns, in.pid
		close(w.infra.ready)
	}
	w.step(ctx, podstate.Prepared{IPs: in.ips})
}

// refreshVolumes writes changed content into the pod's volumes.
func (w *Worker) refreshVolumes(ctx context.Context) {
	select {
	case <-w.infra.ready:
	default:
		return // the first preparation reads what is current
	}
	switch w.state.State {
	case podstate.Preparing, podstate.Active, podstate.Stopping:
	default:
		return
	}
	if w.infra.working {
		w.infra.again = true
		return
	}
	w.infra.working = true
	pod, facts, set := w.pod, w.facts(), w.infra.volumes
	w.spawn(func() {
		next, stale, err := set.Setup(ctx, pod, facts)
		w.tellStale(pod, stale)
		w.post(refreshed{next, err})
	})
}

// tellStale records why a volume is older than it should be.
func (w *Worker) tellStale(pod *corev1.Pod, why error) {
	if why != nil {
		w.deps.Announce(pod, "", podstate.Announce{C: -1, Warning: true, Reason: "VolumeOutdated", Message: why.Error()})
	}
}

const refreshRetry = 10 * time.Second

func (w *Worker) refreshDone(ctx context.Context, in refreshed) {
	w.infra.working = false
	w.infra.refresh = in.next
	if in.err != nil && ctx.Err() == nil {
		w.log.Warn().Err(in.err).Msg("volumes not refreshed, trying again")
		w.infra.refresh = time.Now().Add(refreshRetry)
	}
	if w.infra.again {
		w.infra.again = false
		w.refreshVolumes(ctx)
	}
}

// release undoes prepare, after it and all starts have returned.
func (w *Worker) release(ctx context.Context) {
	if w.infra.cancel != nil {
		w.infra.cancel()
	}
	w.infra.refresh = time.Time{}
	prior, pod := w.infra.done, w.pod
	w.spawn(func() {
		if prior != nil {
			<-prior
		}
		w.waitStarts()
		if err := w.undo(ctx, pod); err != nil {
			w.log.Warn().Err(err).Msg("pod not released, trying again")
			w.post(podstate.ReleaseFailed{Message: err.Error()})
			return
		}
		w.post(podstate.ReleasedAll{})
	})
}

func (w *Worker) undo(ctx context.Context, pod *corev1.Pod) error {
	if sharesPID(pod) {
		if err := w.deps.Engine.Remove(ctx, w.pauseID()); err != nil {
			return err
		}
		removeCgroup(w.cgroup("pause", 0))
	}
	if !pod.Spec.HostNetwork {
		if err := w.deps.Network.Detach(ctx, w.uid); err != nil {
			return fmt.Errorf("detach network: %w", err)
		}
	}
	if err := netns.UnmountBelow(w.dirs.run); err != nil {
		return err
	}
	if err := os.RemoveAll(w.dirs.run); err != nil {
		return err
	}
	if err := volume.Teardown(w.dirs.volumes); err != nil {
		return err
	}
	removeCgroup(w.cgroup("", 0))
	return nil
}

// removeCgroup removes an empty cgroup in every hierarchy. One that is in use
// stays; the next pod of the name does not care.
func removeCgroup(path string) {
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		roots, _ := filepath.Glob(pattern) // the pattern is well-formed
		for _, root := range roots {
			children, _ := filepath.Glob(filepath.Join(root, path, "*"))
			for _, c := range children {
				_ = unix.Rmdir(c)
			}
			_ = unix.Rmdir(filepath.Join(root, path))
		}
	}
}
