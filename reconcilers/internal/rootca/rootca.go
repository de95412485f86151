// Package rootca publishes the cluster's CA certificate in every namespace, where pods
// find it next to their token.
package rootca

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
	name      = "root-ca"
	workers   = 2
	configMap = "kube-root-ca.crt"
	key       = "ca.crt"
	note      = "kubernetes.io/description"
	noteText  = "Contains a CA bundle that can be used to verify the API server, from inside or outside the cluster."
)

type reconciler struct {
	client     kubernetes.Interface
	ca         string
	namespaces corelisters.NamespaceLister
	configMaps corelisters.ConfigMapLister
}

// New returns the controller for a CA bundle (PEM). It reads Namespaces and
// ConfigMaps; it owns the ConfigMap kube-root-ca.crt of each active namespace.
func New(client kubernetes.Interface, ca []byte, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	namespaces := source.For(corev1.SchemeGroupVersion.WithResource("namespaces"), &corev1.Namespace{})
	configMaps := source.For(corev1.SchemeGroupVersion.WithResource("configmaps"), &corev1.ConfigMap{})
	r := &reconciler{client: client, ca: string(ca), namespaces: corelisters.NewNamespaceLister(namespaces.GetIndexer()),
		configMaps: corelisters.NewConfigMapLister(configMaps.GetIndexer())}
	c := engine.NewController(r, workers, log)
	if err := c.Watch(namespaces, engine.Self); err != nil {
		return nil, err
	}
	return c, c.Watch(configMaps, engine.NamespaceOf(configMap))
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
	got, err := r.configMaps.ConfigMaps(namespace).Get(configMap)
	switch {
	case apierrors.IsNotFound(err):
		_, err = r.client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: configMap, Annotations: map[string]string{note: noteText}},
			Data:       map[string]string{key: r.ca},
		}, metav1.CreateOptions{})
	case err == nil && len(got.Data) == 1 && got.Data[key] == r.ca:
		return nil
	case err == nil:
		update := got.DeepCopy()
		update.Data = map[string]string{key: r.ca}
		_, err = r.client.CoreV1().ConfigMaps(namespace).Update(ctx, update, metav1.UpdateOptions{})
	}
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return fmt.Errorf("publish root CA in namespace %s: %w", namespace, err)
}
