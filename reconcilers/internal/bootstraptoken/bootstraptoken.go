// Package bootstraptoken deletes bootstrap tokens whose time is over. The authenticator
// refuses them already; a Secret that nobody can use any more should not stay.
package bootstraptoken

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

const (
	name    = "bootstrap-token"
	workers = 1
	// prefix of a token's name, and the place of its end in the data, as
	// k8s.io/cluster-bootstrap has them.
	prefix     = "bootstrap-token-"
	expiration = "expiration"
)

type reconciler struct{ client kubernetes.Interface }

// New returns the controller. It is told of Secrets by name and reads those that can be
// bootstrap tokens from the server, since the bus does not carry what is in them; it
// deletes expired tokens.
func New(client kubernetes.Interface, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	secrets := source.For(corev1.SchemeGroupVersion.WithResource("secrets"), &metav1.PartialObjectMetadata{})
	c := engine.NewController(&reconciler{client}, workers, log)
	return c, c.Watch(secrets, tokens)
}

func (r *reconciler) Name() string { return name }

// tokens names a Secret that can be a bootstrap token.
func tokens(_, obj any) []string {
	m, ok := obj.(metav1.Object)
	if !ok || m.GetNamespace() != metav1.NamespaceSystem || !strings.HasPrefix(m.GetName(), prefix) {
		return nil
	}
	return engine.Self(nil, obj)
}

func (r *reconciler) Reconcile(ctx context.Context, key string) error {
	namespace, secretName, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil //nolint:nilerr // a key that is no name can never become one
	}
	secret, err := r.client.CoreV1().Secrets(namespace).Get(ctx, secretName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && secret.Type != corev1.SecretTypeBootstrapToken {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read bootstrap token %s: %w", secretName, err)
	}
	text := string(secret.Data[expiration])
	if text == "" {
		return nil // for ever
	}
	// The authenticator takes a time it can't read for one that is over; so does this.
	expires, err := time.Parse(time.RFC3339, text)
	if left := time.Until(expires); err == nil && left > 0 {
		return engine.After{Wait: left}
	}
	err = r.client.CoreV1().Secrets(namespace).Delete(ctx, secretName, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete expired bootstrap token %s: %w", secretName, err)
	}
	return nil
}
