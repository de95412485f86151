package certificates

import (
	"context"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

// keepPodRequest is how long a PodCertificateRequest is kept, whatever became of it: the
// node that made it has taken the certificate by then, or asks anew.
const keepPodRequest = 15 * time.Minute

type podRequests struct {
	client  kubernetes.Interface
	indexer cache.Indexer
}

// NewForPods returns the controller that deletes PodCertificateRequests when their time is
// over. It reads nothing but their metadata.
func NewForPods(client kubernetes.Interface, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	informer := source.For(certificatesv1.SchemeGroupVersion.WithResource("podcertificaterequests"), &metav1.PartialObjectMetadata{})
	c := engine.NewController(&podRequests{client, informer.GetIndexer()}, workers, log)
	return c, c.Watch(informer, engine.Self)
}

func (r *podRequests) Name() string { return "pod-certificate-cleaner" }

func (r *podRequests) Reconcile(ctx context.Context, key string) error {
	obj, exists, err := r.indexer.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	request, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("pod certificate request %s: its cache holds a %T", key, obj)
	}
	if left := time.Until(request.GetCreationTimestamp().Add(keepPodRequest)); left > 0 {
		return engine.After{Wait: left}
	}
	uid := request.GetUID()
	err = r.client.CertificatesV1().PodCertificateRequests(request.GetNamespace()).Delete(ctx, request.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod certificate request %s: %w", key, err)
	}
	return nil
}
