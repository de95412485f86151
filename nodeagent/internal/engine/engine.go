// Package engine runs containers through containerd's native API.
//
// An attempt to run a container has an id that its caller chooses; every call
// is idempotent on it. All methods may be called from any goroutine. One
// goroutine calls Run, which delivers exits in the order containerd tells them
// and, after every (re)connection, the full list of what exists, so that no
// exit is ever missed.
package engine

import (
	"context"
	"fmt"
	"syscall"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// Labels of every container the agent makes: what must be known of it when all
// else is lost.
const (
	LabelPodUID       = "io.kubernetes.pod.uid"
	LabelPodName      = "io.kubernetes.pod.name"
	LabelPodNamespace = "io.kubernetes.pod.namespace"
	LabelContainer    = "io.kubernetes.container.name"
	LabelAttempt      = "io.kubernetes.container.attempt"
)

// Config names a containerd and what is used of it.
type Config struct {
	Socket      string
	Namespace   string
	Snapshotter string
}

// Engine is a connection to containerd.
type Engine struct {
	cfg    Config
	client *containerd.Client
}

// Connect dials containerd and checks that it answers.
func Connect(ctx context.Context, cfg Config) (*Engine, error) {
	client, err := containerd.New(cfg.Socket, containerd.WithDefaultNamespace(cfg.Namespace), containerd.WithTimeout(10*time.Second))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", cfg.Socket, err)
	}
	e := &Engine{cfg: cfg, client: client}
	if _, err := e.Version(ctx); err != nil {
		_ = client.Close()
		return nil, err
	}
	return e, nil
}

// Close ends the connection; containers go on.
func (e *Engine) Close() error { return e.client.Close() }

// Client is the connection itself, for the image puller.
func (e *Engine) Client() *containerd.Client { return e.client }

// Snapshotter is the one containers use.
func (e *Engine) Snapshotter() string { return e.cfg.Snapshotter }

// Context returns ctx with the engine's namespace, for calls by Client.
func (e *Engine) Context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, e.cfg.Namespace)
}

// Version is containerd's version.
func (e *Engine) Version(ctx context.Context) (string, error) {
	v, err := e.client.Version(ctx)
	if err != nil {
		return "", fmt.Errorf("ask containerd's version: %w", err)
	}
	return v.Version, nil
}

// Found is one container that exists in containerd.
type Found struct {
	ID        string
	Labels    map[string]string
	CreatedAt time.Time
	Running   bool
	Exited    bool // the process ended; neither set means there never was one
	Code      int32
	At        time.Time // when it ended
	PID       uint32
}

// List returns all containers of the namespace.
func (e *Engine) List(ctx context.Context) ([]Found, error) {
	ctx = e.Context(ctx)
	all, err := e.client.ContainerService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	resp, err := e.client.TaskService().List(ctx, &tasksapi.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", errgrpc.ToNative(err))
	}
	tasks := make(map[string]*tasktypes.Process, len(resp.Tasks))
	for _, t := range resp.Tasks {
		id := t.ContainerID
		if id == "" {
			id = t.ID
		}
		tasks[id] = t
	}
	out := make([]Found, 0, len(all))
	for _, c := range all {
		out = append(out, found(c, tasks[c.ID]))
	}
	return out, nil
}

func found(c containers.Container, t *tasktypes.Process) Found {
	f := Found{ID: c.ID, Labels: c.Labels, CreatedAt: c.CreatedAt}
	if t == nil {
		return f
	}
	f.PID = t.Pid
	switch t.Status {
	case tasktypes.Status_RUNNING, tasktypes.Status_PAUSED, tasktypes.Status_PAUSING:
		f.Running = true
	case tasktypes.Status_STOPPED:
		f.Exited, f.Code, f.At = true, int32(t.ExitStatus), t.ExitedAt.AsTime()
	default: // created but not started: as good as absent
	}
	return f
}

// Signal sends a signal to the container's process; SIGKILL goes to all of its
// processes. A container that has none is no error.
func (e *Engine) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	_, err := e.client.TaskService().Kill(e.Context(ctx), &tasksapi.KillRequest{
		ContainerID: id, Signal: uint32(sig), All: sig == syscall.SIGKILL,
	})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("send %s to container %s: %w", sig, id, err)
	}
	return nil
}

// Reap collects an exited process: afterwards its output is complete. A
// container that has none is no error.
func (e *Engine) Reap(ctx context.Context, id string) error {
	_, err := e.client.TaskService().Delete(e.Context(ctx), &tasksapi.DeleteTaskRequest{ContainerID: id})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("reap container %s: %w", id, err)
	}
	return nil
}

// Remove removes a container with its processes and its file system. One that
// does not exist is no error.
func (e *Engine) Remove(ctx context.Context, id string) error {
	if err := e.Reap(ctx, id); err != nil { // it runs: older daemons say so without a code
		if err := e.killAndReap(ctx, id); err != nil {
			return err
		}
	}
	ctx = e.Context(ctx)
	if err := e.client.ContainerService().Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	if err := e.client.SnapshotService(e.cfg.Snapshotter).Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove file system of container %s: %w", id, err)
	}
	return nil
}

func (e *Engine) killAndReap(ctx context.Context, id string) error {
	wctx, cancel := context.WithTimeout(e.Context(ctx), 10*time.Second)
	defer cancel()
	if err := e.Signal(ctx, id, syscall.SIGKILL); err != nil {
		return err
	}
	if _, err := e.client.TaskService().Wait(wctx, &tasksapi.WaitRequest{ContainerID: id}); err != nil {
		if err = errgrpc.ToNative(err); !errdefs.IsNotFound(err) {
			return fmt.Errorf("wait for container %s: %w", id, err)
		}
	}
	return e.Reap(ctx, id)
}

// CloseStdin tells the container that its standard input ended.
func (e *Engine) CloseStdin(ctx context.Context, id string) error {
	_, err := e.client.TaskService().CloseIO(e.Context(ctx), &tasksapi.CloseIORequest{ContainerID: id, Stdin: true})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("close input of container %s: %w", id, err)
	}
	return nil
}

// Resize sets the size of a container's terminal.
func (e *Engine) Resize(ctx context.Context, id string, width, height uint32) error {
	_, err := e.client.TaskService().ResizePty(e.Context(ctx), &tasksapi.ResizePtyRequest{ContainerID: id, Width: width, Height: height})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("resize terminal of container %s: %w", id, err)
	}
	return nil
}

// RemoveImages removes the namespace's images.
func (e *Engine) RemoveImages(ctx context.Context) error {
	ctx = e.Context(ctx)
	all, err := e.client.ImageService().List(ctx)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	for _, img := range all {
		if err := e.client.ImageService().Delete(ctx, img.Name); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove image %s: %w", img.Name, err)
		}
	}
	return nil
}
