package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
)

func newAt(cfg *standalone.Config) *cobra.Command {
	o := operator{cluster: cfg}
	c := &cobra.Command{
		Use:   "at INSTANT -- COMMAND [ARGUMENT...]",
		Short: "Run a command against the cluster as it was",
		Long: `At runs a command whose KUBECONFIG leads to the cluster as it was at an instant. A local
listener serves it without a path, with your credentials, as long as the command runs; so
it works for tools that can't have a path in a server's URL. The past can only be read.

Flags of at come before the INSTANT, which is ` + past.Forms + `.

The exit code is the command's, or 2 if it could not be run. RUTTER_INSTANT in its
environment is the revision, such as rev-1234.`,
		Example: `  rutter at -10m -- kubectl get pods -A
  rutter at 2026-01-02T03:04:05Z -- helm list -A
  rutter at --context prod rev-1234 -- k9s`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 || (args[1] == "--" && len(args) < 3) {
				return errors.New("give an instant and a command, such as `rutter at -10m -- kubectl get pods`")
			}
			if args[1] != "--" && strings.HasPrefix(args[1], "-") {
				return fmt.Errorf("%q stands where the command should; flags of at come before the instant", args[1])
			}
			return nil
		},
		ValidArgsFunction: completer{cfg}.instant,
		RunE:              func(cmd *cobra.Command, args []string) error { return runAt(cmd, o, args) },
	}
	o.serverFlags(c)
	c.Flags().SetInterspersed(false)
	return c
}

func runAt(cmd *cobra.Command, o operator, args []string) error {
	instant, command := args[0], args[1:]
	if command[0] == "--" {
		command = command[1:]
	}
	if _, err := past.ParseInstant(instant, time.Now()); err != nil {
		return err
	}
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close()
	at, err := resolve(cmd, s, "at", instant)
	if err != nil {
		return err
	}
	w, err := s.OpenWindow(at.Text())
	if err != nil {
		return err
	}
	return withWindow(cmd.Context(), w, func(ctx context.Context) error {
		code, err := runIn(ctx, cmd, w, at.Text(), command, cmd.OutOrStdout())
		if err == nil && code != 0 {
			err = exitCode(code)
		}
		return err
	})
}

// withWindow serves a window while fn runs.
func withWindow(ctx context.Context, w *remote.Window, fn func(ctx context.Context) error) error {
	return serving(ctx, w.Run, fn)
}

// serving runs a server while fn runs.
func serving(ctx context.Context, serve, fn func(ctx context.Context) error) error {
	open, stop := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- serve(open) }()
	err := fn(ctx)
	stop()
	return errors.Join(err, <-served)
}

// endGrace is how long a command may take to end when it is asked to.
const endGrace = 10 * time.Second

// runIn runs a command that sees the window and returns its exit code. Caches of clients
// are its own: they know servers by address, and this one's is used for many instants.
func runIn(ctx context.Context, cmd *cobra.Command, w *remote.Window, instant string, command []string, stdout io.Writer) (int, error) {
	dir, err := os.MkdirTemp("", "rutter-at-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	config := filepath.Join(dir, "kubeconfig")
	if err := clientcmd.WriteToFile(*w.Kubeconfig(), config); err != nil { // makes it with 0600
		return 0, err
	}
	code, err := runWith(ctx, cmd, []string{"KUBECONFIG=" + config, "KUBECACHEDIR=" + filepath.Join(dir, "cache"), "RUTTER_INSTANT=" + instant}, command, stdout)
	if err != nil {
		return 0, fmt.Errorf("%s at %s: %w", command[0], instant, err)
	}
	return code, nil
}

var errInterrupted = errors.New("interrupted")

// runWith runs a command with additions to the environment and returns its exit code.
func runWith(ctx context.Context, cmd *cobra.Command, env, command []string, stdout io.Writer) (int, error) {
	run := exec.CommandContext(ctx, command[0], command[1:]...)
	run.Env = append(os.Environ(), env...)
	run.Stdin, run.Stdout, run.Stderr = cmd.InOrStdin(), stdout, cmd.ErrOrStderr()
	run.Cancel = func() error { return run.Process.Signal(unix.SIGTERM) }
	run.WaitDelay = endGrace
	err := run.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case ctx.Err() != nil:
		return 0, errInterrupted
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), nil
	default:
		return 0, err
	}
}

// positionalAgo lets `rutter at -10m` through the parser of flags, which would take the
// instant for one: "10m" means the same.
func positionalAgo(args []string) []string {
	begin := slices.Index(args, "at")
	if begin < 0 {
		return args
	}
	for i := begin + 1; i < len(args) && args[i] != "--"; i++ {
		if at, err := past.ParseInstant(args[i], time.Now()); err == nil && at.Relative && !strings.HasPrefix(args[i-1], "-") {
			args = slices.Clone(args)
			args[i] = strings.TrimPrefix(args[i], "-")
			break
		}
	}
	return args
}
