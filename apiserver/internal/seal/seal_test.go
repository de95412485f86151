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

// untold fails no test: what is told of a file has a test of its own.
func untold(error) {}

func sealer(t *testing.T) *Sealer {
	t.Helper()
	s, err := Load(filepath.Join(t.TempDir(), "key"), untold)
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
	if _, err := Load(path, untold); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	if _, err := Load(path, untold); err != nil {
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
	if _, err := Load(path, untold); err == nil {
		t.Fatal("a short key file was accepted")
	}
}

func FuzzOpen(f *testing.F) {
	path := filepath.Join(f.TempDir(), "key")
	s, err := Load(path, untold)
	if err != nil {
		f.Fatal(err)
	}
	box, err := s.Seal("/k", []byte(secret))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(box)
	f.Add([]byte(secret))
	f.Add([]byte(`{"sealed":"!"}`))
	f.Fuzz(func(t *testing.T, object []byte) { _, _, _ = s.Open("/k", object) })
}

func mustSeal(t *testing.T, s *Sealer) []byte {
	t.Helper()
	box, err := s.Seal("/k", []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return box
}

// TestRotation: a loaded sealer takes a new key up by itself; what former keys sealed opens
// and is stale until the key is forgotten.
func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	s, err := Load(path, untold)
	if err != nil {
		t.Fatal(err)
	}
	old := mustSeal(t, s)
	fresh, err := Rotate(path)
	if err != nil {
		t.Fatal(err)
	}
	names, err := Names(path)
	if err != nil || len(names) != 2 || names[0] != fresh {
		t.Fatalf("Names = %v, %v; want %s and one more", names, err, fresh)
	}
	for name, tc := range map[string]struct {
		box   []byte
		stale bool
		key   string
	}{
		"former key":           {old, true, names[1]},
		"former key, unnamed":  {bytes.Replace(old, []byte(names[1]+nameEnd), nil, 1), true, Unnamed},
		"present key":          {mustSeal(t, s), false, fresh},
		"present key, unnamed": {bytes.Replace(mustSeal(t, s), []byte(fresh+nameEnd), nil, 1), false, Unnamed},
	} {
		plain, stale, err := s.Open("/k", tc.box)
		if err != nil || string(plain) != secret || stale != tc.stale {
			t.Errorf("%s: Open = %s, stale %v, %v", name, plain, stale, err)
		}
		if key, err := KeyOf(tc.box); err != nil || key != tc.key {
			t.Errorf("%s: KeyOf = %q, %v; want %q", name, key, err, tc.key)
		}
	}
	if key, err := KeyOf([]byte(secret)); err != nil || key != NotSealed {
		t.Errorf("KeyOf a plain object = %q, %v", key, err)
	}

	if err := Forget(path, fresh); !errors.Is(err, ErrPresentKey) {
		t.Errorf("Forget the present key: %v", err)
	}
	if err := Forget(path, "none"); err == nil {
		t.Error("a key that is not there was forgotten")
	}
	if err := Forget(path, names[1]); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Open("/k", old); !errors.Is(err, ErrTampered) || !strings.Contains(err.Error(), names[1]) {
		t.Errorf("Open with a forgotten key = %v; want an error that names it", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
}

// TestBadFileKeepsTheKeys: a running server goes on with what it has.
func TestBadFileKeepsTheKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	var told []string
	s, err := Load(path, func(err error) { told = append(told, err.Error()) })
	if err != nil {
		t.Fatal(err)
	}
	box := mustSeal(t, s)
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stale, err := s.Open("/k", box); err != nil || stale {
		t.Fatalf("after a bad write: stale %v, %v", stale, err)
	}
	mustSeal(t, s)
	if len(told) != 1 || !strings.Contains(told[0], path) {
		t.Fatalf("told %q, want one mistake with the file's name", told)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	mustSeal(t, s)
	if len(told) != 2 {
		t.Fatalf("told %q, want another mistake", told)
	}
}

func BenchmarkSealAndOpen(b *testing.B) {
	s, err := Load(filepath.Join(b.TempDir(), "key"), untold)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		box, err := s.Seal("/k", []byte(secret))
		if err == nil {
			_, _, err = s.Open("/k", box)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
