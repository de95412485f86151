package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// server is the cluster under test.
type server struct {
	kubeconfig string

	rutter, dir string
	flags       []string
	process     *exec.Cmd
	exited      chan error
}

const (
	nodeName  = "conformance"
	startTime = 2 * time.Minute
)

// startServer runs `rutter up` on a data directory of its own and waits until it is up.
func startServer(ctx context.Context, o options) (*server, error) {
	dir, err := os.MkdirTemp("", "rutter-conformance-")
	if err != nil {
		return nil, err
	}
	rutter, err := filepath.Abs(o.rutter)
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	s := &server{
		rutter: rutter, dir: dir, exited: make(chan error, 1),
		flags:      []string{"--data-dir", filepath.Join(dir, "data"), "--run-dir", filepath.Join(dir, "run"), "--node-name", nodeName},
		kubeconfig: filepath.Join(dir, "data", "admin.kubeconfig"),
	}
	args := append([]string{"up", "--api-port", ports[0], "--bus-port", ports[1], "--node-port", ports[2]}, s.flags...)
	s.process = exec.Command(rutter, args...)
	s.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := s.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.process.Stderr = s.process.Stdout
	if err := s.process.Start(); err != nil {
		return nil, err
	}
	return s, s.waitUp(ctx, pipe)
}

// waitUp reads what up prints until it says that it is up, and goes on reading so that
// it can go on printing.
func (s *server) waitUp(ctx context.Context, pipe io.Reader) error {
	up := make(chan struct{})
	var said strings.Builder
	go func() {
		lines := bufio.NewScanner(pipe)
		for lines.Scan() {
			said.WriteString(lines.Text() + "\n")
			if strings.HasPrefix(lines.Text(), "Up in ") {
				close(up)
				break
			}
		}
		_, _ = io.Copy(io.Discard, pipe)
		s.exited <- s.process.Wait()
	}()
	select {
	case <-up:
		return nil
	case err := <-s.exited:
		return fmt.Errorf("rutter up ended: %w\n%s", err, said.String())
	case <-time.After(startTime):
		return errors.Join(fmt.Errorf("rutter up is not up after %s", startTime), s.stop())
	case <-ctx.Done():
		return errors.Join(ctx.Err(), s.stop())
	}
}

// stop ends the cluster and removes all it left.
func (s *server) stop() error {
	err := s.process.Process.Signal(syscall.SIGINT)
	select {
	case <-s.exited:
	case <-time.After(time.Minute):
		err = errors.Join(err, s.process.Process.Kill())
	}
	out, downErr := exec.Command(s.rutter, append([]string{"down", "--purge"}, s.flags...)...).CombinedOutput()
	if downErr != nil {
		err = errors.Join(err, fmt.Errorf("rutter down --purge: %w\n%s", downErr, out))
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

func freePorts(n int) ([]string, error) {
	var ports []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
	return ports, nil
}
