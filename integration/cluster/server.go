package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startTimeout is generous: what is measured is measured by benchmarks.
const startTimeout = 2 * time.Minute

// Server is one running `rutter up`.
type Server struct {
	process *exec.Cmd
	exited  chan error
	output  *output
}

// output keeps what the process printed.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (o *output) add(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.WriteString(line + "\n")
}

// String is everything printed so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Start runs `rutter up` with these arguments and returns when it says how to use the
// cluster. The server is there even with an error, unless the program has ended.
func Start(ctx context.Context, program string, args []string) (*Server, error) {
	s := &Server{process: exec.Command(program, args...), exited: make(chan error, 1), output: &output{}}
	s.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := s.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.process.Stderr = s.process.Stdout
	if err := s.process.Start(); err != nil {
		return nil, err
	}
	up := make(chan struct{})
	go s.read(pipe, up)
	select {
	case <-up:
		return s, nil
	case err := <-s.exited:
		return nil, fmt.Errorf("rutter up ended: %w\n%s", err, s.output)
	case <-time.After(startTimeout):
		return s, fmt.Errorf("rutter up is not up after %s\n%s", startTimeout, s.output)
	case <-ctx.Done():
		return s, ctx.Err()
	}
}

// PID is its process.
func (s *Server) PID() int { return s.process.Process.Pid }

// read takes what up prints until its end, so that it can go on printing.
func (s *Server) read(pipe io.Reader, up chan struct{}) {
	var once sync.Once
	lines := bufio.NewScanner(pipe)
	for lines.Scan() {
		s.output.add(lines.Text())
		if strings.HasPrefix(lines.Text(), "Up in ") {
			once.Do(func() { close(up) })
		}
	}
	_, _ = io.Copy(io.Discard, pipe)
	s.exited <- s.process.Wait()
}

// End sends a signal and waits for the end, which it returns. After a minute it kills.
func (s *Server) End(signal syscall.Signal) error {
	if err := s.process.Process.Signal(signal); err != nil {
		return err
	}
	select {
	case err := <-s.exited:
		return err
	case <-time.After(time.Minute):
		return errors.Join(fmt.Errorf("rutter has not ended a minute after %s", signal), s.process.Process.Kill(), <-s.exited)
	}
}

const (
	// lowestPort and highestPort bound what FreePorts gives: below them are the ports of
	// services known by number, above them node ports of Services and the ports that the
	// kernel gives to whoever connects.
	lowestPort, highestPort = 12000, 29999
	portTries               = 1000
)

// FreePorts returns ports of the loopback interface that nobody listens on, all different.
// The kernel hands none of them to an outgoing connection before they are used.
func FreePorts(n int) ([]int, error) {
	var ports []int
	for range portTries {
		if len(ports) == n {
			return ports, nil
		}
		port := lowestPort + rand.IntN(highestPort-lowestPort+1)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		defer l.Close() // held until all are found, so that none comes twice
		ports = append(ports, port)
	}
	return nil, fmt.Errorf("no %d free ports from %d to %d in %d tries", n, lowestPort, highestPort, portTries)
}
