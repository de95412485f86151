package seal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const secret = `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s","namespace":"n","labels":{"a":"b"},"managedFields":[{"manager":"kubectl","fieldsV1":{"f:data":{"f:KEYNAME":{}}}}],"generateName":"CANARY-","annotations":{"note":"CANARY","kubernetes.io/service-account.name":"sa","kubectl.kubernetes.io/last-applied-configuration":"{\"data\":{\"p\":\"Q0FOQVJZ\"}}"}},"data":{"p":"Q0FOQVJZ"},"type":"Opaque"}`

func sealer(t *testing.T) *Sealer {
	t.Helper()
	s, err := Load(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSealedObjectShowsMetadataAndNoValue(t *testing.T) {
	s := sealer(t)
	box, err := s.Seal("/k", []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []string{"Q0FOQVJZ", "CANARY", "last-applied", "KEYNAME", "managedFields"} {
		if bytes.Contains(box, []byte(hidden)) {
			t.Errorf("sealed object shows %q: %s", hidden, box)
		}
	}
	for _, shown := range []string{`{"kind":"Secret","apiVersion":"v1","metadata":{`, `"labels":{"a":"b"}`, `"kubernetes.io/service-account.name":"sa"`, `"type":"Opaque"`} {
		if !strings.Contains(string(box), shown) {
			t.Errorf("sealed object lacks %s: %s", shown, box)
		}
	}
	plain, _, err := s.Open("/k", box)
	if err != nil || string(plain) != secret {
		t.Fatalf("Open = %s, %v; want the object as sealed", plain, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	s := sealer(t)
	box, err := s.Seal("/k", []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]func() ([]byte, bool, error){
		"moved to another key":   func() ([]byte, bool, error) { return s.Open("/other", box) },
		"sealed by another file": func() ([]byte, bool, error) { return sealer(t).Open("/k", box) },
		"cut": func() ([]byte, bool, error) {
			return s.Open("/k", []byte(`{"kind":"Secret","apiVersion":"v1","metadata":{},"sealed":"AAAA"}`))
		},
	}
	for name, open := range tests {
		t.Run(name, func(t *testing.T) {
			if _, _, err := open(); !errors.Is(err, ErrTampered) {
				t.Errorf("err = %v, want ErrTampered", err)
			}
		})
	}
}

func TestOpenPassesWhatWasNeverSealed(t *testing.T) {
	got, _, err := sealer(t).Open("/k", []byte(secret))
	if err != nil || string(got) != secret {
		t.Fatalf("Open = %s, %v", got, err)
	}
}

func TestLoadKeepsTheKeyPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if _, err := Load(path); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	if _, err := Load(path); err != nil {
		t.Fatal(err)
	}
	after, _ := os.ReadFile(path)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || !bytes.Equal(before, after) {
		t.Fatalf("mode %v, err %v, key kept: %v", info.Mode(), err, bytes.Equal(before, after))
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil {
		t.Fatal("a short key file was accepted")
	}
}

func FuzzOpen(f *testing.F) {
	s, err := New(make([]byte, KeySize))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(secret))
	f.Add([]byte(`{"sealed":"!"}`))
	f.Fuzz(func(t *testing.T, object []byte) { _, _, _ = s.Open("/k", object) })
}
