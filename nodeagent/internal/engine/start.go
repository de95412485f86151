package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
)

// runtimeName is the only runtime the agent uses.
const runtimeName = "io.containerd.runc.v2"

// Attempt is one attempt to run a container.
type Attempt struct {
	ID       string
	Labels   map[string]string
	Image    containerd.Image
	Spec     []oci.SpecOpts
	Stdin    string // path of a fifo; empty for none
	Stdout   string // path of a file the shim appends to
	Stderr   string // the same; empty with a terminal
	Terminal bool
}

// startTimeout bounds one start.
const startTimeout = 2 * time.Minute

// CreateError tells that containerd could not make the container.
type CreateError struct{ Err error }

func (e *CreateError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *CreateError) Unwrap() error { return e.Err }

// paths is the output of a task that nobody copies: the shim writes plain files.
type paths cio.Config

func (p paths) Config() cio.Config { return cio.Config(p) }
func (paths) Cancel()              {}
func (paths) Wait()                {}
func (paths) Close() error         { return nil }

// Start creates and starts an attempt. What an interrupted call left of the
// same attempt is removed first. An error of type *CreateError means that no
// container could be made; other errors, that its process could not be run.
func (e *Engine) Start(ctx context.Context, a Attempt) (startedAt time.Time, err error) {
	// A start is never broken off half-way: containerd would leave a shim behind
	// that nobody knows of. An agent that ends waits for it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.Context(ctx)), startTimeout)
	defer cancel()
	c, err := e.create(ctx, a)
	if errdefs.IsAlreadyExists(err) {
		if err := e.Remove(ctx, a.ID); err != nil {
			return time.Time{}, &CreateError{err}
		}
		c, err = e.create(ctx, a)
	}
	if err != nil {
		return time.Time{}, &CreateError{fmt.Errorf("create container: %w", err)}
	}
	out := paths{Terminal: a.Terminal, Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr}
	task, err := c.NewTask(ctx, func(string) (cio.IO, error) { return out, nil })
	if err != nil {
		return time.Time{}, errors.Join(fmt.Errorf("create process: %w", err), e.Remove(context.WithoutCancel(ctx), a.ID))
	}
	if err := task.Start(ctx); err != nil {
		return time.Time{}, errors.Join(fmt.Errorf("start process: %w", err), e.Remove(context.WithoutCancel(ctx), a.ID))
	}
	return time.Now(), nil
}

func (e *Engine) create(ctx context.Context, a Attempt) (containerd.Container, error) {
	opts := []containerd.NewContainerOpts{
		containerd.WithContainerLabels(a.Labels),
		containerd.WithSnapshotter(e.cfg.Snapshotter),
		containerd.WithImage(a.Image),
		containerd.WithNewSnapshot(a.ID, a.Image),
		containerd.WithRuntime(runtimeName, &options.Options{}),
		containerd.WithNewSpec(a.Spec...),
	}
	return e.client.NewContainer(ctx, a.ID, opts...)
}
