package rootca

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/rs/zerolog"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/certificates/v1"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

// servingSigner stands for whoever signs the API server's serving certificate. Pods get
// its bundle by projecting the trust bundles of this signer.
const servingSigner = "kubernetes.io/kube-apiserver-serving"

type bundles struct {
	client  kubernetes.Interface
	ca      string
	name    string
	bundles listers.ClusterTrustBundleLister
}

// NewTrustBundle returns the controller that publishes a CA bundle (PEM) as the one
// ClusterTrustBundle of the signer of serving certificates. It owns all ClusterTrustBundles
// of that signer: those of former bundles are deleted.
func NewTrustBundle(client kubernetes.Interface, ca []byte, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	informer := source.For(certificatesv1.SchemeGroupVersion.WithResource("clustertrustbundles"), &certificatesv1.ClusterTrustBundle{})
	r := &bundles{client: client, ca: string(ca), name: bundleName(ca), bundles: listers.NewClusterTrustBundleLister(informer.GetIndexer())}
	c := engine.NewController(r, 1, log)
	c.Enqueue(r.name, 0)
	return c, c.Watch(informer, func(_, obj any) []string {
		if b, ok := obj.(*certificatesv1.ClusterTrustBundle); !ok || b.Spec.SignerName != servingSigner {
			return nil
		}
		return []string{r.name}
	})
}

// bundleName is how upstream calls the bundle, so that either finds the other's.
func bundleName(ca []byte) string {
	digest := sha256.Sum256(ca)
	return fmt.Sprintf("%s:%x", strings.ReplaceAll(servingSigner, "/", ":"), digest[:12])
}

func (r *bundles) Name() string { return "trust-bundle" }

func (r *bundles) Reconcile(ctx context.Context, _ string) error {
	if err := r.publish(ctx); err != nil {
		return fmt.Errorf("publish trust bundle %s: %w", r.name, err)
	}
	all, err := r.bundles.List(labels.Everything())
	if err != nil {
		return err
	}
	var errs []error
	for _, b := range all {
		if b.Spec.SignerName != servingSigner || b.Name == r.name {
			continue
		}
		err := r.client.CertificatesV1().ClusterTrustBundles().Delete(ctx, b.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete former trust bundle %s: %w", b.Name, err))
		}
	}
	return errors.Join(errs...)
}

// publish makes the bundle, or mends it. Somebody who was faster has done so too.
func (r *bundles) publish(ctx context.Context) error {
	got, err := r.bundles.Get(r.name)
	switch {
	case apierrors.IsNotFound(err):
		_, err = r.client.CertificatesV1().ClusterTrustBundles().Create(ctx, &certificatesv1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: r.name},
			Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: servingSigner, TrustBundle: r.ca},
		}, metav1.CreateOptions{})
	case err == nil && got.Spec.TrustBundle != r.ca:
		update := got.DeepCopy()
		update.Spec.TrustBundle = r.ca
		_, err = r.client.CertificatesV1().ClusterTrustBundles().Update(ctx, update, metav1.UpdateOptions{})
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return nil // its event comes here
	}
	return err
}
