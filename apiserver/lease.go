package apiserver

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	// identityLabel marks the Leases of API servers, by which others find them.
	identityLabel = "apiserver.kubernetes.io/identity"
	identityValue = "kube-apiserver"
	// identityLasts is how long a Lease counts after it was renewed, as upstream has it.
	identityLasts = time.Hour
	// identityRenewed leaves room for eleven renewals that fail. Upstream renews every ten
	// seconds; here each renewal is kept in the log for ever.
	identityRenewed = 5 * time.Minute
)

// ownLease keeps the Lease of one API server in kube-system, and takes away those of
// servers that are gone.
type ownLease struct {
	client kubernetes.Interface
	name   string // of the Lease: the same whenever a server runs on this host
	holder string // this process
	host   string
	at     string // address and port
	now    func() time.Time
}

func newLease(client kubernetes.Interface, at string) (ownLease, error) {
	host, err := os.Hostname()
	if err != nil {
		return ownLease{}, fmt.Errorf("name of this host: %w", err)
	}
	sum := sha256.Sum256([]byte(host))
	name := "apiserver-" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
	return ownLease{client: client, name: name, holder: name + "_" + uuid.NewString(), host: host, at: at, now: time.Now}, nil
}

// run keeps the Lease until the context ends, and tells what fails. What fails is tried
// again at the next renewal.
func (l ownLease) run(ctx context.Context, failed func(error)) {
	tick := time.NewTicker(identityRenewed)
	defer tick.Stop()
	for {
		err := l.renew(ctx)
		if err == nil {
			err = l.sweep(ctx)
		}
		if err != nil && ctx.Err() == nil {
			failed(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// renew makes the Lease this process's, from now on.
func (l ownLease) renew(ctx context.Context) error {
	leases := l.client.CoordinationV1().Leases(metav1.NamespaceSystem)
	lease, err := leases.Get(ctx, l.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: l.name, Namespace: metav1.NamespaceSystem}}
		l.fill(lease)
		_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	l.fill(lease)
	_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	return err
}

// release takes the Lease away, so that nobody takes this process for one that serves. Who
// has taken it over meanwhile keeps it.
func (l ownLease) release(ctx context.Context) error {
	leases := l.client.CoordinationV1().Leases(metav1.NamespaceSystem)
	lease, err := leases.Get(ctx, l.name, metav1.GetOptions{})
	if err == nil && lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity == l.holder {
		seen := metav1.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion}
		err = leases.Delete(ctx, l.name, metav1.DeleteOptions{Preconditions: &seen})
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (l ownLease) fill(lease *coordinationv1.Lease) {
	if lease.Labels == nil {
		lease.Labels = map[string]string{}
	}
	lease.Labels[identityLabel], lease.Labels[corev1.LabelHostname] = identityValue, l.host
	if lease.Annotations == nil {
		lease.Annotations = map[string]string{}
	}
	lease.Annotations[corev1.AnnotationPeerAdvertiseAddress] = l.at
	lasts, now := int32(identityLasts/time.Second), metav1.NewMicroTime(l.now())
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &l.holder, &lasts, &now
}

// sweep deletes the Leases of servers that have not renewed them in time.
func (l ownLease) sweep(ctx context.Context) error {
	leases := l.client.CoordinationV1().Leases(metav1.NamespaceSystem)
	all, err := leases.List(ctx, metav1.ListOptions{LabelSelector: identityLabel + "=" + identityValue})
	if err != nil {
		return err
	}
	for n := range all.Items {
		lease := &all.Items[n]
		if !l.expired(lease) {
			continue
		}
		seen := metav1.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion}
		err := leases.Delete(ctx, lease.Name, metav1.DeleteOptions{Preconditions: &seen})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	return nil
}

// expired holds for what was never renewed as well.
func (l ownLease) expired(lease *coordinationv1.Lease) bool {
	spec := lease.Spec
	return spec.RenewTime == nil || spec.LeaseDurationSeconds == nil ||
		l.now().After(spec.RenewTime.Add(time.Duration(*spec.LeaseDurationSeconds)*time.Second))
}
