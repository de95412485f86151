// Package seal hides the values of Secrets before etcd, the event stream and the
// history see them (invariant 8).
//
// What is stored for a Secret is a JSON object of the same kind that still shows its
// type and as much metadata as it takes to select it, to own it, to collect it as garbage
// and to bind a token to it; and one member "sealed": the whole object, encrypted with
// AES-256-GCM and bound to its key in etcd. Annotations and managed fields are only
// inside: the last-applied annotation repeats the values, and managed fields the names of
// their keys.
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
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// KeySize is the length of a key file in bytes: AES-256.
const KeySize = 32

// ErrTampered says that a sealed object was changed, moved to another key, or sealed
// with another key file.
var ErrTampered = errors.New("sealed object does not open: altered, moved, or sealed with another key")

// visible is the metadata that others act upon. Annotations are not among it, with one
// exception below.
var visible = []string{
	"name", "namespace", "uid", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
	"labels", "ownerReferences", "finalizers",
}

// visibleAnnotations name the account that a token is for: its controller finds a Secret
// by it and needs nothing else of it.
var visibleAnnotations = []string{"kubernetes.io/service-account.name", "kubernetes.io/service-account.uid"}

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
	if err := o.hide(); err != nil {
		return nil, fmt.Errorf("annotations of the object at %s: %w", key, err)
	}
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(object)+s.aead.Overhead())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	o.Sealed = base64.StdEncoding.EncodeToString(s.aead.Seal(nonce, nonce, object, []byte(key)))
	return json.Marshal(o)
}

// hide takes away what nobody outside needs.
func (o *outside) hide() error {
	metadata := make(map[string]json.RawMessage, len(o.Metadata))
	for _, name := range visible {
		if raw, ok := o.Metadata[name]; ok {
			metadata[name] = raw
		}
	}
	raw := o.Metadata["annotations"]
	o.Metadata, o.Sealed = metadata, ""
	if raw == nil {
		return nil
	}
	var annotations map[string]string
	if err := json.Unmarshal(raw, &annotations); err != nil {
		return err
	}
	maps.DeleteFunc(annotations, func(name, _ string) bool { return !slices.Contains(visibleAnnotations, name) })
	if len(annotations) == 0 {
		return nil
	}
	var err error
	metadata["annotations"], err = json.Marshal(annotations)
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
