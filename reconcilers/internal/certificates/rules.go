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

// permission is what the requester must be allowed to create so that a client
// certificate of a node is approved without a person, "" if a person has to.
func permission(csr *certificatesv1.CertificateSigningRequest, r *x509.CertificateRequest) (subresource string) {
	s := signers[certificatesv1.KubeAPIServerClientKubeletSignerName]
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || s.refusal(r, csr.Spec.Usages) != nil {
		return ""
	}
	if csr.Spec.Username == r.Subject.CommonName {
		return "selfnodeclient"
	}
	return "nodeclient"
}

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
// nobody cared.
const (
	keepSettled = time.Hour
	keepPending = 24 * time.Hour
)

// forgetAt is when a request is deleted.
func forgetAt(csr *certificatesv1.CertificateSigningRequest) time.Time {
	at := csr.CreationTimestamp.Add(keepPending)
	for _, c := range csr.Status.Conditions {
		settled := c.LastUpdateTime.Add(keepSettled)
		if c.Type == certificatesv1.CertificateApproved && len(csr.Status.Certificate) == 0 {
			continue // still waits for its signer
		}
		if settled.Before(at) {
			at = settled
		}
	}
	return at
}

func has(csr *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == t })
}
