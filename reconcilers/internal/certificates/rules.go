package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
)

const (
	nodesGroup     = "system:nodes"
	nodeUserPrefix = "system:node:"
)

// parse reads the one PEM block of a request. The API server has checked it; what is
// stored may be older than its checks.
func parse(request []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("spec.request holds no PEM block of type CERTIFICATE REQUEST")
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("spec.request: %w", err)
	}
	if err := parsed.CheckSignature(); err != nil {
		return nil, fmt.Errorf("spec.request is not signed by its own key: %w", err)
	}
	return parsed, nil
}

// signer is one of the built-in signers: what it refuses, and which usages it grants.
// The rules are those of the Kubernetes documentation, "Certificates and Certificate
// Signing Requests", section "Kubernetes signers".
type signer struct {
	check func(*x509.CertificateRequest) error
	// required usages must be asked for, others than these and allowed must not.
	required, allowed []certificatesv1.KeyUsage
}

var signers = map[string]signer{
	certificatesv1.KubeAPIServerClientSignerName: {
		check:    func(*x509.CertificateRequest) error { return nil },
		required: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
		allowed:  []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment},
	},
	certificatesv1.KubeAPIServerClientKubeletSignerName: {
		check:    nodeClient,
		required: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		allowed:  []certificatesv1.KeyUsage{certificatesv1.UsageKeyEncipherment},
	},
	certificatesv1.KubeletServingSignerName: {
		check:    nodeServing,
		required: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		allowed:  []certificatesv1.KeyUsage{certificatesv1.UsageKeyEncipherment},
	},
}

// refusal is why a signer does not sign, nil if it does.
func (s signer) refusal(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if err := s.check(r); err != nil {
		return err
	}
	for _, u := range s.required {
		if !slices.Contains(usages, u) {
			return fmt.Errorf("spec.usages lacks %q", u)
		}
	}
	for _, u := range usages {
		if !slices.Contains(s.required, u) && !slices.Contains(s.allowed, u) {
			return fmt.Errorf("spec.usages has %q, which this signer does not grant", u)
		}
	}
	return nil
}

// node checks the subject that every certificate of a node has.
func node(r *x509.CertificateRequest) error {
	switch {
	case !slices.Equal(r.Subject.Organization, []string{nodesGroup}):
		return fmt.Errorf("the subject's organization must be %s alone", nodesGroup)
	case !strings.HasPrefix(r.Subject.CommonName, nodeUserPrefix) || r.Subject.CommonName == nodeUserPrefix:
		return fmt.Errorf("the subject's common name must be %s and the node's name", nodeUserPrefix)
	case len(r.EmailAddresses) > 0 || len(r.URIs) > 0:
		return errors.New("subject alternative names must not be e-mail addresses or URIs")
	}
	return nil
}

func nodeClient(r *x509.CertificateRequest) error {
	if err := node(r); err != nil {
		return err
	}
	if len(r.DNSNames) > 0 || len(r.IPAddresses) > 0 {
		return errors.New("a client certificate of a node has no subject alternative names")
	}
	return nil
}

func nodeServing(r *x509.CertificateRequest) error {
	if err := node(r); err != nil {
		return err
	}
	if len(r.DNSNames) == 0 && len(r.IPAddresses) == 0 {
		return errors.New("a serving certificate needs a DNS name or an IP address as subject alternative name")
	}
	return nil
}

// Lifetimes of certificates: asked for in spec.expirationSeconds, between these, the
// longest if nothing is asked for.
const (
	shortest = 10 * time.Minute
	longest  = 365 * 24 * time.Hour
)

func lifetime(seconds *int32) time.Duration {
	if seconds == nil {
		return longest
	}
	return min(max(time.Duration(*seconds)*time.Second, shortest), longest)
}

// inCertificate are usages as certificates hold them: those that were asked for and no
// others. Built-in signers grant none but these four.
func inCertificate(usages []certificatesv1.KeyUsage) (key x509.KeyUsage, extended []x509.ExtKeyUsage) {
	for _, u := range usages {
		switch u {
		case certificatesv1.UsageDigitalSignature:
			key |= x509.KeyUsageDigitalSignature
		case certificatesv1.UsageKeyEncipherment:
			key |= x509.KeyUsageKeyEncipherment
		case certificatesv1.UsageServerAuth:
			extended = append(extended, x509.ExtKeyUsageServerAuth)
		case certificatesv1.UsageClientAuth:
			extended = append(extended, x509.ExtKeyUsageClientAuth)
		}
	}
	return key, extended
}

// permissions are what the requester must be allowed to create, one of them, so that a
// client certificate of a node is approved without a person; none if a person has to.
func permissions(csr *certificatesv1.CertificateSigningRequest, r *x509.CertificateRequest) (subresources []string) {
	s := signers[certificatesv1.KubeAPIServerClientKubeletSignerName]
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || s.refusal(r, csr.Spec.Usages) != nil {
		return nil
	}
	if csr.Spec.Username == r.Subject.CommonName {
		return []string{"selfnodeclient", "nodeclient"}
	}
	return []string{"nodeclient"}
}

// The pauses between questions whether the requester may have it now: nothing tells when a
// role is bound, or an authorization webhook has changed its mind.
const (
	firstPause   = time.Second
	longestPause = 15 * time.Minute
)

// askAgain is the next pause for a request of some age: as long as it has waited already.
func askAgain(age time.Duration) time.Duration { return min(max(age, firstPause), longestPause) }

// review asks whether the requester has a permission.
func review(csr *certificatesv1.CertificateSigningRequest, subresource string) *authorizationv1.SubjectAccessReview {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range csr.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	return &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: certificatesv1.GroupName, Version: "*", Resource: "certificatesigningrequests", Subresource: subresource, Verb: "create",
		},
	}}
}

// Requests are forgotten after a while: soon when they are settled, after a day when
// nobody cared, or nobody signed.
const (
	keepSettled = time.Hour
	keepPending = 24 * time.Hour
)

// forgetAt is when a request is deleted, the earliest of what is true of it: nobody has
// decided, a decision is old, the certificate has ended. One that only has conditions of
// somebody else's is his to delete.
func forgetAt(csr *certificatesv1.CertificateSigningRequest) (at time.Time, ends bool) {
	if len(csr.Status.Conditions) == 0 {
		return csr.CreationTimestamp.Add(keepPending), true
	}
	earliest := func(t time.Time) {
		if !ends || t.Before(at) {
			at, ends = t, true
		}
	}
	for _, c := range csr.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateApproved:
			if len(csr.Status.Certificate) == 0 {
				earliest(c.LastUpdateTime.Add(keepPending)) // still waits for its signer
				continue
			}
			if end, err := notAfter(csr.Status.Certificate); err == nil {
				earliest(end)
			}
			earliest(c.LastUpdateTime.Add(keepSettled))
		case certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			earliest(c.LastUpdateTime.Add(keepSettled))
		}
	}
	return at, ends
}

// notAfter is when the first certificate of a chain ends.
func notAfter(chain []byte) (time.Time, error) {
	block, _ := pem.Decode(chain)
	if block == nil {
		return time.Time{}, errors.New("status.certificate holds no PEM block")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, fmt.Errorf("status.certificate: %w", err)
	}
	return c.NotAfter, nil
}

func has(csr *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == t })
}
