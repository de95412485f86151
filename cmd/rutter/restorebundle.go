package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/cmd/rutter/internal/incident"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/schemas"
	"github.com/rutter-project/rutter/schemas/bundle"
)

// fromBundle makes a bundle the source while fn runs.
func (r *restorer) fromBundle(cmd *cobra.Command, fn func() error) error {
	b, _, err := readBundle(r.bundle)
	if err != nil {
		return fmt.Errorf("--from-bundle %w", err)
	}
	if err := r.knowSource(cmd.Context(), b.Header); err != nil {
		return err
	}
	local, err := remote.ListenLocal("")
	if err != nil {
		return err
	}
	handler, err := apiserver.OpenRecording(cmd.Context(), b, local.Address(), silence())
	if err != nil {
		return errors.Join(err, local.Close())
	}
	serve := func(ctx context.Context) error { return local.Run(ctx, handler) }
	return serving(cmd.Context(), serve, func(context.Context) error {
		source, err := connectLocal(local)
		if err != nil {
			return err
		}
		defer source.Close()
		r.source = source
		return fn()
	})
}

// knowSource finds out whether the bundle is of the cluster that is written to, and what it
// hides.
func (r *restorer) knowSource(ctx context.Context, h bundle.Header) error {
	held, _, err := r.server.Status(ctx)
	if err != nil {
		return err
	}
	r.stranger = h.Cluster != held.Epoch
	r.hidden = func(key schemas.Key, object []byte) bool { return incident.Hides(h.Redacted, key, object) }
	return nil
}

// connectLocal is a client of a listener of this process.
func connectLocal(local *remote.Local) (*remote.Server, error) {
	dir, err := os.MkdirTemp("", "rutter-restore-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	config := filepath.Join(dir, "kubeconfig")
	if err := clientcmd.WriteToFile(*local.Kubeconfig("bundle", ""), config); err != nil { // makes it with 0600
		return nil, err
	}
	return remote.Connect(remote.Config{Kubeconfig: config})
}
