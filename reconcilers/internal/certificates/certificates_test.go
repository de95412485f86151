package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var key, keyErr = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)

func request(t *testing.T, template x509.CertificateRequest) []byte {
	t.Helper()
	require.NoError(t, keyErr)
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

var nodeName = pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}

func csr(t *testing.T, signer string, template x509.CertificateRequest, usages ...certificatesv1.KeyUsage) *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "r", CreationTimestamp: metav1.Now()},
		Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: signer, Request: request(t, template), Usages: usages, Username: "system:node:n1",
			Groups: []string{"system:nodes"}},
	}
}

func approved(c *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
	c.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, LastUpdateTime: metav1.Now()}}
	return c
}

// allowing answers access reviews, which the API in memory does not.
type allowing struct {
	kubernetes.Interface
	answer func(authorizationv1.SubjectAccessReviewSpec) bool
}

type reviews struct {
	authorizationclient.AuthorizationV1Interface
	authorizationclient.SubjectAccessReviewInterface
	answer func(authorizationv1.SubjectAccessReviewSpec) bool
}

func (a allowing) AuthorizationV1() authorizationclient.AuthorizationV1Interface {
	return reviews{answer: a.answer}
}

func (r reviews) SubjectAccessReviews() authorizationclient.SubjectAccessReviewInterface { return r }

func (r reviews) RESTClient() rest.Interface { return nil }

func (r reviews) Create(_ context.Context, sar *authorizationv1.SubjectAccessReview, _ metav1.CreateOptions) (*authorizationv1.SubjectAccessReview, error) {
	sar.Status.Allowed = r.answer(sar.Spec)
	return sar, nil
}

type signed struct {
	key      x509.KeyUsage
	extended []x509.ExtKeyUsage
	life     time.Duration
	names    []string
}

func start(t *testing.T, s *fakeapi.Server, allowed string) *[]signed {
	t.Helper()
	return startAllowing(t, s, func(subresource string) bool { return subresource == allowed })
}

func startAllowing(t *testing.T, s *fakeapi.Server, allowed func(subresource string) bool) *[]signed {
	t.Helper()
	done := &[]signed{}
	client := allowing{Interface: s.Client(), answer: func(spec authorizationv1.SubjectAccessReviewSpec) bool {
		return spec.User == "system:node:n1" && allowed(spec.ResourceAttributes.Subresource)
	}}
	c, err := New(client, func(r *x509.CertificateRequest, key x509.KeyUsage, extended []x509.ExtKeyUsage, life time.Duration) ([]byte, error) {
		*done = append(*done, signed{key, extended, life, r.DNSNames})
		return []byte("PEM of " + r.Subject.CommonName), nil
	}, s, zerolog.New(zerolog.NewTestWriter(t)))
	require.NoError(t, err)
	fakeapi.Start(t, s, c)
	return done
}

func get(s *fakeapi.Server) *certificatesv1.CertificateSigningRequest {
	return fakeapi.Get[*certificatesv1.CertificateSigningRequest](s, "", "r")
}

var kubeletUsages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}

func TestNodeGetsItsCertificateWithoutAPerson(t *testing.T) {
	for name, c := range map[string]struct {
		allowed string
		signs   int
	}{"allowed for itself": {"selfnodeclient", 1}, "allowed for any node": {"nodeclient", 1}, "not allowed": {"nothing", 0}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := fakeapi.New()
				fakeapi.Put(s, csr(t, certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: nodeName}, kubeletUsages...))
				done := start(t, s, c.allowed)
				require.Len(t, *done, c.signs)
				if c.signs > 0 {
					require.Equal(t, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, (*done)[0].extended)
					require.Equal(t, "PEM of system:node:n1", string(get(s).Status.Certificate))
				} else {
					require.Empty(t, get(s).Status.Conditions)
				}
			})
		})
	}
}

func TestApprovedRequestIsSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		serving := approved(csr(t, certificatesv1.KubeletServingSignerName, x509.CertificateRequest{Subject: nodeName, DNSNames: []string{"n1"}},
			certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth))
		hour := int32(3600)
		serving.Spec.ExpirationSeconds = &hour
		fakeapi.Put(s, serving)
		done := start(t, s, "")
		require.Equal(t, []signed{{x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, time.Hour, []string{"n1"}}}, *done)
	})
}

func TestOthersSignersAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, approved(csr(t, "example.com/mine", x509.CertificateRequest{Subject: nodeName}, kubeletUsages...)))
		require.Empty(t, *start(t, s, "selfnodeclient"))
		require.Len(t, get(s).Status.Conditions, 1)
	})
}

func TestRefusedRequestSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, approved(csr(t, certificatesv1.KubeAPIServerClientSignerName, x509.CertificateRequest{Subject: nodeName}, certificatesv1.UsageServerAuth)))
		require.Empty(t, *start(t, s, ""))
		conditions := get(s).Status.Conditions
		require.Len(t, conditions, 2)
		require.Equal(t, certificatesv1.CertificateFailed, conditions[1].Type)
		require.Contains(t, conditions[1].Message, `lacks "client auth"`)
	})
}

// Nothing tells that a role was bound after the request was made.
func TestNodeMayBeAllowedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, csr(t, certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: nodeName}, kubeletUsages...))
		var bound atomic.Bool
		var asked atomic.Int32
		done := startAllowing(t, s, func(string) bool { asked.Add(1); return bound.Load() })
		time.Sleep(time.Hour) // the bubble's clock
		fakeapi.Settle()
		require.Empty(t, *done)
		require.Less(t, asked.Load(), int32(40), "it is asked ever more seldom")
		bound.Store(true)
		time.Sleep(longestPause)
		fakeapi.Settle()
		require.Len(t, *done, 1)
	})
}

// A certificate of n seconds, as status.certificate has it.
func certificate(t *testing.T, life time.Duration) []byte {
	t.Helper()
	require.NoError(t, keyErr)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(life)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestRequestsAreForgotten(t *testing.T) {
	mine := func(t *testing.T, conditions ...certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequest {
		c := csr(t, "example.com/mine", x509.CertificateRequest{Subject: nodeName}, kubeletUsages...)
		c.CreationTimestamp = metav1.NewTime(time.Now().Add(-23 * time.Hour)) // its decision came late
		for _, kind := range conditions {
			c.Status.Conditions = append(c.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: kind, Status: corev1.ConditionTrue, LastUpdateTime: metav1.Now()})
		}
		return c
	}
	issued := func(t *testing.T, life time.Duration) *certificatesv1.CertificateSigningRequest {
		c := mine(t, certificatesv1.CertificateApproved)
		c.Status.Certificate = certificate(t, life)
		return c
	}
	for name, c := range map[string]struct {
		make  func(*testing.T) *certificatesv1.CertificateSigningRequest
		after time.Duration // 0 is never
	}{
		"nobody decided": {func(t *testing.T) *certificatesv1.CertificateSigningRequest { return mine(t) }, time.Hour},
		"nobody signed": {func(t *testing.T) *certificatesv1.CertificateSigningRequest {
			return mine(t, certificatesv1.CertificateApproved)
		}, keepPending},
		"denied": {func(t *testing.T) *certificatesv1.CertificateSigningRequest {
			return mine(t, certificatesv1.CertificateDenied)
		}, keepSettled},
		"failed": {func(t *testing.T) *certificatesv1.CertificateSigningRequest {
			return mine(t, certificatesv1.CertificateApproved, certificatesv1.CertificateFailed)
		}, keepSettled},
		"signed":            {func(t *testing.T) *certificatesv1.CertificateSigningRequest { return issued(t, 24*time.Hour) }, keepSettled},
		"certificate ended": {func(t *testing.T) *certificatesv1.CertificateSigningRequest { return issued(t, 10*time.Minute) }, 10 * time.Minute},
		"conditions of others": {func(t *testing.T) *certificatesv1.CertificateSigningRequest {
			return mine(t, "Pondering")
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := fakeapi.New()
				fakeapi.Put(s, c.make(t))
				start(t, s, "")
				if c.after == 0 {
					time.Sleep(1000 * time.Hour)
					fakeapi.Settle()
					require.NotNil(t, get(s))
					return
				}
				time.Sleep(c.after - time.Minute) // the bubble's clock
				fakeapi.Settle()
				require.NotNil(t, get(s))
				time.Sleep(time.Minute + time.Second) // certificates count whole seconds
				fakeapi.Settle()
				require.Nil(t, get(s))
			})
		})
	}
}

func TestRefusals(t *testing.T) {
	kubelet, serving := signers[certificatesv1.KubeAPIServerClientKubeletSignerName], signers[certificatesv1.KubeletServingSignerName]
	servingUsages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
	uri, err := url.Parse("spiffe://x")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		signer signer
		r      x509.CertificateRequest
		usages []certificatesv1.KeyUsage
		want   string
	}{
		"good client":         {kubelet, x509.CertificateRequest{Subject: nodeName}, kubeletUsages, ""},
		"with encipherment":   {kubelet, x509.CertificateRequest{Subject: nodeName}, append(kubeletUsages[:2:2], certificatesv1.UsageKeyEncipherment), ""},
		"client with names":   {kubelet, x509.CertificateRequest{Subject: nodeName, DNSNames: []string{"n1"}}, kubeletUsages, "no subject alternative names"},
		"more usages":         {kubelet, x509.CertificateRequest{Subject: nodeName}, append(kubeletUsages[:2:2], certificatesv1.UsageServerAuth), "does not grant"},
		"masters":             {kubelet, x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes", "system:masters"}}}, kubeletUsages, "organization"},
		"not a node":          {kubelet, x509.CertificateRequest{Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:nodes"}}}, kubeletUsages, "common name"},
		"nameless node":       {kubelet, x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:", Organization: []string{"system:nodes"}}}, kubeletUsages, "common name"},
		"good server":         {serving, x509.CertificateRequest{Subject: nodeName, IPAddresses: []net.IP{{10, 0, 0, 1}}}, servingUsages, ""},
		"server without name": {serving, x509.CertificateRequest{Subject: nodeName}, servingUsages, "needs a DNS name"},
		"server with URI":     {serving, x509.CertificateRequest{Subject: nodeName, DNSNames: []string{"n1"}, URIs: []*url.URL{uri}}, servingUsages, "URIs"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.signer.refusal(&c.r, c.usages)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestLifetime(t *testing.T) {
	for seconds, want := range map[int32]time.Duration{1: shortest, 3600: time.Hour, 1 << 30: longest} {
		require.Equal(t, want, lifetime(&seconds))
	}
	require.Equal(t, longest, lifetime(nil))
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nAA==\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parse(data)
		if (r == nil) == (err == nil) {
			t.Fatal(errors.New("neither a request nor an error"))
		}
	})
}
