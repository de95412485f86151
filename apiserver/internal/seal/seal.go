// Package seal hides the values of Secrets before etcd, the event stream and the
// history see them (invariant 8).
//
// What is stored for a Secret is a JSON object of the same kind that still shows its
// type and as much metadata as it takes to select it, to own it, to collect it as garbage
// and to bind a token to it; and one member "sealed": the whole object, encrypted with
// AES-256-GCM and bound to its key in etcd. Annotations and managed fields are only
// inside: the last-applied annotation repeats the values, and managed fields the names of
// their keys.
//
// A key file holds the present key and those that were before it, so that the key can be
// changed while what the others sealed, in etcd and in the history, still opens.
package seal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/rutter-project/rutter/apiserver/wholefile"
)

// ErrTampered says that a sealed object was changed, or moved to another key in etcd, or
// sealed with a key that the key file does not hold.
var ErrTampered = errors.New("sealed object does not open: altered, moved, or sealed with a key that the key file does not hold")

// visible is the metadata that others act upon. Annotations are not among it, with one
// exception below.
var visible = []string{
	"name", "namespace", "uid", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
	"labels", "ownerReferences", "finalizers",
}

// visibleAnnotations name the account that a token is for: its controller finds a Secret
// by it and needs nothing else of it.
var visibleAnnotations = []string{"kubernetes.io/service-account.name", "kubernetes.io/service-account.uid"}

// Sealer seals with the present key of a key file and opens with any of its keys. It is
// safe for concurrent use.
type Sealer struct {
	path string
	told func(error)

	mu      sync.Mutex
	held    *keyring    // guarded by mu
	read    os.FileInfo // of the file when held was read; guarded by mu
	refused string      // what was told last of a file that can't be read, "" if it can; guarded by mu
}

// Load reads the key file, or makes one (0600) if there is none yet. told hears, once for
// each mistake, that the file was changed to what can't be read; it must not call back.
func Load(path string, told func(error)) (*Sealer, error) {
	s := &Sealer{path: path, told: told}
	_, err := s.keys()
	if errors.Is(err, fs.ErrNotExist) {
		if err = wholefile.Write(path, newKey(), 0o600); err == nil {
			_, err = s.keys()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	return s, nil
}

// keys are those that the file holds now. It costs one stat while the file stays the same.
// A file that can't be read any more leaves the keys that were.
func (s *Sealer) keys() (*keyring, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := os.Stat(s.path)
	if err == nil && s.held != nil && same(info, s.read) {
		return s.held, nil
	}
	var read *keyring
	if err == nil {
		read, err = readKeys(s.path)
	}
	switch {
	case err == nil:
		s.held, s.read, s.refused = read, info, ""
	case s.held == nil:
		return nil, err
	case s.refused != err.Error():
		s.refused = err.Error()
		s.told(err)
	}
	return s.held, nil
}

// same tells that a file was not replaced or written.
func same(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
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
	keys, err := s.keys()
	if err != nil {
		return nil, err
	}
	o.Sealed = keys.present().seal(key, object)
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

// Open returns the object that was sealed at key. What was sealed with a former key, or
// never, is called stale: the next write seals it with the present one.
func (s *Sealer) Open(key string, object []byte) (plain []byte, stale bool, err error) {
	var o outside
	if err := json.Unmarshal(object, &o); err != nil {
		return nil, false, fmt.Errorf("object at %s: %w: %w", key, ErrTampered, err)
	}
	if o.Sealed == "" {
		return object, true, nil
	}
	keys, err := s.keys()
	if err != nil {
		return nil, false, err
	}
	plain, by, err := keys.open(key, o.Sealed)
	if err != nil {
		return nil, false, fmt.Errorf("object at %s: %w", key, err)
	}
	return plain, by != keys.present(), nil
}

// KeyOf names the key that an object was sealed with, as far as the object itself tells:
// Unnamed for one that was sealed before keys had names, NotSealed for one that was not.
func KeyOf(object []byte) (string, error) {
	var o outside
	if err := json.Unmarshal(object, &o); err != nil {
		return "", err
	}
	if o.Sealed == "" {
		return NotSealed, nil
	}
	name, _, named := strings.Cut(o.Sealed, nameEnd)
	if !named {
		return Unnamed, nil
	}
	return name, nil
}
