package servers

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// pair are two files in PEM.
type pair struct{ cert, key string }

// certificates are what kube-apiserver has to be given.
type certificates struct {
	ca, serving, admin pair
	tokens             pair // service-account tokens: public and private key
}

// validity is longer than any comparison takes.
const validity = 24 * time.Hour

// authority signs the certificates of one server.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
}

// writeCertificates makes an authority and what it signs for one server.
func writeCertificates(dir string) (certificates, error) {
	var c certificates
	a := &authority{dir: dir}
	var err error
	if c.ca, err = a.issue("ca", &x509.Certificate{
		Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}); err != nil {
		return c, err
	}
	if c.serving, err = a.issue("serving", &x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}); err != nil {
		return c, err
	}
	if c.admin, err = a.issue("admin", &x509.Certificate{
		Subject:  pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return c, err
	}
	c.tokens, err = a.keys("tokens")
	return c, err
}

// issue signs a certificate; the first one is the authority's own.
func (a *authority) issue(name string, template *x509.Certificate) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return pair{}, err
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(validity)
	if a.cert == nil {
		a.cert, a.key = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return pair{}, err
	}
	return a.write(name, &pem.Block{Type: "CERTIFICATE", Bytes: der}, key)
}

// keys makes a key without a certificate.
func (a *authority) keys(name string) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return pair{}, err
	}
	return a.write(name, &pem.Block{Type: "PUBLIC KEY", Bytes: public}, key)
}

func (a *authority) write(name string, public *pem.Block, key *ecdsa.PrivateKey) (pair, error) {
	p := pair{cert: filepath.Join(a.dir, name+".crt"), key: filepath.Join(a.dir, name+".key")}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return p, err
	}
	if err := os.WriteFile(p.cert, pem.EncodeToMemory(public), 0o600); err != nil {
		return p, err
	}
	return p, os.WriteFile(p.key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}
