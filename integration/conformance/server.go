package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/rutter-project/rutter/integration/cluster"
)

// server is the cluster under test.
type server struct {
	*cluster.Server

	kubeconfig  string
	rutter, dir string
	flags       []string
}

const nodeName = "conformance"

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
	ports, err := cluster.FreePorts(3)
	if err != nil {
		return nil, err
	}
	s := &server{
		rutter: rutter, dir: dir,
		flags:      []string{"--data-dir", filepath.Join(dir, "data"), "--run-dir", filepath.Join(dir, "run"), "--node-name", nodeName},
		kubeconfig: filepath.Join(dir, "data", "admin.kubeconfig"),
	}
	args := []string{"up", "--api-port", strconv.Itoa(ports[0]), "--bus-port", strconv.Itoa(ports[1]), "--node-port", strconv.Itoa(ports[2])}
	if s.Server, err = cluster.Start(ctx, rutter, append(args, s.flags...)); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// stop ends the cluster and removes all it left.
func (s *server) stop() error {
	var err error
	if s.Server != nil {
		err = s.End(syscall.SIGINT)
	}
	out, downErr := exec.Command(s.rutter, append([]string{"down", "--purge"}, s.flags...)...).CombinedOutput()
	if downErr != nil {
		err = errors.Join(err, fmt.Errorf("rutter down --purge: %w\n%s", downErr, out))
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
