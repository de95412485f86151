// Command rutter runs a Rutter cluster and reads its history.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
)

// Exit codes: 0 as asked, 1 the answer is no (verify found something), 2 it could not
// be done.
const (
	exitFound  = 1
	exitFailed = 2
)

// exitCode makes the process exit as a command did that it ran.
type exitCode int

// Error implements error.
func (c exitCode) Error() string { return fmt.Sprintf("the command exited with %d", int(c)) }

// errFound makes the process exit with exitFound.
var errFound = errors.New("found")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program but for the process: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	args = positionalAgo(args)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := checkGroup(root, args)
	if err == nil {
		err = root.ExecuteContext(ctx)
	}
	var child exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &child):
		return int(child)
	case errors.Is(err, errFound):
		return exitFound
	default:
		fmt.Fprintln(stderr, "rutter:", err)
		return exitFailed
	}
}

// checkGroup refuses what is no command of a group, such as `rutter history nosuch`, for
// which cobra would print help and be content.
func checkGroup(root *cobra.Command, args []string) error {
	c, rest, err := root.Find(args)
	if err != nil || c == root || c.Runnable() || len(rest) == 0 || strings.HasPrefix(rest[0], "-") {
		return nil //nolint:nilerr // Execute says it
	}
	return fmt.Errorf("unknown command %q for %q", rest[0], c.CommandPath())
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "rutter",
		Short:         "An event-sourced Kubernetes",
		Long:          "Rutter is a Kubernetes cluster whose every change is an event that can be tapped live,\nreplayed, and looked up later: what changed, when, by whom, and because of what.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cfg := standalone.DefaultConfig()
	root.PersistentFlags().StringVar(&cfg.DataDir, "data-dir", cfg.DataDir, "where the cluster keeps its state")
	root.PersistentFlags().StringVar(&cfg.RunDir, "run-dir", cfg.RunDir, "where the cluster keeps sockets and namespaces")
	root.AddCommand(
		newUp(&cfg), newDown(&cfg), newKubeconfig(&cfg), newTap(&cfg), newExport(&cfg), newVerify(&cfg), newSeal(&cfg), newVersion(),
		newLog(&cfg), newDiff(&cfg), newBlame(&cfg), newWhy(&cfg), newAt(&cfg), newBisect(&cfg), newHistory(&cfg),
		newMark(&cfg), newRestore(&cfg), newBundle(&cfg), newOpen(), newStatus(&cfg), newCheck(&cfg), newTop(&cfg),
	)
	completer{&cfg}.register(root)
	return root
}

// portFlags are the ports of up and of the commands that talk to it.
func portFlags(c *cobra.Command, cfg *standalone.Config) {
	c.Flags().Uint16Var(&cfg.APIPort, "api-port", cfg.APIPort, "TCP port of the API server")
	c.Flags().Uint16Var(&cfg.BusPort, "bus-port", cfg.BusPort, "TCP port of the event bus (NATS)")
	c.Flags().Uint16Var(&cfg.NodePort, "node-port", cfg.NodePort, "TCP port of the node agent")
}
