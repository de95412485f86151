package podwork

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

var errNoInput = errors.New("container was started without stdin")

// Input copies a client's input to a running container until the client ends
// it. With stdinOnce the container then sees the end of its input; otherwise
// the pipe stays open for the next client, as long as this agent lives.
func (w *Worker) Input(ctx context.Context, name string, in io.Reader) (stop func(), err error) {
	v := w.View()
	for i, c := range v.Containers {
		if c.Name != name {
			continue
		}
		spec := containerOf(v, i)
		if !spec.Stdin {
			return nil, fmt.Errorf("container %q: %w", name, errNoInput)
		}
		f, err := w.openInput(c.ID, w.dirs.stdin(name, c.Restarts))
		if err != nil {
			return nil, err
		}
		go func() { // ends with the client's stream, which its server closes
			_, cerr := io.Copy(f, in)
			// A terminal's input ends by a character; closing it would hang it up.
			if spec.StdinOnce && !spec.TTY && cerr == nil && ctx.Err() == nil {
				w.closeInput(c.ID)
				_ = w.deps.Engine.CloseStdin(context.WithoutCancel(ctx), c.ID) // it may have ended
			}
		}()
		return func() {
			if spec.StdinOnce {
				w.closeInput(c.ID)
			}
		}, nil
	}
	return nil, fmt.Errorf("container %q: %w", name, os.ErrNotExist)
}

func (w *Worker) openInput(id, path string) (*os.File, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f := w.inputs[id]; f != nil {
		return f, nil
	}
	// Read and write: opening must not wait for the shim.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open input: %w", err)
	}
	w.inputs[id] = f
	return f, nil
}

func (w *Worker) closeInput(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f := w.inputs[id]; f != nil {
		_ = f.Close()
		delete(w.inputs, id)
	}
}
