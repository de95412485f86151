// Package daemon keeps a containerd of our own running beside the agent.
//
// The child is not tied to the agent's life: it is in a session of its own and
// goes on when the agent dies. The next agent finds it by its process id file,
// checks that it is the one, and watches it from then on. If it dies it is
// started again; its shims, and so the containers, do not notice.
package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// Config says what to run and where it keeps its state.
type Config struct {
	Binary string // containerd's program, looked up in PATH
	Root   string // content, snapshots and metadata; persistent
	State  string // sockets and shim state; may be lost with the machine's memory
	Socket string
}

func (c Config) configFile() string { return filepath.Join(c.Root, "rutter-containerd.toml") }
func (c Config) pidFile() string    { return filepath.Join(c.State, "rutter-containerd.pid") }
func (c Config) logFile() string    { return filepath.Join(c.Root, "rutter-containerd.log") }

// Daemon is the supervisor. One goroutine calls Run; Ready may be called from any.
type Daemon struct {
	cfg   Config
	log   zerolog.Logger
	ready chan struct{} // closed when the socket first answered
}

// New returns a supervisor that has not begun.
func New(cfg Config, log zerolog.Logger) *Daemon {
	return &Daemon{cfg: cfg, log: log.With().Str("component", "containerd").Logger(), ready: make(chan struct{})}
}

// Ready is closed when containerd first answered.
func (d *Daemon) Ready() <-chan struct{} { return d.ready }

// Restart delays: a child that dies at once is not restarted in a hot loop.
const (
	firstDelay   = 100 * time.Millisecond
	longestDelay = 10 * time.Second
	startTimeout = 30 * time.Second
)

// Run keeps containerd running until ctx ends, and leaves it running then. It
// fails only when containerd can not be started in the first place.
func (d *Daemon) Run(ctx context.Context) error {
	if err := d.writeConfig(); err != nil {
		return fmt.Errorf("configure containerd: %w", err)
	}
	delay := firstDelay
	for first := true; ; first = false {
		began := time.Now()
		proc, err := d.adoptOrStart(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && first:
			return err
		case err != nil:
			d.log.Error().Err(err).Msg("containerd does not start")
		default:
			if first {
				close(d.ready)
			}
			if !proc.wait(ctx) {
				return nil
			}
			d.log.Warn().Int("pid", proc.pid).Msg("containerd died, starting it again")
		}
		if time.Since(began) > time.Minute {
			delay = firstDelay
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil
		}
		delay = min(2*delay, longestDelay)
	}
}

func (d *Daemon) writeConfig() error {
	for _, dir := range []string{d.cfg.Root, d.cfg.State, filepath.Dir(d.cfg.Socket)} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	return os.WriteFile(d.cfg.configFile(), []byte(render(d.cfg)), 0o600)
}

// render writes containerd's configuration: no CRI, no snapshotter that needs
// more than a plain file system.
func render(c Config) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version = 2\nroot = %q\nstate = %q\n", c.Root, c.State)
	b.WriteString(`disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.nri.v1.nri"]` + "\n")
	fmt.Fprintf(&b, "[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n", c.Socket, c.Socket+".ttrpc")
	return b.String()
}

// process is a containerd that runs, our child or not.
type process struct {
	pid   int
	pidfd *os.File
	child *exec.Cmd // nil when adopted
}

func (d *Daemon) adoptOrStart(ctx context.Context) (*process, error) {
	if p := d.find(); p != nil {
		if err := d.awaitSocket(ctx, p); err == nil {
			d.log.Info().Int("pid", p.pid).Msg("adopted the running containerd")
			return p, nil
		}
		_ = p.pidfd.Close()
	}
	began := time.Now()
	p, err := d.start()
	if err != nil {
		return nil, err
	}
	if err := d.awaitSocket(ctx, p); err != nil {
		return nil, err
	}
	d.log.Info().Int("pid", p.pid).Dur("took", time.Since(began)).Msg("containerd runs")
	return p, nil
}

// find returns the containerd of an earlier agent, if it still runs.
func (d *Daemon) find() *process {
	data, err := os.ReadFile(d.cfg.pidFile())
	if err != nil {
		return nil
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return nil
	}
	p, err := open(pid)
	if err != nil {
		return nil
	}
	// Checked after the process was opened: the number can not be reused any more.
	cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || !bytes.Contains(cmdline, []byte(d.cfg.configFile())) {
		_ = p.pidfd.Close()
		return nil
	}
	return p
}

func open(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	return &process{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}, nil
}

func (d *Daemon) start() (*process, error) {
	logFile, err := os.OpenFile(d.cfg.logFile(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = logFile.Close() }()
	cmd := exec.Command(d.cfg.Binary, "--config", d.cfg.configFile(), "--log-level", "warn")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	p, err := open(cmd.Process.Pid)
	if err == nil {
		p.child = cmd
		err = os.WriteFile(d.cfg.pidFile(), []byte(strconv.Itoa(p.pid)), 0o600)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	return p, nil
}

var errDied = errors.New("containerd ended before it answered")

// awaitSocket waits until containerd accepts connections.
func (d *Daemon) awaitSocket(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	died := make(chan struct{})
	waited := make(chan struct{})
	wctx, stop := context.WithCancel(ctx)
	go func() {
		defer close(waited)
		if p.await(wctx) {
			close(died)
		}
	}()
	defer func() { stop(); <-waited }()
	tick := time.NewTicker(10 * time.Millisecond) // only while starting: nothing else tells when it listens
	defer tick.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", d.cfg.Socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-tick.C:
		case <-died:
			p.reap()
			return fmt.Errorf("%w: %s", errDied, d.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("containerd does not answer at %s: %w", d.cfg.Socket, err)
		}
	}
}

func (d *Daemon) lastWords() string {
	data, err := os.ReadFile(d.cfg.logFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return lines[len(lines)-1]
}

// await returns true when the process ended, false when ctx did.
func (p *process) await(ctx context.Context) bool {
	stop := context.AfterFunc(ctx, func() { _ = p.pidfd.SetReadDeadline(time.Now()) })
	defer stop()
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return ctx.Err() == nil
	}
	err = conn.Read(func(fd uintptr) bool {
		n, perr := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return perr == nil && n > 0
	})
	if err != nil {
		_ = p.pidfd.SetReadDeadline(time.Time{})
		return false
	}
	return true
}

func (p *process) reap() {
	if p.child != nil {
		_ = p.child.Wait()
	}
	_ = p.pidfd.Close()
}

func (p *process) wait(ctx context.Context) bool {
	if !p.await(ctx) {
		_ = p.pidfd.Close()
		return false
	}
	p.reap()
	return true
}

// Stop ends the containerd of this configuration, if one runs. Containers must
// be gone before: their shims would stay.
func Stop(ctx context.Context, cfg Config) error {
	d := New(cfg, zerolog.Nop())
	p := d.find()
	if p == nil {
		return nil
	}
	defer func() { _ = p.pidfd.Close() }()
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(int(p.pidfd.Fd()), sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end containerd: %w", err)
		}
		if waitExit(ctx, p.pid, 10*time.Second) {
			_ = os.Remove(cfg.pidFile())
			return nil
		}
	}
	return fmt.Errorf("containerd %d does not end", p.pid)
}

func waitExit(ctx context.Context, pid int, limit time.Duration) bool {
	p, err := open(pid)
	if err != nil {
		return true
	}
	defer func() { _ = p.pidfd.Close() }()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return p.await(ctx)
}
