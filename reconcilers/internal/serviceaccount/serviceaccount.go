// Package serviceaccount makes the "default" service account of every namespace.
package serviceaccount

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

const (
	name    = "serviceaccount"
	workers = 2
	account = "default"
)

type reconciler struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	accounts   corelisters.ServiceAccountLister
}

// New returns the controller. It reads Namespaces and ServiceAccounts; it owns the
// ServiceAccount "default" of each active namespace.
func New(client kubernetes.Interface, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	namespaces := source.For(corev1.SchemeGroupVersion.WithResource("namespaces"), &corev1.Namespace{})
	accounts := source.For(corev1.SchemeGroupVersion.WithResource("serviceaccounts"), &corev1.ServiceAccount{})
	r := &reconciler{client: client, namespaces: corelisters.NewNamespaceLister(namespaces.GetIndexer()),
		accounts: corelisters.NewServiceAccountLister(accounts.GetIndexer())}
	c := engine.NewController(r, workers, log)
	if err := c.Watch(namespaces, engine.Self); err != nil {
		return nil, err
	}
	return c, c.Watch(accounts, engine.NamespaceOf(account))
}

func (r *reconciler) Name() string { return name }

func (r *reconciler) Reconcile(ctx context.Context, namespace string) error {
	ns, err := r.namespaces.Get(namespace)
	if apierrors.IsNotFound(err) || (err == nil && ns.Status.Phase != corev1.NamespaceActive) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := r.accounts.ServiceAccounts(namespace).Get(account); err == nil {
		return nil
	}
	_, err = r.client.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return fmt.Errorf("create service account %s/%s: %w", namespace, account, err)
}
