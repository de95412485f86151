package podwork

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/engine"
	"github.com/rutter-project/rutter/nodeagent/internal/env"
	"github.com/rutter-project/rutter/nodeagent/internal/image"
	"github.com/rutter-project/rutter/nodeagent/internal/logfile"
	"github.com/rutter-project/rutter/nodeagent/internal/podfile"
	"github.com/rutter-project/rutter/nodeagent/internal/podstate"
	"github.com/rutter-project/rutter/nodeagent/internal/runspec"
	"github.com/rutter-project/rutter/nodeagent/internal/volume"
)

// labelStopSignal keeps what the image says for the next agent.
const labelStopSignal = "rutter.stop-signal"

// Reasons why a container does not start, as kubectl shows them.
const (
	reasonConfig = "CreateContainerConfigError"
	reasonCreate = "CreateContainerError"
	reasonRun    = "StartError"
)

// startJob is all that the start of one attempt needs, taken from the worker's
// state before the work leaves its goroutine.
type startJob struct {
	w       *Worker
	i       int
	id      string
	attempt int
	pod     *corev1.Pod
	c       *corev1.Container
	img     image.Image
	facts   env.Facts
	ready   <-chan struct{}
}

// start creates and starts an attempt in the background.
func (w *Worker) start(ctx context.Context, i int, id string) {
	j := &startJob{
		w: w, i: i, id: id, attempt: w.state.Containers[i].Restarts, pod: w.pod, c: w.container(i),
		img: w.images[i], facts: w.facts(), ready: w.infra.ready,
	}
	done := make(chan struct{})
	w.mu.Lock()
	w.busy[id] = done
	w.mu.Unlock()
	w.spawn(func() {
		ev := j.run(ctx)
		if ev != nil {
			w.post(ev)
		}
		close(done) // only now may the exit of this attempt be told
	})
}

func (w *Worker) waitStarts() {
	w.mu.Lock()
	var all []chan struct{}
	for _, c := range w.busy {
		all = append(all, c)
	}
	w.mu.Unlock()
	for _, c := range all {
		<-c
	}
}

// run returns the outcome, or nil when the agent is ending.
func (j *startJob) run(ctx context.Context) podstate.Event {
	select {
	case <-j.ready:
	case <-ctx.Done():
		return nil
	}
	began := time.Now()
	a, err := j.attemptOf(ctx)
	if err != nil {
		return j.failed(ctx, reasonConfig, err, false)
	}
	files := j.w.dirs.attempt(j.c.Name, j.attempt, j.c.TTY)
	if err := logfile.Create(files); err != nil {
		return j.failed(ctx, reasonCreate, fmt.Errorf("create log: %w", err), false)
	}
	// The pump runs before the process does: its first line is in the log even
	// if it is its last.
	pump := j.w.pump(ctx, j.id, files)
	at, err := j.w.deps.Engine.Start(ctx, a)
	if err != nil {
		pump.Finish()
		<-pump.Done() // the next try writes the same files
		var create *engine.CreateError
		if errors.As(err, &create) {
			return j.failed(ctx, reasonCreate, err, false)
		}
		return j.failed(ctx, reasonRun, err, true)
	}
	j.w.log.Info().Str("container", j.c.Name).Int("attempt", j.attempt).Dur("took", time.Since(began)).Msg("container started")
	return podstate.Started{C: j.i, ID: j.id, At: at}
}

func (j *startJob) failed(ctx context.Context, reason string, err error, ran bool) podstate.Event {
	if ctx.Err() != nil {
		return nil // the next agent finds what is half made
	}
	return podstate.StartFailed{C: j.i, ID: j.id, Reason: reason, Message: err.Error(), Ran: ran, At: time.Now()}
}

// pump begins to move an attempt's output.
func (w *Worker) pump(ctx context.Context, id string, files logfile.Files) *logfile.Pump {
	p := logfile.NewPump(files, w.deps.Limits, w.deps.Logs)
	w.mu.Lock()
	w.pumps[id] = p
	w.mu.Unlock()
	w.spawn(func() {
		if err := p.Run(ctx); err != nil && ctx.Err() == nil {
			w.log.Error().Err(err).Msg("output of a container is not logged")
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.pumps[id] == p {
			delete(w.pumps, id)
		}
	})
	return p
}

// lookup reads objects for the environment of a pod.
type lookup struct {
	ctx context.Context
	w   *Worker
	pod *corev1.Pod
}

func (l lookup) ConfigMap(name string) (*corev1.ConfigMap, bool, error) {
	return l.w.deps.Objects.For(l.pod.UID).ConfigMap(l.ctx, l.pod.Namespace, name)
}

func (l lookup) Secret(name string) (*corev1.Secret, bool, error) {
	return l.w.deps.Objects.For(l.pod.UID).Secret(l.ctx, l.pod.Namespace, name)
}

// attemptOf computes how the attempt is to run.
func (j *startJob) attemptOf(ctx context.Context) (engine.Attempt, error) {
	w := j.w
	if j.img.Handle == nil { // pulled by an earlier agent
		out, err := w.deps.Images.Ensure(ctx, image.Request{Ref: j.c.Image, Policy: corev1.PullIfNotPresent, Keys: w.keyring(ctx, j.pod)})
		if err != nil {
			return engine.Attempt{}, err
		}
		j.img = out.Image
	}
	environ, err := env.Resolve(j.pod, j.c, w.deps.Services(j.pod.Namespace), j.facts, lookup{ctx, w, j.pod})
	if err != nil {
		return engine.Attempt{}, err
	}
	args, err := runspec.Args(j.c, j.img.Config, func(list []string) []string { return env.ExpandAll(list, environ) })
	if err != nil {
		return engine.Attempt{}, err
	}
	mounts, err := j.mounts(environ)
	if err != nil {
		return engine.Attempt{}, err
	}
	opts, err := j.spec(environ, args, mounts)
	if err != nil {
		return engine.Attempt{}, err
	}
	files := w.dirs.attempt(j.c.Name, j.attempt, j.c.TTY)
	a := engine.Attempt{
		ID: j.id, Image: j.img.Handle, Spec: opts, Stdout: files.Stdout, Stderr: files.Stderr, Terminal: j.c.TTY,
		Labels: map[string]string{
			engine.LabelPodUID: string(j.pod.UID), engine.LabelPodName: j.pod.Name, engine.LabelPodNamespace: j.pod.Namespace,
			engine.LabelContainer: j.c.Name, engine.LabelAttempt: strconv.Itoa(j.attempt), labelStopSignal: j.img.Config.StopSignal,
		},
	}
	if j.c.Stdin {
		a.Stdin = w.dirs.stdin(j.c.Name, j.attempt)
		if err := unix.Mkfifo(a.Stdin, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
			return engine.Attempt{}, fmt.Errorf("make input: %w", err)
		}
	}
	return a, nil
}

func (j *startJob) spec(environ, args []string, mounts []runspec.Mount) ([]oci.SpecOpts, error) {
	w := j.w
	if port := hostPort(j.pod, j.c); port != 0 {
		return nil, &volume.UnsupportedError{What: fmt.Sprintf("hostPort %d (use a NodePort service or hostNetwork)", port)}
	}
	ns, shm := w.namespaces(j.pod)
	host, _ := podfile.Hostname(j.pod, w.deps.DNS.Domain)
	return runspec.Build(runspec.Input{
		Pod: j.pod, Container: j.c, Image: j.img.Config, Env: environ, Args: args,
		Namespaces: ns, Shm: shm, Mounts: mounts, Hostname: host,
		Cgroup:   w.cgroup(j.c.Name, j.attempt),
		OOMScore: runspec.OOMScore(j.pod, j.c, w.deps.Node().Memory),
		Node:     w.deps.Spec,
	})
}

// hostPort is a port of the node that the container asks for, 0 if there is none. A
// pod in the node's network has its ports there anyway.
func hostPort(pod *corev1.Pod, c *corev1.Container) int32 {
	if pod.Spec.HostNetwork {
		return 0
	}
	for _, p := range c.Ports {
		if p.HostPort != 0 {
			return p.HostPort
		}
	}
	return 0
}

// mounts lists the container's volumes and the pod's files.
func (j *startJob) mounts(environ []string) ([]runspec.Mount, error) {
	if len(j.c.VolumeDevices) > 0 {
		return nil, &volume.UnsupportedError{What: "volumeDevices"}
	}
	var out []runspec.Mount
	taken := map[string]bool{}
	for n, m := range j.c.VolumeMounts {
		mount, err := j.volumeMount(n, m, environ)
		if err != nil {
			return nil, err
		}
		out = append(out, mount)
		taken[filepath.Clean(m.MountPath)] = true
	}
	files := podfile.In(j.w.dirs.root)
	for dst, src := range map[string]string{"/etc/hosts": files.Hosts, "/etc/hostname": files.Hostname, "/etc/resolv.conf": files.Resolv} {
		if !taken[dst] {
			out = append(out, runspec.Mount{Source: src, Destination: dst})
		}
	}
	if path := j.c.TerminationMessagePath; path != "" {
		file := j.w.dirs.termination(j.c.Name, j.attempt)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			return nil, err
		}
		if err := os.Chmod(file, 0o666); err != nil { // any user of the container may write it
			return nil, err
		}
		out = append(out, runspec.Mount{Source: file, Destination: path})
	}
	return out, nil
}

func (j *startJob) volumeMount(n int, m corev1.VolumeMount, environ []string) (runspec.Mount, error) {
	source, ok := j.w.infra.volumes.Path(m.Name)
	if !ok {
		return runspec.Mount{}, fmt.Errorf("volume %q %w", m.Name, env.ErrMissing)
	}
	sub := m.SubPath
	if m.SubPathExpr != "" {
		sub = env.Expand(m.SubPathExpr, env.Values(environ))
	}
	if sub != "" {
		if !filepath.IsLocal(sub) {
			return runspec.Mount{}, fmt.Errorf("subPath %q must stay inside the volume", sub)
		}
		pin := j.w.dirs.subpath(j.c.Name, j.attempt, n)
		if err := volume.SubPath(source, sub, pin); err != nil {
			return runspec.Mount{}, err
		}
		source = pin
	}
	mount := runspec.Mount{Source: source, Destination: m.MountPath, ReadOnly: m.ReadOnly || j.fromAPI(m.Name)}
	if m.MountPropagation != nil {
		mount.Propagation = *m.MountPropagation
	}
	if r := m.RecursiveReadOnly; r != nil && m.ReadOnly && *r != corev1.RecursiveReadOnlyDisabled {
		mount.Recursive = *r == corev1.RecursiveReadOnlyEnabled
	}
	return mount, nil
}

// fromAPI reports whether a volume's content comes from the API: nobody but the
// agent may write it.
func (j *startJob) fromAPI(name string) bool {
	for i := range j.pod.Spec.Volumes {
		if v := &j.pod.Spec.Volumes[i]; v.Name == name {
			return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
		}
	}
	return false
}
