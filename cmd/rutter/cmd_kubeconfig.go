package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
)

func newKubeconfig(cfg *standalone.Config) *cobra.Command {
	var merge bool
	c := &cobra.Command{
		Use:     "kubeconfig",
		Short:   "Print the administrator's kubeconfig, or merge it into yours",
		Example: "  kubectl --kubeconfig <(rutter kubeconfig) get nodes\n  rutter kubeconfig --merge",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if merge {
				path := userKubeconfig()
				if err := cfg.MergeKubeconfig(path); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "Merged into %s.\n", path)
				return nil
			}
			data, err := os.ReadFile(cfg.Kubeconfig())
			if err != nil {
				return fmt.Errorf("no cluster was started on %s yet: %w", cfg.DataDir, err)
			}
			_, err = cmd.OutOrStdout().Write(data)
			return err
		},
	}
	c.Flags().BoolVar(&merge, "merge", false, "add the context to your kubeconfig instead of printing")
	return c
}
