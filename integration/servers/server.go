package servers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Server is a running API server with the processes it is made of.
type Server struct {
	Name string
	// Config is the administrator's access.
	Config *rest.Config

	dir        string
	kubeconfig string    // the administrator's; may be written by a process
	commands   []command // in the order of start
	processes  []*process
}

// command is how one process is started.
type command struct {
	program string
	args    []string
	log     string
}

// process is a running command.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has
	err    error         // how; read once exited is closed
}

const (
	startTime = 3 * time.Minute
	stopTime  = time.Minute
	pollEvery = 10 * time.Millisecond
)

// start makes a folder, lets plan say what runs in it, and starts that.
func start(ctx context.Context, name string, plan func(*Server) error) (*Server, error) {
	dir, err := os.MkdirTemp("", "rutter-beside-")
	if err != nil {
		return nil, err
	}
	s := &Server{Name: name, dir: dir}
	if err = plan(s); err == nil {
		err = s.start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

// start runs all processes and returns when the API is ready. If it fails, nothing runs.
func (s *Server) start(ctx context.Context) error {
	for _, c := range s.commands {
		p, err := c.start()
		if err != nil {
			return errors.Join(err, s.end())
		}
		s.processes = append(s.processes, p)
	}
	if err := s.waitReady(ctx); err != nil {
		return errors.Join(fmt.Errorf("%s: %w\n%s", s.Name, err, s.logs()), s.end())
	}
	return nil
}

func (c command) start() (*process, error) {
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	p := &process{cmd: exec.Command(c.program, c.args...), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for who started us
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// waitReady asks /readyz, and then for what a fresh server writes after it says that it
// is ready.
func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := s.wait(ctx, s.kubeconfig, func() (err error) {
		s.Config, err = clientcmd.BuildConfigFromFlags("", s.kubeconfig)
		return err
	}); err != nil {
		return err
	}
	s.Config.QPS = -1
	client, err := rest.HTTPClientFor(s.Config)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	for _, path := range []string{
		"/readyz", "/api/v1/namespaces/default", "/api/v1/namespaces/kube-system", "/api/v1/namespaces/kube-public",
		"/api/v1/namespaces/kube-node-lease", "/api/v1/namespaces/default/services/kubernetes",
	} {
		if err := s.wait(ctx, path, func() error { return get(ctx, client, s.Config.Host+path) }); err != nil {
			return err
		}
	}
	return nil
}

// get tells whether a URL answers well.
func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// wait tries until it succeeds, or a process has ended.
func (s *Server) wait(ctx context.Context, what string, try func() error) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		tried := try()
		if tried == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, errors.Join(tried, ctx.Err()))
		case <-ticker.C:
		}
		for _, p := range s.processes {
			select {
			case <-p.exited:
				return fmt.Errorf("%s ended: %w", filepath.Base(p.cmd.Path), p.err)
			default:
			}
		}
	}
}

// PIDs are the server's processes, the store's among them.
func (s *Server) PIDs() []int {
	var pids []int
	for _, p := range s.processes {
		pids = append(pids, p.cmd.Process.Pid)
	}
	return pids
}

// Restart stops all processes and starts them on what they had stored. It returns how
// long the start took.
func (s *Server) Restart(ctx context.Context) (time.Duration, error) {
	if err := s.end(); err != nil {
		return 0, err
	}
	begin := time.Now()
	err := s.start(ctx)
	return time.Since(begin), err
}

// Stop ends all processes and removes what they stored.
func (s *Server) Stop() error { return errors.Join(s.end(), os.RemoveAll(s.dir)) }

// end stops the processes in reverse order of start.
func (s *Server) end() error {
	var errs []error
	for len(s.processes) > 0 {
		p := s.processes[len(s.processes)-1]
		s.processes = s.processes[:len(s.processes)-1]
		errs = append(errs, p.end())
	}
	return errors.Join(errs...)
}

func (p *process) end() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.exited: // how it ended is of no interest: it was told to
		return nil
	case <-time.After(stopTime):
	}
	return errors.Join(fmt.Errorf("%s had not ended %s after SIGTERM and was killed", p.cmd.Path, stopTime), p.cmd.Process.Kill())
}

// logs is the end of what the processes printed.
func (s *Server) logs() string {
	const last = 4 << 10
	var all string
	for _, c := range s.commands {
		text, err := os.ReadFile(c.log)
		if err != nil {
			text = []byte(err.Error())
		}
		all += fmt.Sprintf("%s:\n%s\n", filepath.Base(c.program), text[max(0, len(text)-last):])
	}
	return all
}
