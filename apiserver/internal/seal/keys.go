package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/rutter-project/rutter/apiserver/wholefile"
)

// KeySize is the length of a key in bytes: AES-256. A key file is a number of keys, one
// after the other, the present one first.
const KeySize = 32

// nameEnd stands between the name of a key and what was sealed with it.
const nameEnd = ":"

// What KeyOf says of objects that name no key.
const (
	Unnamed   = "unnamed"
	NotSealed = "none"
)

// keyring are the keys of a file, the present one first.
type keyring struct{ all []*key }

// key is one key. Its name tells which it is and nothing of what it is.
type key struct {
	name string
	aead cipher.AEAD
}

func (k *keyring) present() *key { return k.all[0] }

// readKeys reads a key file.
func readKeys(path string) (*keyring, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 || len(data)%KeySize != 0 {
		return nil, fmt.Errorf("%s has %d bytes, want %d for each key", path, len(data), KeySize)
	}
	ring := &keyring{}
	for raw := range slices.Chunk(data, KeySize) {
		block, err := aes.NewCipher(raw)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		ring.all = append(ring.all, &key{nameOf(raw), aead})
	}
	return ring, nil
}

// nameOf is the beginning of a digest of the key.
func nameOf(raw []byte) string {
	sum := sha256.Sum256(append([]byte("rutter sealing key "), raw...))
	return hex.EncodeToString(sum[:6])
}

// seal encrypts an object for its place in etcd.
func (k *key) seal(at string, object []byte) string {
	nonce := make([]byte, k.aead.NonceSize(), k.aead.NonceSize()+len(object)+k.aead.Overhead())
	_, _ = rand.Read(nonce) // never fails
	return k.name + nameEnd + base64.StdEncoding.EncodeToString(k.aead.Seal(nonce, nonce, object, []byte(at)))
}

// open decrypts what was sealed for a place, and says by which key.
func (k *keyring) open(at, sealed string) ([]byte, *key, error) {
	name, text, named := strings.Cut(sealed, nameEnd)
	if !named {
		text = sealed
	}
	box, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, nil, ErrTampered
	}
	for _, key := range k.all {
		n := key.aead.NonceSize()
		if named && key.name != name || len(box) < n {
			continue
		}
		if plain, err := key.aead.Open(nil, box[:n], box[n:], []byte(at)); err == nil {
			return plain, key, nil
		}
	}
	if named && !slices.ContainsFunc(k.all, func(key *key) bool { return key.name == name }) {
		return nil, nil, fmt.Errorf("%w (key %s)", ErrTampered, name)
	}
	return nil, nil, ErrTampered
}

// Names are the names of a file's keys, the present one first.
func Names(path string) ([]string, error) {
	ring, err := readKeys(path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, key := range ring.all {
		names = append(names, key.name)
	}
	return names, nil
}

// Rotate puts a new key in front of those of a file and returns its name. Whoever has
// loaded the file seals with it from then on.
func Rotate(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if _, err := readKeys(path); err != nil {
		return "", err
	}
	fresh := newKey()
	return nameOf(fresh), wholefile.Write(path, append(fresh, data...), 0o600)
}

// ErrPresentKey says that the key that seals can't be forgotten.
var ErrPresentKey = errors.New("this is the present key; rotate first")

// Forget takes a former key out of a file. What it sealed will never open again.
func Forget(path, name string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	names, err := Names(path)
	if err != nil {
		return err
	}
	switch i := slices.Index(names, name); i {
	case -1:
		return fmt.Errorf("%s holds no key %q", path, name)
	case 0:
		return ErrPresentKey
	default:
		return wholefile.Write(path, slices.Delete(data, i*KeySize, (i+1)*KeySize), 0o600)
	}
}

func newKey() []byte {
	key := make([]byte, KeySize)
	_, _ = rand.Read(key) // never fails
	return key
}
