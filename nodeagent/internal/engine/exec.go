package engine

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
)

// Size is the size of a terminal in characters.
type Size struct{ Width, Height uint32 }

// ExecSpec is a command to run inside a running container.
type ExecSpec struct {
	Args     []string
	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer
	Terminal bool
	Resize   <-chan Size
	FIFODir  string
}

// drainTimeout is how long output may still come after the command ended.
const drainTimeout = 5 * time.Second

// Exec runs a command in a container and returns its exit code. When ctx ends
// the command is killed.
func (e *Engine) Exec(ctx context.Context, id string, x ExecSpec) (code uint32, err error) {
	ctx = e.Context(ctx)
	c, err := e.client.LoadContainer(ctx, id)
	if err != nil {
		return 0, fmt.Errorf("load container %s: %w", id, err)
	}
	task, err := c.Task(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("load process of container %s: %w", id, err)
	}
	spec, err := c.Spec(ctx)
	if err != nil {
		return 0, fmt.Errorf("load spec of container %s: %w", id, err)
	}
	process := *spec.Process
	process.Args, process.Terminal = x.Args, x.Terminal
	stdin := &closeNotifier{r: x.Stdin, done: make(chan struct{})}
	opts := []cio.Opt{cio.WithFIFODir(x.FIFODir)}
	if x.Stdin == nil {
		opts = append(opts, cio.WithStreams(nil, x.Stdout, x.Stderr))
	} else {
		opts = append(opts, cio.WithStreams(stdin, x.Stdout, x.Stderr))
	}
	if x.Terminal {
		opts = append(opts, cio.WithTerminal)
	}
	proc, err := task.Exec(ctx, rand.Text(), &process, cio.NewCreator(opts...))
	if err != nil {
		return 0, fmt.Errorf("create command in container %s: %w", id, err)
	}
	return e.runExec(ctx, proc, stdin, x)
}

func (e *Engine) runExec(ctx context.Context, proc containerd.Process, stdin *closeNotifier, x ExecSpec) (uint32, error) {
	cleanup := context.WithoutCancel(ctx)
	defer func() {
		dctx, cancel := context.WithTimeout(cleanup, drainTimeout)
		defer cancel()
		_, _ = proc.Delete(dctx, containerd.WithProcessKill) // nothing of it must stay; it ended in the normal case
	}()
	exited, err := proc.Wait(cleanup)
	if err != nil {
		return 0, fmt.Errorf("wait for command: %w", err)
	}
	if err := proc.Start(ctx); err != nil {
		return 0, fmt.Errorf("start command: %w", err)
	}
	closed := stdin.done
	if x.Terminal {
		closed = nil // a terminal's input ends by a character; closing it would hang it up
	}
	for {
		select {
		case size, ok := <-x.Resize:
			if !ok {
				x.Resize = nil
				continue
			}
			_ = proc.Resize(ctx, size.Width, size.Height) // a terminal that is gone needs no size
		case <-closed:
			closed = nil
			_ = proc.CloseIO(ctx, containerd.WithStdinCloser) // ended commands read nothing
		case <-ctx.Done():
			if err := proc.Kill(cleanup, syscall.SIGKILL); err != nil {
				return 0, fmt.Errorf("kill command: %w", err)
			}
			<-exited
			return 0, ctx.Err()
		case status := <-exited:
			drain(proc)
			code, _, err := status.Result()
			return code, err
		}
	}
}

// drain waits until the command's output is copied. A process it left behind
// may hold the output open: then only for a while.
func drain(proc containerd.Process) {
	done := make(chan struct{})
	go func() { proc.IO().Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(drainTimeout):
		proc.IO().Cancel()
		_ = proc.IO().Close()
		<-done
	}
}

// closeNotifier tells when its reader ended.
type closeNotifier struct {
	r    io.Reader
	done chan struct{}
	once sync.Once
}

func (c *closeNotifier) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil {
		c.once.Do(func() { close(c.done) })
	}
	return n, err
}
