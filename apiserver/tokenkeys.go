package apiserver

import (
	"context"
	"crypto"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/keyutil"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
	"github.com/rutter-project/rutter/apiserver/pki"
)

// tokenKeys are the keys of the service-account issuer.
type tokenKeys struct {
	signing any
	// public are those whose tokens are believed: the signing key's, then those that were
	// or will be used.
	public []any
}

// tokenKeys reads the keys that the configuration names. Without a file the signing key is
// the authority's own, made at first use; a nil authority leaves it out.
func (c AccessConfig) tokenKeys(authority *pki.Authority) (tokenKeys, error) {
	var keys tokenKeys
	var err error
	switch {
	case c.SigningKeyFile != "":
		if keys.signing, err = keyutil.PrivateKeyFromFile(c.SigningKeyFile); err != nil {
			return tokenKeys{}, fmt.Errorf("--service-account-signing-key-file: %w", err)
		}
	case authority != nil:
		if keys.signing, err = authority.SigningKey("service-account"); err != nil {
			return tokenKeys{}, err
		}
	}
	if keys.signing != nil {
		signer, ok := keys.signing.(crypto.Signer)
		if !ok {
			return tokenKeys{}, errNoSigner
		}
		keys.public = append(keys.public, signer.Public())
	}
	for _, path := range c.TokenKeyFiles {
		more, err := keyutil.PublicKeysFromFile(path)
		if err != nil {
			return tokenKeys{}, fmt.Errorf("--service-account-key-file: %w", err)
		}
		keys.add(more)
	}
	return keys, nil
}

var errNoSigner = errors.New("--service-account-signing-key-file: the key can't sign; give a private RSA or ECDSA key")

// add takes keys in that are not there yet.
func (k *tokenKeys) add(more []any) {
	for _, key := range more {
		known := false
		for _, have := range k.public {
			equal, ok := have.(interface{ Equal(crypto.PublicKey) bool })
			known = known || ok && equal.Equal(key)
		}
		if !known {
			k.public = append(k.public, key)
		}
	}
}

// SecretTokens returns what signs the tokens that Secrets of type
// kubernetes.io/service-account-token hold, with the configured key.
func SecretTokens(c AccessConfig, authority *pki.Authority) (func(context.Context, *corev1.ServiceAccount, *corev1.Secret) (string, error), error) {
	keys, err := c.tokenKeys(authority)
	if err != nil {
		return nil, err
	}
	return kinds.SecretTokens(keys.signing)
}
