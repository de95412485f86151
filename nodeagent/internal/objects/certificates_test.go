package objects

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// signing is a store beside an API in memory, whose requests the test answers.
type signing struct {
	t      *testing.T
	client *fake.Clientset
	store  *Store
	pod    *corev1.Pod
}

func newSigning(t *testing.T) *signing {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name + "-uid")}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "n-uid"}}
	client := fake.NewClientset(&corev1.ServiceAccount{ObjectMeta: meta("sa")}, node)
	made := 0
	client.PrependReactor("create", "podcertificaterequests", func(a clienttesting.Action) (bool, runtime.Object, error) {
		made++
		req := a.(clienttesting.CreateAction).GetObject().(*certificatesv1.PodCertificateRequest)
		req.Name = req.GenerateName + strconv.Itoa(made)
		return false, nil, nil // the tracker stores it
	})
	pod := &corev1.Pod{ObjectMeta: meta("p"), Spec: corev1.PodSpec{ServiceAccountName: "sa", NodeName: "n"}}
	return &signing{t, client, New(client, true), pod}
}

func (s *signing) ask() (Certificate, error) {
	hour := int32(3600)
	return s.store.For(s.pod.UID).Certificate(s.t.Context(), s.pod, "tls", 0, &corev1.PodCertificateProjection{
		SignerName: "x.test/s", KeyType: "ED25519", MaxExpirationSeconds: &hour, UserAnnotations: map[string]string{"x.test/a": "b"}})
}

func (s *signing) requests() []certificatesv1.PodCertificateRequest {
	list, err := s.client.CertificatesV1().PodCertificateRequests("ns").List(s.t.Context(), metav1.ListOptions{})
	require.NoError(s.t, err)
	return list.Items
}

// answer sets the status of a request and tells the store of it.
func (s *signing) answer(name, condition string, status certificatesv1.PodCertificateRequestStatus) {
	s.t.Helper()
	req, err := s.client.CertificatesV1().PodCertificateRequests("ns").Get(s.t.Context(), name, metav1.GetOptions{})
	require.NoError(s.t, err)
	req.Status = status
	req.Status.Conditions = []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue, Reason: "Because", Message: "so it is"}}
	_, err = s.client.CertificatesV1().PodCertificateRequests("ns").UpdateStatus(s.t.Context(), req, metav1.UpdateOptions{})
	require.NoError(s.t, err)
	require.Equal(s.t, []types.UID{s.pod.UID}, s.store.Changed(Key{"PodCertificateRequest", "ns", name}))
}

func chainUntil(text string, begin time.Time) certificatesv1.PodCertificateRequestStatus {
	from, until := metav1.NewTime(begin), metav1.NewTime(begin.Add(time.Hour))
	return certificatesv1.PodCertificateRequestStatus{CertificateChain: text, BeginRefreshAt: &from, NotAfter: &until}
}

func certificateNamed(name string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(name)}))
}

func TestCertificateIsAskedForOnceAndRenewed(t *testing.T) {
	s := newSigning(t)
	for range 2 {
		_, err := s.ask()
		require.ErrorIs(t, err, ErrNotIssued)
	}
	require.Len(t, s.requests(), 1)
	spec := s.requests()[0].Spec
	require.Equal(t, []any{types.UID("p-uid"), types.UID("sa-uid"), types.UID("n-uid"), "x.test/s", map[string]string{"x.test/a": "b"}, int32(3600)},
		[]any{spec.PodUID, spec.ServiceAccountUID, spec.NodeUID, spec.SignerName, spec.UnverifiedUserAnnotations, *spec.MaxExpirationSeconds})
	proof, err := x509.ParseCertificateRequest(spec.StubPKCS10Request)
	require.NoError(t, err)
	require.NoError(t, proof.CheckSignature())

	s.answer("req-1", "Issued", chainUntil("a comment\n"+certificateNamed("one"), time.Now().Add(-time.Second)))
	first, err := s.ask()
	require.NoError(t, err)
	require.Equal(t, certificateNamed("one"), string(first.Chain), "comments are dropped")
	key, _ := pem.Decode(first.Key)
	private, err := x509.ParsePKCS8PrivateKey(key.Bytes)
	require.NoError(t, err)
	require.Equal(t, proof.PublicKey, private.(crypto.Signer).Public(), "the certificate is of the key that was proven")

	s.store.credentials[certificateKey{"p-uid", "tls", 0}].now.Refresh = time.Now() // whatever the spread was
	waiting, err := s.ask()
	require.NoError(t, err)
	require.Equal(t, first.Chain, waiting.Chain, "the old one is used until the new one comes")
	require.NoError(t, waiting.Stale)
	require.Len(t, s.requests(), 2)
	s.answer("req-2", "Issued", chainUntil(certificateNamed("two"), time.Now().Add(time.Hour)))
	second, err := s.ask()
	require.NoError(t, err)
	require.Equal(t, certificateNamed("two"), string(second.Chain))
	require.NotEqual(t, first.Key, second.Key)
	require.Empty(t, s.store.entries, "answered requests are not kept")
	s.store.Forget(s.pod.UID)
	require.Empty(t, s.store.credentials)
}

func TestRefusedCertificateIsNotAskedForAgain(t *testing.T) {
	for _, condition := range []string{"Denied", "Failed"} {
		t.Run(condition, func(t *testing.T) {
			s := newSigning(t)
			_, err := s.ask()
			require.ErrorIs(t, err, ErrNotIssued)
			s.answer("req-1", condition, certificatesv1.PodCertificateRequestStatus{})
			for range 2 {
				_, err = s.ask()
				require.ErrorContains(t, err, "podcertificaterequest req-1: "+condition+": Because: so it is")
			}
			require.Len(t, s.requests(), 1)
		})
	}
	t.Run("renewal", func(t *testing.T) {
		s := newSigning(t)
		_, err := s.ask()
		require.ErrorIs(t, err, ErrNotIssued)
		s.answer("req-1", "Issued", chainUntil(certificateNamed("one"), time.Now().Add(time.Hour)))
		_, err = s.ask()
		require.NoError(t, err)
		s.store.credentials[certificateKey{"p-uid", "tls", 0}].now.Refresh = time.Now()
		_, err = s.ask()
		require.NoError(t, err)
		s.answer("req-2", "Denied", certificatesv1.PodCertificateRequestStatus{})
		c, err := s.ask()
		require.NoError(t, err, "the old certificate is still good")
		require.ErrorContains(t, c.Stale, "Denied: Because")
		require.Zero(t, c.Refresh)
	})
}

func TestDeletedCertificateRequestIsMadeAgain(t *testing.T) {
	s := newSigning(t)
	_, err := s.ask()
	require.ErrorIs(t, err, ErrNotIssued)
	require.NoError(t, s.client.CertificatesV1().PodCertificateRequests("ns").Delete(t.Context(), "req-1", metav1.DeleteOptions{}))
	require.Len(t, s.store.Changed(Key{"PodCertificateRequest", "ns", "req-1"}), 1)
	_, err = s.ask()
	require.ErrorIs(t, err, ErrNotIssued)
	_, err = s.ask()
	require.ErrorIs(t, err, ErrNotIssued)
	require.Equal(t, "req-2", s.requests()[0].Name)
}

func TestKeyTypes(t *testing.T) {
	for _, kind := range []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"} {
		key, proof, err := keyWithProof(kind)
		require.NoError(t, err, kind)
		req, err := x509.ParseCertificateRequest(proof)
		require.NoError(t, err, kind)
		require.NoError(t, req.CheckSignature(), kind)
		block, _ := pem.Decode(key)
		require.Equal(t, "PRIVATE KEY", block.Type)
	}
	_, _, err := keyWithProof("DSA")
	require.ErrorContains(t, err, `keyType "DSA" is none of`)
}
