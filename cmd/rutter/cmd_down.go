package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
)

// stopPatience is how long a cluster may take to stop.
const stopPatience = time.Minute

func newDown(cfg *standalone.Config) *cobra.Command {
	var purge bool
	c := &cobra.Command{
		Use:   "down",
		Short: "Stop the cluster of this machine, and remove it with --purge",
		Long: `Down stops the cluster that runs on the data directory; state is kept and pods keep
running, as after Ctrl-C.

With --purge everything the cluster made is removed: containers, network namespaces,
mounts, BPF programs and maps, cgroups, and the data directory.

Exit code 0: it is down. 2: it could not be stopped or removed.`,
		Example: "  rutter down\n  rutter down --purge --node-name worker-1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), stopPatience)
			defer cancel()
			was, err := standalone.Stop(ctx, *cfg)
			if err != nil {
				return err
			}
			if was {
				fmt.Fprintln(cmd.OutOrStdout(), "Stopped.")
			}
			if !purge {
				return nil
			}
			if err := standalone.Purge(cmd.Context(), *cfg); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Removed everything in %s and %s.\n", cfg.DataDir, cfg.RunDir)
			return nil
		},
	}
	c.Flags().BoolVar(&purge, "purge", false, "remove everything the cluster made on this machine")
	c.Flags().StringVar(&cfg.NodeName, "node-name", cfg.NodeName, "name of this machine's node")
	return c
}
