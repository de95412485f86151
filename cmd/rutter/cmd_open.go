package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/go-logr/zerologr"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/schemas/bundle"
)

// openFlags say how a bundle is served.
type openFlags struct {
	kubeconfig, listen, output string
	check                      bool
}

func newOpen() *cobra.Command {
	var f openFlags
	c := &cobra.Command{
		Use:   "open FILE [-- COMMAND [ARGUMENT...]]",
		Short: "Serve a bundle as a read-only API",
		Long: `Open serves a file that rutter bundle has written, on this machine's loopback device, as a
Kubernetes API that can only be read: as of the bundle's end, with every instant in it
below /at/<instant>/, and its events below /history/. It needs no cluster, no etcd and no
privileges. Whoever reads the kubeconfig that it makes (0600) may ask.

With a command, that is run with KUBECONFIG set, and the bundle is closed when it ends; the
exit code is the command's. Without, the bundle is served until it is interrupted. "now" is
the bundle's end, and -5m is five minutes before it.

A file that is cut or altered is refused, with what is wrong and where. --check only looks
at the file, and says what is in it.

Exit code 0: served, or the file is good. 2: it could not be done.`,
		Example: `  rutter open outage.bundle -- kubectl get pods -A
  rutter open outage.bundle -- rutter why pod/web-5d9c7b-x2x1 -n shop
  rutter open outage.bundle --kubeconfig outage.kubeconfig &
  rutter open outage.bundle --check`,
		Args: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			switch {
			case len(args) == 0 || dash == 0:
				return errors.New("give the file, such as `rutter open outage.bundle`")
			case len(args) > 1 && dash != 1:
				return errors.New("put -- between the file and the command")
			case dash == 1 && len(args) == 1:
				return errors.New("there is no command behind --")
			default:
				return nil
			}
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runOpen(cmd, f, args[0], args[1:]) },
	}
	c.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "file to write the kubeconfig to, which is removed at the end (default: one in a temporary directory)")
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:0", "address of the loopback device")
	c.Flags().BoolVar(&f.check, "check", false, "only check the file and say what is in it")
	plainOutput(c, &f.output)
	return c
}

func runOpen(cmd *cobra.Command, f openFlags, file string, command []string) error {
	if err := checkPlain(f.output); err != nil {
		return err
	}
	if f.kubeconfig != "" {
		if err := absent(f.kubeconfig); err != nil {
			return fmt.Errorf("--kubeconfig: %w", err)
		}
	}
	b, size, err := readBundle(file)
	if err != nil {
		return err
	}
	if f.check {
		return writeBundleHeader(cmd.OutOrStdout(), f.output, file, size, b.Header)
	}
	local, err := remote.ListenLocal(f.listen)
	if err != nil {
		return fmt.Errorf("--listen %s: %w", f.listen, err)
	}
	header := b.Header
	handler, err := apiserver.OpenRecording(cmd.Context(), b, local.Address(), silence())
	if err != nil {
		return errors.Join(err, local.Close())
	}
	serve := func(ctx context.Context) error { return local.Run(ctx, handler) }
	return serving(cmd.Context(), serve, func(ctx context.Context) error {
		return withKubeconfig(local, f.kubeconfig, file, namespaceOf(header), func(config string) error {
			if len(command) > 0 {
				return runOpened(ctx, cmd, config, command)
			}
			if err := writeBundleHeader(cmd.OutOrStdout(), f.output, file, size, header); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "Serving on %s until interrupted; export KUBECONFIG=%s\n", local.URL(), config)
			<-ctx.Done()
			return nil
		})
	})
}

// readBundle reads a file.
func readBundle(path string) (*bundle.Bundle, int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	b, size, err := bundle.ReadFrom(file)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	return b, size, nil
}

// silence keeps what upstream's libraries say of a server out of a command's output.
func silence() zerolog.Logger {
	quiet := zerolog.Nop()
	klog.SetLogger(zerologr.New(&quiet))
	return quiet
}

// namespaceOf is where to look first: that of the object, or the only one there is.
func namespaceOf(h bundle.Header) string {
	switch s := h.Selection; {
	case s.Object != nil:
		return s.Object.Namespace
	case len(s.Namespaces) == 1:
		return s.Namespaces[0]
	default:
		return ""
	}
}

// withKubeconfig makes the kubeconfig while fn runs.
func withKubeconfig(local *remote.Local, config, file, namespace string, fn func(config string) error) error {
	dir, err := os.MkdirTemp("", "rutter-open-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if config == "" {
		config = filepath.Join(dir, "kubeconfig")
	}
	if config, err = filepath.Abs(config); err != nil {
		return err
	}
	if err := clientcmd.WriteToFile(*local.Kubeconfig(filepath.Base(file), namespace), config); err != nil { // makes it with 0600
		return err
	}
	return errors.Join(fn(config), os.Remove(config))
}

// runOpened runs a command that sees the bundle. "rutter" is this program, whatever else
// has the name.
func runOpened(ctx context.Context, cmd *cobra.Command, config string, command []string) error {
	if command[0] == cmd.Root().Name() {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		command = append([]string{self}, command[1:]...)
	}
	code, err := runWith(ctx, cmd, []string{"KUBECONFIG=" + config, "KUBECACHEDIR=" + filepath.Join(filepath.Dir(config), "cache")}, command, cmd.OutOrStdout())
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", command[0], err)
	case code != 0:
		return exitCode(code)
	default:
		return nil
	}
}
