package objects

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ErrNotIssued tells that a pod's certificate was asked for and has not come yet.
var ErrNotIssued = errors.New("not issued yet")

// Certificate is the credential of a pod: a private key and the certificates that a
// signer issued to it, as PEM (KEP-4317).
type Certificate struct {
	Key   []byte
	Chain []byte
	// Refresh is when to ask again; zero for never.
	Refresh time.Time
	// Stale tells why no newer one is coming, if that is so.
	Stale error
}

// certificateKey is one podCertificate source of a pod.
type certificateKey struct {
	pod    types.UID
	volume string
	source int // its place in the volume
}

// credential is what is known of one source. Its pod's volumes are made one at a time,
// so only its place in the store is guarded.
type credential struct {
	now     Certificate
	pending *certificateRequest
	refused error // the signer's last word
}

// certificateRequest is a PodCertificateRequest under way. The private key never leaves
// the node.
type certificateRequest struct {
	object Key
	key    []byte
}

// pendingCheck is when an unanswered renewal is looked at again, if nobody tells of the
// answer.
const pendingCheck = time.Minute

// Certificate returns the certificate of one podCertificate source of a pod's volume. The
// first call asks the signer and returns ErrNotIssued, as do others until it has answered;
// a denied request is not repeated. A renewal is asked for when the signer said, and until
// it comes the old one is returned.
func (s *Source) Certificate(ctx context.Context, pod *corev1.Pod, volume string, source int, p *corev1.PodCertificateProjection) (Certificate, error) {
	c := s.store.credential(certificateKey{pod.UID, volume, source})
	if c.pending == nil && c.refused == nil && (c.now.Chain == nil || !time.Now().Before(c.now.Refresh)) {
		var err error
		if c.pending, err = s.request(ctx, pod, p); err != nil {
			return c.or(fmt.Errorf("request a certificate of %s: %w", p.SignerName, err))
		}
	}
	if c.pending != nil {
		if err := s.settle(ctx, c); err != nil {
			return c.or(err)
		}
	}
	switch {
	case c.refused != nil:
		return c.or(c.refused)
	case c.pending != nil && c.now.Chain == nil:
		return Certificate{}, fmt.Errorf("certificate of %s (podcertificaterequest %s) is %w", p.SignerName, c.pending.object.Name, ErrNotIssued)
	case c.pending != nil:
		waiting := c.now
		waiting.Refresh = time.Now().Add(pendingCheck)
		return waiting, nil
	}
	return c.now, nil
}

// or is the certificate at hand with a reason why it is not renewed, or that reason alone.
func (c *credential) or(err error) (Certificate, error) {
	if c.now.Chain == nil {
		return Certificate{}, err
	}
	stale := c.now
	stale.Stale, stale.Refresh = err, time.Time{}
	if c.refused == nil {
		stale.Refresh = time.Now().Add(pendingCheck)
	}
	return stale, nil
}

func (s *Store) credential(k certificateKey) *credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.credentials[k]
	if c == nil {
		c = &credential{}
		s.credentials[k] = c
	}
	return c
}

// settle takes in what the signer answered. A request that was deleted is made again by
// the next call.
func (s *Source) settle(ctx context.Context, c *credential) error {
	k := c.pending.object
	v, err := s.store.get(ctx, k, s.pod, func(ctx context.Context) (any, error) {
		return s.store.client.CertificatesV1().PodCertificateRequests(k.Namespace).Get(ctx, k.Name, metav1.GetOptions{})
	})
	if err != nil {
		return err
	}
	answer, found := v.(*certificatesv1.PodCertificateRequest)
	if !found {
		s.store.drop(k)
		c.pending = nil
		return fmt.Errorf("podcertificaterequest %s was deleted before it was answered: %w", k.Name, ErrNotIssued)
	}
	for _, condition := range answer.Status.Conditions {
		switch condition.Type {
		case certificatesv1.PodCertificateRequestConditionTypeIssued:
			c.now = issued(c.pending.key, &answer.Status)
		case certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
			c.refused = fmt.Errorf("podcertificaterequest %s: %s: %s: %s", k.Name, condition.Type, condition.Reason, condition.Message)
		default:
			continue
		}
		s.store.drop(k)
		c.pending = nil
		return nil
	}
	return nil
}

func issued(key []byte, status *certificatesv1.PodCertificateRequestStatus) Certificate {
	c := Certificate{Key: key, Chain: certificatesOnly([]byte(status.CertificateChain))}
	if status.BeginRefreshAt != nil && status.NotAfter != nil {
		// Spread over a twentieth of what is left, so that a node's certificates do not
		// all fall due together.
		begin := status.BeginRefreshAt.Time
		spread := max(0, status.NotAfter.Sub(begin)/20)
		c.Refresh = begin.Add(time.Duration(mathrand.Int64N(int64(spread) + 1)))
	}
	return c
}

// certificatesOnly drops what a chain has besides certificates: headers and comments.
func certificatesOnly(chain []byte) []byte {
	var out bytes.Buffer
	for {
		var block *pem.Block
		if block, chain = pem.Decode(chain); block == nil {
			return out.Bytes()
		}
		if block.Type == "CERTIFICATE" {
			_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}) // a buffer takes all
		}
	}
}

// request makes a key and asks the signer for a certificate of it. The request belongs to
// the pod, so that it goes when the pod does.
func (s *Source) request(ctx context.Context, pod *corev1.Pod, p *corev1.PodCertificateProjection) (*certificateRequest, error) {
	client := s.store.client
	account, err := patiently(ctx, func(ctx context.Context) (*corev1.ServiceAccount, error) {
		return client.CoreV1().ServiceAccounts(pod.Namespace).Get(ctx, pod.Spec.ServiceAccountName, metav1.GetOptions{})
	})
	if err != nil {
		return nil, fmt.Errorf("read service account %q: %w", pod.Spec.ServiceAccountName, err)
	}
	node, err := client.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read node %q: %w", pod.Spec.NodeName, err)
	}
	key, proof, err := keyWithProof(p.KeyType)
	if err != nil {
		return nil, err
	}
	req := &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "req-", Namespace: pod.Namespace,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}},
		},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: p.SignerName, PodName: pod.Name, PodUID: pod.UID,
			ServiceAccountName: account.Name, ServiceAccountUID: account.UID,
			NodeName: types.NodeName(node.Name), NodeUID: node.UID,
			MaxExpirationSeconds: p.MaxExpirationSeconds, StubPKCS10Request: proof, UnverifiedUserAnnotations: p.UserAnnotations,
		},
	}
	// The admission of requests may see the pod later than this node does.
	made, err := patiently(ctx, func(ctx context.Context) (*certificatesv1.PodCertificateRequest, error) {
		return client.CertificatesV1().PodCertificateRequests(pod.Namespace).Create(ctx, req, metav1.CreateOptions{})
	})
	if err != nil {
		return nil, err
	}
	return &certificateRequest{Key{certificateRequests, made.Namespace, made.Name}, key}, nil
}

// certificateRequests is the kind of requests in a Key.
const certificateRequests = "PodCertificateRequest"

// keyWithProof makes a private key of a type that the API names, and an empty certificate
// request that proves who has it.
func keyWithProof(kind string) (key, proof []byte, err error) {
	private, err := privateKey(kind)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	if proof, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private); err != nil {
		return nil, nil, fmt.Errorf("sign the request: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), proof, nil
}

func privateKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "RSA3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	default:
		return nil, fmt.Errorf("keyType %q is none of RSA3072, RSA4096, ECDSAP256, ECDSAP384, ECDSAP521 and ED25519", kind)
	}
}

// drop forgets an object that nobody needs any more.
func (s *Store) drop(k Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, k)
}
