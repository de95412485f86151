package certfile

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
)

// Pair is a certificate, with those of authorities in between, and its key.
type Pair struct{ followed[*tls.Certificate] }

// LoadPair reads a pair. The name says what it is for.
func LoadPair(name, certFile, keyFile string) (*Pair, error) {
	p := &Pair{followed[*tls.Certificate]{name: name, paths: []string{certFile, keyFile}, make: makePair}}
	return p, p.load()
}

func makePair(contents [][]byte) (*tls.Certificate, error) {
	if err := whole(contents[0]); err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	return &pair, err
}

// Certificate is the pair.
func (p *Pair) Certificate() *tls.Certificate { return p.now.Load().made }

// PEM are the contents of the files.
func (p *Pair) PEM() (cert, key []byte) {
	contents := p.now.Load().contents
	return contents[0], contents[1]
}

var errCutOff = errors.New("it ends in the middle of a PEM block")

// whole is an error if a file was cut off: what is left of it would be taken for all.
func whole(data []byte) error {
	for block, rest := pem.Decode(data); ; block, rest = pem.Decode(rest) {
		if block != nil {
			continue
		}
		if bytes.Contains(rest, []byte("-----BEGIN")) {
			return errCutOff
		}
		return nil
	}
}
