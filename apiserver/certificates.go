package apiserver

import (
	"crypto/x509"
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

const (
	// certificateTrust is for how long a connection's certificate is not looked at again.
	// Its signature can't change; how long it is valid is asked for each request.
	certificateTrust = time.Minute
	// maxCertificates are kept; a connection has one.
	maxCertificates = 10_000
)

// certificates remembers whom the certificates of open connections name: verifying a
// signature costs more than answering a small read.
type certificates struct {
	next     authenticator.Request
	believed func() *x509.CertPool // whose certificates are good now

	mu    sync.Mutex
	known map[*x509.Certificate]named // by the certificate of one connection; guarded by mu
}

// named is what a certificate was good for.
type named struct {
	response *authenticator.Response
	believed *x509.CertPool // by these authorities
	until    time.Time
}

func newCertificates(next authenticator.Request, believed func() *x509.CertPool) *certificates {
	return &certificates{next: next, believed: believed, known: map[*x509.Certificate]named{}}
}

// AuthenticateRequest implements authenticator.Request. Requests that show more than a
// certificate are looked at each time.
func (c *certificates) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || r.Header.Get("Authorization") != "" || r.Header.Get("Sec-WebSocket-Protocol") != "" {
		return c.next.AuthenticateRequest(r)
	}
	leaf, believed := r.TLS.PeerCertificates[0], c.believed()
	if response := c.find(leaf, believed, time.Now()); response != nil {
		return response, true, nil
	}
	response, ok, err := c.next.AuthenticateRequest(r)
	if ok && err == nil && response.User.GetName() != user.Anonymous {
		c.keep(leaf, believed, response, time.Now())
	}
	return response, ok, err
}

func (c *certificates) find(leaf *x509.Certificate, believed *x509.CertPool, now time.Time) *authenticator.Response {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.known[leaf]
	if !ok || n.believed != believed || now.After(n.until) {
		return nil
	}
	copied := *n.response // who takes it may change the answer, though not the user
	return &copied
}

func (c *certificates) keep(leaf *x509.Certificate, believed *x509.CertPool, response *authenticator.Response, now time.Time) {
	until := now.Add(certificateTrust)
	if leaf.NotAfter.Before(until) {
		until = leaf.NotAfter
	}
	copied := *response
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxCertificates {
		clear(c.known)
	}
	c.known[leaf] = named{&copied, believed, until}
}
