package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
)

func newUp(cfg *standalone.Config) *cobra.Command {
	var address string
	var merge bool
	c := &cobra.Command{
		Use:   "up",
		Short: "Run a cluster on this machine",
		Long: `Up runs a whole cluster in this process: etcd, NATS JetStream, API server,
reconcilers, scheduler and a node. It needs root, containerd and runc.

Ctrl-C stops it; state is kept and pods keep running. Up again goes on where it was. What
this machine lacks to run it is for rutter check host.

Exit code 0: it was stopped. 2: it could not be started, or a part of it has failed.`,
		Example: `  rutter up
  rutter up --merge                 # also add the context "rutter" to ~/.kube/config
  rutter up --no-node               # API, reconcilers and scheduler only; needs no root
  rutter up --api-only              # the API and its events: nothing acts on objects`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if address != "" {
				parsed, err := netip.ParseAddr(address)
				if err != nil {
					return fmt.Errorf("--address %q is not an IP address: %w", address, err)
				}
				cfg.Address = parsed
			}
			cfg.NoNode = cfg.NoNode || cfg.APIOnly
			cfg.Flags = map[string]string{}
			cmd.Flags().VisitAll(func(f *pflag.Flag) { cfg.Flags[f.Name] = f.Value.String() })
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "Rutter %s\n", build().Version)
			err := standalone.New(*cfg, standalone.NewProgress(out)).Run(cmd.Context(), func(p *standalone.Progress) {
				fmt.Fprintf(out, "Up in %s. Use it:\n\n    export KUBECONFIG=%s\n    kubectl get nodes\n    rutter tap\n\nCtrl-C stops the cluster and keeps its state; pods keep running.\n", p.Total(), cfg.Kubeconfig())
				if merge {
					fmt.Fprintln(out, mergeKubeconfig(cfg))
				}
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "Stopped. State is in %s; `rutter down --purge` removes it.\n", cfg.DataDir)
			return nil
		},
	}
	portFlags(c, cfg)
	accessFlags(c, &cfg.Access)
	servingFlags(c, &cfg.Serving)
	c.Flags().StringVar(&cfg.Name, "name", cfg.Name, "name of the cluster, and of its kubeconfig context")
	c.Flags().StringVar(&cfg.NodeName, "node-name", cfg.NodeName, "name of this machine's node")
	c.Flags().StringVar(&address, "address", "", "address of this machine that pods can reach (default: found)")
	c.Flags().BoolVar(&cfg.NoNode, "no-node", false, "leave out the node: no pods run, no root is needed")
	c.Flags().BoolVar(&cfg.APIOnly, "api-only", false, "leave out node, reconcilers and scheduler: nothing acts on objects")
	c.Flags().BoolVar(&cfg.KeepMemory, "keep-memory", false, "keep what a burst of requests used for the next one instead of giving it back: about twice the memory, and the next burst takes less processor time")
	c.Flags().BoolVar(&merge, "merge", false, "add the cluster's context to your kubeconfig")
	c.Flags().StringVar(&cfg.LogLevel, "log-level", cfg.LogLevel, "debug, info, warn or error, for the log file in the data directory")
	return c
}

// mergeKubeconfig merges and tells how it went; the cluster runs either way.
func mergeKubeconfig(cfg *standalone.Config) string {
	path := userKubeconfig()
	if err := cfg.MergeKubeconfig(path); err != nil {
		return "The context could not be merged: " + err.Error()
	}
	return fmt.Sprintf("Merged context %q into %s.", cfg.Name, path)
}

// userKubeconfig is the file kubectl would write to.
func userKubeconfig() string {
	if list := filepath.SplitList(os.Getenv(clientcmd.RecommendedConfigPathEnvVar)); len(list) > 0 {
		return list[0]
	}
	return clientcmd.RecommendedHomeFile
}
