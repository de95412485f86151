// Package pki is the cluster's certificate authority: made at first start, kept in one
// directory (0700, keys 0600), and asked for a certificate by every part of the
// cluster that talks TLS. Identities are Kubernetes': the common name is the user, the
// organizations are the groups.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/rutter-project/rutter/apiserver/wholefile"
)

// Lifetimes. Leaves are renewed at start once a third of their time is left.
const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 365 * 24 * time.Hour
	skew     = 5 * time.Minute // clocks of other machines may be behind
)

// Authority signs certificates for one cluster. It is safe for concurrent use.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// Leaf says what a certificate is for.
type Leaf struct {
	Name          string   // file name without ending
	CommonName    string   // the user, for client certificates
	Organizations []string // the groups
	Hosts         []string // DNS names and IP addresses, for server certificates
	Client        bool
	Server        bool
}

// Pair are the files of one certificate and its key.
type Pair struct{ CertFile, KeyFile string }

// Load opens the authority in dir or makes it.
func Load(dir, cluster string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	a := &Authority{dir: dir}
	// Only the certificate tells whether there is an authority: with its key lost, a
	// new one would cut off every node and client without a word.
	_, err := os.Stat(a.CAFile())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = a.create(cluster)
	case err == nil:
		err = a.read()
	}
	if err != nil {
		return nil, fmt.Errorf("certificate authority in %s: %w", dir, err)
	}
	return a, nil
}

// CAFile is the path of the authority's certificate.
func (a *Authority) CAFile() string { return filepath.Join(a.dir, "ca.crt") }

// CAPEM is what the authority's file held when it was loaded: its certificate first.
func (a *Authority) CAPEM() []byte { return slices.Clone(a.pem) }

// Certificate is the authority's certificate; behind it, its file may hold those of others.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Pool holds the authority's certificate alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *Authority) read() error {
	certPEM, err := os.ReadFile(a.CAFile())
	if err != nil {
		return err
	}
	if a.key, err = readKey(filepath.Join(a.dir, "ca.key")); err != nil {
		return err
	}
	if a.cert, err = parseCert(certPEM); err != nil {
		return fmt.Errorf("ca.crt: %w", err)
	}
	if public, ok := a.cert.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(a.key.Public()) {
		return errors.New("ca.key is not the key of ca.crt")
	}
	a.pem = certPEM
	return nil
}

func (a *Authority) create(cluster string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := serialNumber()
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: cluster + "-ca"},
		NotBefore: now.Add(-skew), NotAfter: now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	if err := writeKey(filepath.Join(a.dir, "ca.key"), key); err != nil {
		return err
	}
	// The certificate is written last: with it there, the authority is whole.
	if err := wholefile.Write(a.CAFile(), certPEM(der), 0o644); err != nil {
		return err
	}
	return a.read()
}

// Issue returns the leaf's files, made or renewed if they are missing, near their end,
// of another authority, or for other names or uses.
func (a *Authority) Issue(leaf Leaf) (Pair, error) {
	pair := Pair{filepath.Join(a.dir, leaf.Name+".crt"), filepath.Join(a.dir, leaf.Name+".key")}
	if a.stillGood(pair, leaf) {
		return pair, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	der, err := a.sign(leaf, key.Public())
	if err == nil {
		err = writeKey(pair.KeyFile, key)
	}
	if err == nil {
		err = wholefile.Write(pair.CertFile, certPEM(der), 0o644)
	}
	if err != nil {
		return Pair{}, fmt.Errorf("issue %s: %w", leaf.Name, err)
	}
	return pair, nil
}

func (a *Authority) sign(leaf Leaf, public crypto.PublicKey) ([]byte, error) {
	template, err := a.template(leaf)
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
}

// template is the leaf's certificate before it is signed.
func (*Authority) template(leaf Leaf) (*x509.Certificate, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: leaf.CommonName, Organization: leaf.Organizations},
		NotBefore:    now.Add(-skew), NotAfter: now.Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: leaf.usages(),
	}
	template.DNSNames, template.IPAddresses = splitHosts(leaf.Hosts)
	return template, nil
}

func (l Leaf) usages() []x509.ExtKeyUsage {
	var usages []x509.ExtKeyUsage
	if l.Client {
		usages = append(usages, x509.ExtKeyUsageClientAuth)
	}
	if l.Server {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	return usages
}

func (a *Authority) stillGood(pair Pair, leaf Leaf) bool {
	loaded, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
	if err != nil {
		return false
	}
	cert := loaded.Leaf
	names, ips := splitHosts(leaf.Hosts)
	return cert.CheckSignatureFrom(a.cert) == nil &&
		time.Until(cert.NotAfter) > leafLife/3 &&
		cert.Subject.CommonName == leaf.CommonName &&
		slices.Equal(cert.Subject.Organization, leaf.Organizations) &&
		slices.Equal(cert.ExtKeyUsage, leaf.usages()) &&
		slices.Equal(cert.DNSNames, names) &&
		slices.EqualFunc(cert.IPAddresses, ips, net.IP.Equal)
}

// brief is a life so short that the skew at its beginning is not taken off its end.
const brief = 8 * time.Hour

// SignRequest signs what somebody else's key asks for: its subject and subject
// alternative names, with these usages, for at most as long as the authority lives. The
// caller has decided that the request is right.
func (a *Authority) SignRequest(r *x509.CertificateRequest, key x509.KeyUsage, extended []x509.ExtKeyUsage, life time.Duration) ([]byte, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if !now.Before(a.cert.NotAfter) {
		return nil, fmt.Errorf("sign certificate of %s: the authority's own certificate has ended at %s", r.Subject.CommonName, a.cert.NotAfter.Format(time.RFC3339))
	}
	until := now.Add(life)
	if life >= brief {
		until = until.Add(-skew)
	}
	if until.After(a.cert.NotAfter) {
		until = a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: r.Subject, NotBefore: now.Add(-skew), NotAfter: until,
		DNSNames: r.DNSNames, IPAddresses: r.IPAddresses, EmailAddresses: r.EmailAddresses, URIs: r.URIs,
		KeyUsage: key, ExtKeyUsage: extended, BasicConstraintsValid: true,
	}, a.cert, r.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", r.Subject.CommonName, err)
	}
	return certPEM(der), nil
}

// SigningKey returns a key for signing tokens, made at first use.
func (a *Authority) SigningKey(name string) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(a.dir, name+".key")
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return made, writeKey(path, made)
	}
	if err != nil {
		return nil, err
	}
	signing, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds no ECDSA key", path)
	}
	return signing, nil
}

func splitHosts(hosts []string) (names []string, ips []net.IP) {
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			ips = append(ips, ip)
			continue
		}
		names = append(names, h)
	}
	return names, ips
}

func serialNumber() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func parseCert(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	return x509.ParseCertificate(block.Bytes)
}

func readKey(path string) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM block", path)
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return wholefile.Write(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}
