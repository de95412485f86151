package certfile

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/util/cert"
)

// Bundle are the authorities whose certificates prove who a client is.
type Bundle struct{ followed[*x509.CertPool] }

var _ dynamiccertificates.CAContentProvider = (*Bundle)(nil)

// LoadBundle reads a bundle. A file without own is refused: whoever was given a
// certificate by this process would not be known any more.
func LoadBundle(name, path string, own *x509.Certificate) (*Bundle, error) {
	b := &Bundle{followed[*x509.CertPool]{name: name, paths: []string{path}, make: func(contents [][]byte) (*x509.CertPool, error) {
		return makePool(contents[0], own)
	}}}
	return b, b.load()
}

var errWithoutOwn = errors.New("the authority that this process signs with is missing in it; keep its certificate there, and restart if it was replaced together with its key")

func makePool(data []byte, own *x509.Certificate) (*x509.CertPool, error) {
	if err := whole(data); err != nil {
		return nil, err
	}
	all, err := cert.ParseCertsPEM(data)
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	if !slices.ContainsFunc(all, own.Equal) {
		return nil, errWithoutOwn
	}
	pool := x509.NewCertPool()
	for _, c := range all {
		pool.AddCert(c)
	}
	return pool, nil
}

// Pool holds the authorities. It is another one after each change.
func (b *Bundle) Pool() *x509.CertPool { return b.now.Load().made }

// CurrentCABundleContent implements dynamiccertificates.CAContentProvider: the file.
func (b *Bundle) CurrentCABundleContent() []byte { return b.now.Load().contents[0] }

// VerifyOptions implements dynamiccertificates.CAContentProvider: what a client's
// certificate has to be.
func (b *Bundle) VerifyOptions() (x509.VerifyOptions, bool) {
	return x509.VerifyOptions{Roots: b.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, true
}
