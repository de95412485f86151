// Package cluster drives the built rutter binary and stock kubectl the way a user does.
// It knows Rutter only from outside: commands, files, exit codes.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Cluster is one data directory with its ports. Start may be called again after Stop
// or Kill.
type Cluster struct {
	t          testing.TB
	rutter     string
	kubectl    string
	Dir        string // data directory
	Run        string // run directory
	Node       string
	API, Bus   int
	NodePort   int
	server     *Server // nil while it does not run
	output     *output
	extraFlags []string
}

// New prepares a cluster of its own and removes it when the test ends. It skips only
// without root.
func New(t testing.TB, flags ...string) *Cluster {
	t.Helper()
	if uid := os.Geteuid(); uid != 0 {
		t.Skipf("not root: uid=%d", uid)
	}
	dir, err := os.MkdirTemp("", "rutter-it-")
	if err != nil {
		t.Fatal(err)
	}
	ports, err := FreePorts(3)
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{
		t: t, rutter: Binary(t, "RUTTER_BIN", "rutter"), kubectl: Binary(t, "KUBECTL_BIN", "kubectl"),
		Dir: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run"), Node: "it-" + strconv.Itoa(os.Getpid()),
		API: ports[0], Bus: ports[1], NodePort: ports[2], extraFlags: flags,
	}
	t.Cleanup(func() {
		if c.server != nil {
			c.Kill()
		}
		if t.Failed() {
			t.Logf("log of the cluster:\n%s", tail(filepath.Join(c.Dir, "log", "rutter.log"), 60))
		}
		if out, err := c.Rutter("down", "--purge", "--node-name", c.Node); err != nil {
			t.Errorf("down --purge: %v\n%s", err, out)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Binary finds a program that the task runner built: at the path that a variable names, or
// in bin.
func Binary(t testing.TB, env, name string) string {
	t.Helper()
	path := os.Getenv(env)
	if path == "" {
		root, err := exec.Command("go", "env", "GOMOD").Output()
		if err != nil {
			t.Fatal(err)
		}
		path = filepath.Join(filepath.Dir(strings.TrimSpace(string(root))), "bin", name)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is not built; run `./task build tools` or set %s: %v", name, env, err)
	}
	return path
}

func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// UpArgs are the arguments that Start gives to rutter.
func (c *Cluster) UpArgs() []string {
	return append([]string{"up", "--data-dir", c.Dir, "--run-dir", c.Run, "--node-name", c.Node,
		"--api-port", strconv.Itoa(c.API), "--bus-port", strconv.Itoa(c.Bus), "--node-port", strconv.Itoa(c.NodePort), "--log-level", "info"}, c.extraFlags...)
}

// UpFlags are given to rutter from the next Start on, in place of those of New.
func (c *Cluster) UpFlags(flags ...string) { c.extraFlags = flags }

// Start runs `rutter up` and returns when it says how to use the cluster.
func (c *Cluster) Start() {
	c.t.Helper()
	server, err := Start(context.Background(), c.rutter, c.UpArgs())
	if server != nil {
		c.server, c.output = server, server.output
	}
	if err != nil {
		c.t.Fatalf("%v\n%s", err, tail(filepath.Join(c.Dir, "log", "rutter.log"), 40))
	}
}

// PID is the process of the running cluster.
func (c *Cluster) PID() int { return c.server.PID() }

// Program is the rutter binary.
func (c *Cluster) Program() string { return c.rutter }

// Output is what `rutter up` has printed.
func (c *Cluster) Output() string { return c.output.String() }

// Stop interrupts the cluster as Ctrl-C does and returns how it ended.
func (c *Cluster) Stop() error { return c.end(syscall.SIGINT) }

// Kill ends the process without giving it a chance.
func (c *Cluster) Kill() { _ = c.end(syscall.SIGKILL) }

func (c *Cluster) end(signal syscall.Signal) error {
	c.t.Helper()
	server := c.server
	c.server = nil
	return server.End(signal)
}

// Rutter runs a rutter command on this cluster and returns its output.
func (c *Cluster) Rutter(args ...string) (string, error) {
	args = append(args, "--data-dir", c.Dir, "--run-dir", c.Run)
	return c.run(nil, c.rutter, args...)
}

// RutterBus is Rutter for commands that read the bus itself.
func (c *Cluster) RutterBus(args ...string) (string, error) {
	return c.Rutter(append(args, "--bus-port", strconv.Itoa(c.Bus))...)
}

// Tap runs `rutter tap` until stop is called, which returns what it printed.
func (c *Cluster) Tap(args ...string) (stop func() string) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	args = append([]string{"tap", "--kubeconfig", c.Kubeconfig()}, args...)
	cmd := exec.CommandContext(ctx, c.rutter, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	return func() string {
		cancel()
		_ = cmd.Wait() // it was interrupted
		return out.String()
	}
}

// Kubeconfig is the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.Dir, "admin.kubeconfig") }

// Kubectl runs kubectl and fails the test if it does not succeed.
func (c *Cluster) Kubectl(args ...string) string {
	c.t.Helper()
	out, err := c.TryKubectl("", args...)
	if err != nil {
		c.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Apply applies a manifest.
func (c *Cluster) Apply(manifest string) string {
	c.t.Helper()
	out, err := c.TryKubectl(manifest, "apply", "-f", "-")
	if err != nil {
		c.t.Fatalf("kubectl apply: %v\n%s\n%s", err, out, manifest)
	}
	return out
}

// TryKubectl runs kubectl with an input.
func (c *Cluster) TryKubectl(stdin string, args ...string) (string, error) {
	return c.run(strings.NewReader(stdin), c.kubectl, append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
}

// Terminal runs kubectl on a terminal of its own, which script(1) makes.
func (c *Cluster) Terminal(args ...string) string {
	c.t.Helper()
	line := []string{c.kubectl, "--kubeconfig", c.Kubeconfig()}
	for _, a := range args {
		line = append(line, "'"+a+"'")
	}
	out, err := c.run(nil, "script", "-qec", strings.Join(line, " "), "/dev/null")
	if err != nil {
		c.t.Fatalf("kubectl %s on a terminal: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Background starts kubectl and returns it running; the test ends it.
func (c *Cluster) Background(args ...string) (*exec.Cmd, io.Reader) {
	c.t.Helper()
	cmd := exec.Command(c.kubectl, append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
	cmd.Env = c.env()
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, out
}

func (c *Cluster) env() []string {
	return append(os.Environ(), "HOME="+filepath.Dir(c.Dir), "KUBECONFIG=")
}

const commandTimeout = 3 * time.Minute

func (c *Cluster) run(stdin io.Reader, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = c.env()
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("no end after %s: %w", commandTimeout, ctx.Err())
	}
	return string(out), err
}

// RutterAs runs a rutter command with exactly these arguments as another user.
func (c *Cluster) RutterAs(uid uint32, args ...string) (string, error) {
	dir, err := os.MkdirTemp("", "rutter-it-as-") // the checkout may be closed to others
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	program, err := os.ReadFile(c.rutter)
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "rutter"), program, 0o755))
	}
	if err != nil {
		return "", err
	}
	cmd := exec.Command(filepath.Join(dir, "rutter"), args...)
	cmd.Env, cmd.Dir = c.env(), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TryRutter runs a rutter command with exactly these arguments.
func (c *Cluster) TryRutter(args ...string) (string, error) { return c.run(nil, c.rutter, args...) }
