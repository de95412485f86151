// Package seal hides the values of Secrets before etcd, the event stream and the
// history see them (invariant 8).
//
// What is stored for a Secret is a JSON object of the same kind that still shows its
// metadata and type, so that it can be selected, owned and garbage-collected, and one
// member "sealed": the whole object, encrypted with AES-256-GCM and bound to its key
// in etcd. The last-applied annotation repeats the values and is only inside.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// KeySize is the length of a key file in bytes: AES-256.
const KeySize = 32

// ErrTampered says that a sealed object was changed, moved to another key, or sealed
// with another key file.
var ErrTampered = errors.New("sealed object does not open: altered, moved, or sealed with another key")

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// Sealer seals and opens with one key. It is safe for concurrent use.
type Sealer struct{ aead cipher.AEAD }

// New returns a sealer for a key of KeySize bytes.
func New(key []byte) (*Sealer, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("sealing key has %d bytes, want %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Sealer{aead: aead}, nil
}

// Load reads the key file, or makes one (0600) if there is none yet.
func Load(path string) (*Sealer, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = create(path)
	}
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	return New(key)
}

// create writes a new key so that a crash leaves either no file or a whole one.
func create(path string) ([]byte, error) {
	key := make([]byte, KeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".seal-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name()) // gone already after the rename
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	return key, os.Rename(f.Name(), path)
}

// outside is what a sealed object shows.
type outside struct {
	Kind       string                     `json:"kind"`
	APIVersion string                     `json:"apiVersion"`
	Metadata   map[string]json.RawMessage `json:"metadata"`
	Type       string                     `json:"type,omitempty"`
	Sealed     string                     `json:"sealed,omitempty"`
}

// Seal returns the form of object that may leave the process.
func (s *Sealer) Seal(key string, object []byte) ([]byte, error) {
	var o outside
	if err := json.Unmarshal(object, &o); err != nil {
		return nil, fmt.Errorf("object at %s: %w", key, err)
	}
	if err := o.hideLastApplied(); err != nil {
		return nil, fmt.Errorf("annotations of the object at %s: %w", key, err)
	}
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(object)+s.aead.Overhead())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	o.Sealed = base64.StdEncoding.EncodeToString(s.aead.Seal(nonce, nonce, object, []byte(key)))
	return json.Marshal(o)
}

func (o *outside) hideLastApplied() error {
	raw, ok := o.Metadata["annotations"]
	if !ok {
		return nil
	}
	var annotations map[string]string
	if err := json.Unmarshal(raw, &annotations); err != nil {
		return err
	}
	delete(annotations, lastApplied)
	if len(annotations) == 0 {
		delete(o.Metadata, "annotations")
		return nil
	}
	var err error
	o.Metadata["annotations"], err = json.Marshal(annotations)
	return err
}

// Open returns the object that was sealed at key. Bytes that were never sealed are
// returned as they are and called stale, so that a cluster can begin to seal.
func (s *Sealer) Open(key string, object []byte) (plain []byte, stale bool, err error) {
	var o outside
	if err := json.Unmarshal(object, &o); err != nil {
		return nil, false, fmt.Errorf("object at %s: %w", key, err)
	}
	if o.Sealed == "" {
		return object, true, nil
	}
	box, err := base64.StdEncoding.DecodeString(o.Sealed)
	if err != nil || len(box) < s.aead.NonceSize() {
		return nil, false, fmt.Errorf("object at %s: %w", key, ErrTampered)
	}
	n := s.aead.NonceSize()
	plain, err = s.aead.Open(nil, box[:n], box[n:], []byte(key))
	if err != nil {
		return nil, false, fmt.Errorf("object at %s: %w", key, ErrTampered)
	}
	return plain, false, nil
}
