package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/rutter-project/rutter/nodeagent/internal/engine"
	"github.com/rutter-project/rutter/nodeagent/internal/kubeletapi"
	"github.com/rutter-project/rutter/nodeagent/internal/logfile"
	"github.com/rutter-project/rutter/nodeagent/internal/netns"
	"github.com/rutter-project/rutter/nodeagent/internal/podwork"
)

// backend answers the node's API from the agent's state.
type backend struct{ *Agent }

// PodUID implements kubeletapi.Backend.
func (b *backend) PodUID(namespace, name string) (string, error) {
	w := b.registry.byName(namespace, name)
	if w == nil {
		return "", fmt.Errorf("pod %s/%s: %w", namespace, name, kubeletapi.ErrNotFound)
	}
	return string(w.View().Pod.UID), nil
}

// Pods implements kubeletapi.Backend.
func (b *backend) Pods() []*corev1.Pod {
	var out []*corev1.Pod
	for _, w := range b.registry.all() {
		out = append(out, w.View().Pod)
	}
	return out
}

// RunningPods implements kubeletapi.Backend.
func (b *backend) RunningPods() []*corev1.Pod {
	var out []*corev1.Pod
	for _, w := range b.registry.all() {
		v := w.View()
		for _, c := range v.Containers {
			if c.State.Alive() {
				out = append(out, v.Pod)
				break
			}
		}
	}
	return out
}

// Healthy implements kubeletapi.Backend.
func (b *backend) Healthy() error {
	if reason := b.unready.Load(); reason != nil && *reason != "" {
		return errors.New(*reason)
	}
	return nil
}

// Config implements kubeletapi.Backend.
func (b *backend) Config() any { return b.cfg }

// find returns a container of a pod of this node.
func (b *backend) find(w *podwork.Worker, container string) (*podwork.View, podwork.ContainerView, error) {
	if w == nil {
		return nil, podwork.ContainerView{}, fmt.Errorf("pod: %w", kubeletapi.ErrNotFound)
	}
	v := w.View()
	for _, c := range v.Containers {
		if c.Name == container {
			return v, c, nil
		}
	}
	return nil, podwork.ContainerView{}, fmt.Errorf("container %q in pod %q: %w", container, v.Pod.Name, kubeletapi.ErrNotFound)
}

// running returns a container that runs.
func (b *backend) running(uid, container string) (*podwork.Worker, podwork.ContainerView, error) {
	w := b.registry.worker(types.UID(uid))
	v, c, err := b.find(w, container)
	if err != nil {
		return nil, c, err
	}
	if !c.State.Alive() {
		return nil, c, fmt.Errorf("container %q in pod %q is not running: %w", container, v.Pod.Name, kubeletapi.ErrBadRequest)
	}
	return w, c, nil
}

// Logs implements kubeletapi.Backend.
func (b *backend) Logs(ctx context.Context, r kubeletapi.LogRequest, out io.Writer) error {
	w := b.registry.byName(r.Namespace, r.Pod)
	v, c, err := b.find(w, r.Container)
	if err != nil {
		return err
	}
	if c.ID == "" {
		reason := "ContainerCreating"
		for _, list := range [][]corev1.ContainerStatus{v.Pod.Status.InitContainerStatuses, v.Pod.Status.ContainerStatuses} {
			for _, s := range list {
				if s.Name == c.Name && s.State.Waiting != nil && s.State.Waiting.Reason != "" {
					reason = s.State.Waiting.Reason
				}
			}
		}
		return fmt.Errorf("%w: container %q in pod %q is waiting to start: %s", kubeletapi.ErrBadRequest, c.Name, r.Pod, reason)
	}
	opts := logfile.Options{
		Tail: r.Tail, Since: r.Since, Timestamps: r.Timestamps, LimitBytes: r.LimitBytes, Stream: logfile.Stream(r.Stream),
	}
	if r.Previous {
		if c.Previous == "" {
			return fmt.Errorf("%w: previous terminated container %q in pod %q not found", kubeletapi.ErrBadRequest, c.Name, r.Pod)
		}
		return logfile.Read(ctx, c.Previous, opts, out)
	}
	if r.Follow {
		opts.Pump = w.Pump(c.ID) // nil once the output is complete
	}
	return logfile.Read(ctx, c.Log, opts, out)
}

// ExecInContainer implements remotecommand.Executor.
func (b *backend) ExecInContainer(ctx context.Context, _, uid, container string, cmd []string, in io.Reader, stdout, stderr io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, timeout time.Duration) error {
	_, c, err := b.running(uid, container)
	if err != nil {
		return err
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	sizes, stop := convert(resize)
	defer stop()
	x := engine.ExecSpec{Args: cmd, Stdin: in, Terminal: tty, Resize: sizes, FIFODir: b.cfg.runDir()}
	if stdout != nil {
		x.Stdout = stdout
	}
	if stderr != nil && !tty {
		x.Stderr = stderr
	}
	code, err := b.engine.Exec(ctx, c.ID, x)
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: int(code)}
	}
	return nil
}

// convert passes terminal sizes on in the engine's type until stop is called.
func convert(in <-chan remotecommand.TerminalSize) (out <-chan engine.Size, stop func()) {
	if in == nil {
		return nil, func() {}
	}
	sizes, quit, done := make(chan engine.Size), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case s, ok := <-in:
				if !ok {
					return
				}
				select {
				case sizes <- engine.Size{Width: uint32(s.Width), Height: uint32(s.Height)}:
				case <-quit:
					return
				}
			case <-quit:
				return
			}
		}
	}()
	return sizes, func() { close(quit); <-done }
}

// AttachContainer implements remotecommand.Attacher.
func (b *backend) AttachContainer(ctx context.Context, _, uid, container string, in io.Reader, stdout, stderr io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	w, c, err := b.running(uid, container)
	if err != nil {
		return err
	}
	pump := w.Pump(c.ID)
	if pump == nil {
		return fmt.Errorf("container %q has ended: %w", container, kubeletapi.ErrBadRequest)
	}
	l := pump.Listen()
	defer pump.Unlisten(l)
	if in != nil {
		closeInput, err := w.Input(ctx, container, in)
		if err != nil {
			return err
		}
		defer closeInput()
	}
	for {
		select {
		case s, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			if tty {
				_ = b.engine.Resize(ctx, c.ID, uint32(s.Width), uint32(s.Height)) // a terminal that is gone needs no size
			}
		case chunk, ok := <-l.C():
			if !ok {
				return nil
			}
			to := io.Writer(stdout)
			if chunk.Stream == logfile.Stderr {
				to = stderr
			}
			if to == nil {
				continue
			}
			if _, err := to.Write(chunk.Data); err != nil {
				return nil // the client left
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// PortForward implements portforward.PortForwarder.
func (b *backend) PortForward(ctx context.Context, _, uid string, port int32, stream io.ReadWriteCloser) error {
	defer func() { _ = stream.Close() }()
	w := b.registry.worker(types.UID(uid))
	if w == nil {
		return fmt.Errorf("pod: %w", kubeletapi.ErrNotFound)
	}
	v := w.View()
	if v.NetNS == "" && !v.Pod.Spec.HostNetwork {
		return fmt.Errorf("pod %q is not running: %w", v.Pod.Name, kubeletapi.ErrBadRequest)
	}
	var conn net.Conn
	var errs []error
	for _, host := range []string{"127.0.0.1", "::1"} {
		c, err := netns.Dial(ctx, v.NetNS, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err == nil {
			conn = c
			break
		}
		errs = append(errs, err)
	}
	if conn == nil {
		return fmt.Errorf("forward port %d to pod %q: %w", port, v.Pod.Name, errors.Join(errs...))
	}
	return pipe(ctx, conn.(*net.TCPConn), stream)
}

// pipe copies both ways until the pod closes its side, or the client does both.
func pipe(ctx context.Context, conn *net.TCPConn, stream io.ReadWriteCloser) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	sent := make(chan struct{})
	go func() { // ends with the stream, which the caller's server closes
		defer close(sent)
		_, _ = io.Copy(conn, stream) // a broken stream is the client's business
		_ = conn.CloseWrite()
	}()
	_, err := io.Copy(stream, conn)
	_ = stream.Close()
	_ = conn.Close()
	<-sent
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
