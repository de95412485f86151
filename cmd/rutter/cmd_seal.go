package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	c.AddCommand(
		&cobra.Command{
			Use: "status", Short: "Show the keys and how many Secrets each of them seals", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return sealStatus(cmd, *cfg) },
		},
		&cobra.Command{
			Use: "rotate", Short: "Make a new key and seal all Secrets with it",
			Long: `Rotate makes a new key, with which the API server seals from then on, and writes every Secret
anew, unchanged, so that none is left under a former key. It needs a running cluster, and may
be repeated when it was interrupted. Former keys stay in the file, because the history needs
them: see "rutter seal forget".

Exit code 0: all Secrets are sealed with the new key. 1: some are not. 2: it could not be done.`,
			Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return sealRotate(cmd, *cfg) },
		},
		&cobra.Command{
			Use: "forget KEY", Short: "Destroy a former key",
			Long: `Forget takes a former key out of the key file. Secrets of the past that it sealed never open
again: whoever asks for them at an instant gets an error, at the latest after the API server
is started again, for it remembers what it has opened. Forget refuses while a Secret of the
present is sealed with the key. Copies of the file in backups are yours to destroy.`,
			Example: "  rutter seal status\n  rutter seal forget 1f2e3d4c5b6a",
			Args:    cobra.ExactArgs(1),
			RunE:    func(cmd *cobra.Command, args []string) error { return sealForget(cmd, *cfg, args[0]) },
		},
	)
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

func sealStatus(cmd *cobra.Command, cfg standalone.Config) error {
	s, err := readSealing(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	return writeSealing(cmd.OutOrStdout(), s)
}

func writeSealing(out io.Writer, s apiserver.Sealing) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "KEY\tSTATE\tSECRETS")
	for i, key := range s.Keys {
		state := "former"
		if i == 0 {
			state = "present"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\n", key, state, len(s.Secrets[key]))
	}
	var others []string
	for key := range s.Secrets {
		if !slices.Contains(s.Keys, key) {
			others = append(others, key)
		}
	}
	slices.Sort(others)
	for _, key := range others {
		state := "not in the file"
		switch key {
		case apiserver.NotSealed:
			state = "not sealed"
		case apiserver.SealedUnnamed:
			state = "one of these"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\n", key, state, len(s.Secrets[key]))
	}
	return w.Flush()
}

// sealPatience bounds how long the API server may take to seal a Secret with a new key.
const sealPatience = 30 * time.Second

func sealRotate(cmd *cobra.Command, cfg standalone.Config) error {
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
	fmt.Fprintf(cmd.OutOrStdout(), "Key %s seals %d Secrets.\n", key, len(after.Secrets[key]))
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

func sealForget(cmd *cobra.Command, cfg standalone.Config, key string) error {
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
	fmt.Fprintf(cmd.OutOrStdout(), "Key %s is gone from %s.\n", key, cfg.SealFile())
	return nil
}

func adminClient(cfg standalone.Config) (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("no cluster was started on %s yet", cfg.DataDir), err)
	}
	config.QPS, config.UserAgent = -1, "rutter-seal"
	return kubernetes.NewForConfig(config)
}
