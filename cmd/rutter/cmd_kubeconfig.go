package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
)

func newKubeconfig(cfg *standalone.Config) *cobra.Command {
	o := operator{cluster: cfg}
	var merge bool
	var at, output string
	c := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the administrator's kubeconfig, or one of the past, or merge it into yours",
		Long: `Kubeconfig prints the administrator's kubeconfig of this machine's cluster. With --at it
prints one whose context leads to the cluster as it was at an instant, with your own
credentials; the context is called <cluster>@<instant>. A relative instant becomes a
time.

--merge adds it to your kubeconfig and never changes a context that leads elsewhere.

Exit code 0: printed or merged. 2: it could not be done.`,
		Example: `  kubectl --kubeconfig <(rutter kubeconfig) get nodes
  rutter kubeconfig --merge
  rutter kubeconfig --at 2026-01-02T03:04:05Z --merge && kubectl --context prod@2026-01-02T03:04:05Z get pods`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case !slices.Contains(kubeconfigForms, output):
				return fmt.Errorf("--output %q: want %s", output, strings.Join(kubeconfigForms, ", "))
			case at != "":
				return kubeconfigAt(cmd, o, at, output, merge)
			case o.kubeconfig != "" || o.context != "":
				return fmt.Errorf("--kubeconfig and --context only go with --at")
			case merge:
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
			return writeKubeconfig(cmd.OutOrStdout(), output, data)
		},
	}
	o.serverFlags(c)
	c.Flags().StringVar(&at, "at", "", "of the cluster as it was at this instant: "+past.Forms)
	c.Flags().StringVarP(&output, "output", "o", "yaml", strings.Join(kubeconfigForms, ", "))
	complete(c, "output", kubeconfigForms)
	c.Flags().BoolVar(&merge, "merge", false, "add the context to your kubeconfig instead of printing")
	return c
}

// kubeconfigForms are those in which clients read kubeconfigs.
var kubeconfigForms = []string{"yaml", "json"}

func writeKubeconfig(w io.Writer, form string, data []byte) error {
	if form == "json" {
		text, err := yaml.YAMLToJSON(data)
		if err != nil {
			return err
		}
		return writeJSON(w, json.RawMessage(text))
	}
	_, err := w.Write(data)
	return err
}

// kubeconfigAt makes a kubeconfig of the past.
func kubeconfigAt(cmd *cobra.Command, o operator, text, output string, merge bool) error {
	asked, err := past.ParseInstant(text, time.Now())
	if err != nil {
		return fmt.Errorf("--at %w", err)
	}
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close()
	at, err := resolve(cmd, s, "--at", text)
	if err != nil {
		return err
	}
	if asked.Relative { // a name must mean the same tomorrow
		text = pastClock.text(at.Time)
	}
	own := s.KubeconfigAt(s.Cluster()+"@"+text, at.Text())
	if !merge {
		data, err := clientcmd.Write(*own)
		if err != nil {
			return err
		}
		return writeKubeconfig(cmd.OutOrStdout(), output, data)
	}
	path := userKubeconfig()
	if err := standalone.AddToKubeconfig(path, own, func(there *clientcmdapi.Config) error { return unclobbered(there, own) }); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "Merged into %s. Use it: kubectl --context %s\n", path, own.CurrentContext)
	return nil
}

// unclobbered refuses to change a context that leads elsewhere.
func unclobbered(there, own *clientcmdapi.Config) error {
	name := own.CurrentContext
	cluster, context, user := there.Clusters[name], there.Contexts[name], there.AuthInfos[name]
	if cluster == nil && context == nil && user == nil {
		return nil
	}
	if cluster != nil && context != nil && context.Cluster == name && context.AuthInfo == name && cluster.Server == own.Clusters[name].Server {
		return nil
	}
	return fmt.Errorf("%q is there already and leads elsewhere; remove it with `kubectl config delete-context`, `delete-cluster` and `delete-user`", name)
}
