// Package certificates approves, signs and in the end forgets
// CertificateSigningRequests of the built-in signers. Who may approve is the API
// server's to check; approved without a person are only client certificates of nodes,
// for those who may create certificatesigningrequests/nodeclient, or /selfnodeclient for
// themselves.
package certificates

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/certificates/v1"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

// Sign signs a request with the cluster's authority, for these usages alone, and returns
// the certificate and its chain in PEM.
type Sign func(r *x509.CertificateRequest, key x509.KeyUsage, extended []x509.ExtKeyUsage, life time.Duration) ([]byte, error)

const workers = 2

type reconciler struct {
	client   kubernetes.Interface
	requests listers.CertificateSigningRequestLister
	sign     Sign
}

// New returns the controller. It reads CertificateSigningRequests, and owns the
// approval and status of those for built-in signers and the end of all.
func New(client kubernetes.Interface, sign Sign, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	informer := source.For(certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests"), &certificatesv1.CertificateSigningRequest{})
	r := &reconciler{client: client, requests: listers.NewCertificateSigningRequestLister(informer.GetIndexer()), sign: sign}
	c := engine.NewController(r, workers, log)
	return c, c.Watch(informer, engine.Self)
}

func (r *reconciler) Name() string { return "certificate-signing" }

func (r *reconciler) Reconcile(ctx context.Context, key string) error {
	csr, err := r.requests.Get(key)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	now := time.Now()
	end, ends := forgetAt(csr)
	if ends && !now.Before(end) {
		return r.forget(ctx, csr)
	}
	wait, err := r.advance(ctx, csr, now)
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("certificate signing request %s: %w", key, err)
	}
	if left := end.Sub(now); ends && (wait == 0 || left < wait) {
		wait = left
	}
	if wait == 0 {
		return nil
	}
	return engine.After{Wait: wait}
}

// advance approves or signs, whatever is due. It returns after what time to ask again, 0
// if only a change of the request can bring more.
func (r *reconciler) advance(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, now time.Time) (time.Duration, error) {
	s, builtIn := signers[csr.Spec.SignerName]
	settled := len(csr.Status.Certificate) > 0 || has(csr, certificatesv1.CertificateDenied) || has(csr, certificatesv1.CertificateFailed)
	if !builtIn || settled {
		return 0, nil
	}
	parsed, err := parse(csr.Spec.Request)
	switch {
	case err != nil && has(csr, certificatesv1.CertificateApproved):
		return 0, r.fail(ctx, csr, err, now)
	case err != nil:
		return 0, nil // a person may see it, and deny it
	case has(csr, certificatesv1.CertificateApproved):
		return 0, r.issue(ctx, csr, s, parsed, now)
	default:
		return r.approve(ctx, csr, parsed, now)
	}
}

// approve approves if the requester has one of the permissions that it takes.
func (r *reconciler) approve(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, parsed *x509.CertificateRequest, now time.Time) (time.Duration, error) {
	wanted := permissions(csr, parsed)
	for _, subresource := range wanted {
		answer, err := r.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review(csr, subresource), metav1.CreateOptions{})
		if err != nil {
			return 0, fmt.Errorf("may the requester have it: %w", err)
		}
		if answer.Status.Allowed {
			return 0, r.markApproved(ctx, csr, subresource, now)
		}
	}
	if len(wanted) == 0 {
		return 0, nil
	}
	return askAgain(now.Sub(csr.CreationTimestamp.Time)), nil
}

func (r *reconciler) markApproved(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, subresource string, now time.Time) error {
	update := csr.DeepCopy()
	update.Status.Conditions = append(update.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved",
		Message:        "The requester may create certificatesigningrequests/" + subresource + ".",
		LastUpdateTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	})
	_, err := r.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, update, metav1.UpdateOptions{})
	return err
}

func (r *reconciler) issue(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, s signer, parsed *x509.CertificateRequest, now time.Time) error {
	if refusal := s.refusal(parsed, csr.Spec.Usages); refusal != nil {
		return r.fail(ctx, csr, refusal, now)
	}
	key, extended := inCertificate(csr.Spec.Usages)
	certificate, err := r.sign(parsed, key, extended, lifetime(csr.Spec.ExpirationSeconds))
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	update := csr.DeepCopy()
	update.Status.Certificate = certificate
	_, err = r.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, update, metav1.UpdateOptions{})
	return err
}

func (r *reconciler) fail(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, why error, now time.Time) error {
	update := csr.DeepCopy()
	update.Status.Conditions = append(update.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: why.Error(),
		LastUpdateTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	})
	_, err := r.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, update, metav1.UpdateOptions{})
	return err
}

func (r *reconciler) forget(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	uid := csr.UID
	err := r.client.CertificatesV1().CertificateSigningRequests().Delete(ctx, csr.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
