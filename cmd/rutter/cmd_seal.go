package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

func newSeal(cfg *standalone.Config) *cobra.Command {
	c := &cobra.Command{
		Use:   "seal",
		Short: "Change the key that Secrets are encrypted with",
		Long: `Secrets are encrypted before etcd, the event stream and the history see them. The key file,
pki/seal.key in the data directory, holds the present key and the former ones, which still
open what they sealed. Keys are called by the beginning of a digest.`,
	}
	c.AddCommand(newSealStatus(cfg), newSealRotate(cfg), newSealForget(cfg))
	return c
}

func newSealStatus(cfg *standalone.Config) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "status", Short: "Show the keys and how many Secrets each of them seals",
		Long: `Status lists the keys of the key file and of the Secrets in etcd, with how many Secrets each
seals. It needs a running cluster on this machine.

Exit code 0: shown. 2: it could not be done.`,
		Example: "  rutter seal status\n  rutter seal status -o json | jq '.[] | select(.state == \"former\").key'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkPlain(output); err != nil {
				return err
			}
			s, err := readSealing(cmd.Context(), *cfg)
			if err != nil {
				return err
			}
			return writeSealing(cmd.OutOrStdout(), output, sealingRows(s))
		},
	}
	plainOutput(c, &output)
	return c
}

func newSealRotate(cfg *standalone.Config) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "rotate", Short: "Make a new key and seal all Secrets with it",
		Long: `Rotate makes a new key, with which the API server seals from then on, and writes every Secret
anew, unchanged, so that none is left under a former key. It needs a running cluster, and may
be repeated when it was interrupted. Former keys stay in the file, because the history needs
them: see "rutter seal forget".

Exit code 0: all Secrets are sealed with the new key. 1: some are not. 2: it could not be done.`,
		Example: "  rutter seal rotate && rutter seal status",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkPlain(output); err != nil {
				return err
			}
			return sealRotate(cmd, *cfg, output)
		},
	}
	plainOutput(c, &output)
	return c
}

func newSealForget(cfg *standalone.Config) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "forget KEY", Short: "Destroy a former key",
		Long: `Forget takes a former key out of the key file. Secrets of the past that it sealed never open
again: whoever asks for them at an instant gets an error, at the latest after the API server
is started again, for it remembers what it has opened. Forget refuses while a Secret of the
present is sealed with the key. Copies of the file in backups are yours to destroy.

Exit code 0: the key is gone. 2: it could not be done.`,
		Example: "  rutter seal status\n  rutter seal forget 1f2e3d4c5b6a",
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
			defer cancel()
			s, err := readSealing(ctx, *cfg)
			if err != nil || len(args) > 0 || len(s.Keys) == 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return s.Keys[1:], cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkPlain(output); err != nil {
				return err
			}
			return sealForget(cmd, *cfg, args[0], output)
		},
	}
	plainOutput(c, &output)
	return c
}

// readSealing reads etcd and the key file of this machine's cluster.
func readSealing(ctx context.Context, cfg standalone.Config) (apiserver.Sealing, error) {
	etcd, err := standalone.Etcd(cfg)
	if err != nil {
		return apiserver.Sealing{}, err
	}
	defer etcd.Close()
	return apiserver.ReadSealing(ctx, etcd, cfg.SealFile())
}

// sealingRow is a key in JSON and YAML.
type sealingRow struct {
	Key     string `json:"key"`
	State   string `json:"state"`
	Secrets int    `json:"secrets"`
}

// sealingRows are the keys of the file, and what Secrets name besides.
func sealingRows(s apiserver.Sealing) []sealingRow {
	rows := []sealingRow{}
	for i, key := range s.Keys {
		state := "former"
		if i == 0 {
			state = "present"
		}
		rows = append(rows, sealingRow{key, state, len(s.Secrets[key])})
	}
	for _, key := range slices.Sorted(maps.Keys(s.Secrets)) {
		if slices.Contains(s.Keys, key) {
			continue
		}
		state := "not in the file"
		switch key {
		case apiserver.NotSealed:
			state = "not sealed"
		case apiserver.SealedUnnamed:
			state = "one of these"
		}
		rows = append(rows, sealingRow{key, state, len(s.Secrets[key])})
	}
	return rows
}

func writeSealing(out io.Writer, form string, rows []sealingRow) error {
	switch form {
	case "json":
		return writeJSON(out, rows)
	case "yaml":
		return writeYAML(out, rows)
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "KEY\tSTATE\tSECRETS")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%d\n", r.Key, r.State, r.Secrets)
	}
	return w.Flush()
}

// sealPatience bounds how long the API server may take to seal a Secret with a new key.
const sealPatience = 30 * time.Second

func sealRotate(cmd *cobra.Command, cfg standalone.Config, output string) error {
	ctx := cmd.Context()
	client, err := adminClient(cfg)
	if err != nil {
		return err
	}
	if _, err := client.Discovery().ServerVersion(); err != nil {
		return fmt.Errorf("the API server must run to seal Secrets anew: %w", err)
	}
	before, err := readSealing(ctx, cfg)
	if err != nil {
		return err
	}
	key := before.Keys[0]
	if len(before.Keys) == 1 || len(before.Outdated()) == 0 { // otherwise an earlier rotation goes on
		if key, err = apiserver.RotateSealing(cfg.SealFile()); err != nil {
			return err
		}
	}
	for _, secrets := range before.Secrets {
		for _, s := range secrets {
			if err := writeAgain(ctx, client, s); err != nil {
				return fmt.Errorf("seal secret %s/%s anew: %w", s.Namespace, s.Name, err)
			}
		}
	}
	after, err := readSealing(ctx, cfg)
	if err != nil {
		return err
	}
	if output == "table" {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "Key %s seals %d Secrets.\n", key, len(after.Secrets[key]))
	} else {
		err = writeSealing(cmd.OutOrStdout(), output, sealingRows(after))
	}
	if err != nil {
		return err
	}
	if left := after.Outdated(); len(left) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d Secrets are still sealed with a former key, %s/%s among them.\n", len(left), left[0].Namespace, left[0].Name)
		return errFound
	}
	return nil
}

// writeAgain writes a Secret as it is, which seals it with the present key. Whoever writes
// it meanwhile has done the same.
func writeAgain(ctx context.Context, client kubernetes.Interface, key schemas.Key) error {
	ctx, cancel := context.WithTimeout(ctx, sealPatience)
	defer cancel()
	secret, err := client.CoreV1().Secrets(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if err == nil {
		_, err = client.CoreV1().Secrets(key.Namespace).Update(ctx, secret, metav1.UpdateOptions{FieldManager: "rutter-seal"})
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func sealForget(cmd *cobra.Command, cfg standalone.Config, key, output string) error {
	s, err := readSealing(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	inUse := s.Secrets[key]
	if len(inUse) == 0 {
		inUse = s.Secrets[apiserver.SealedUnnamed] // any key may have sealed these
	}
	if len(inUse) > 0 {
		return fmt.Errorf("%d Secrets may be sealed with key %s, %s/%s among them; run `rutter seal rotate` first", len(inUse), key, inUse[0].Namespace, inUse[0].Name)
	}
	if err := apiserver.ForgetSealing(cfg.SealFile(), key); err != nil {
		return err
	}
	if output != "table" {
		return writeSealing(cmd.OutOrStdout(), output, []sealingRow{{Key: key, State: "forgotten"}})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "Key %s is gone from %s.\n", key, cfg.SealFile())
	return err
}

func adminClient(cfg standalone.Config) (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("no cluster was started on %s yet", cfg.DataDir), err)
	}
	config.QPS, config.UserAgent = -1, "rutter-seal"
	return kubernetes.NewForConfig(config)
}
