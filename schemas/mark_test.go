package schemas

import (
	"strings"
	"testing"
	"time"
)

func TestMarkNames(t *testing.T) {
	for _, good := range []string{"a", "deploy-42", "v1.2.3", "before_upgrade", "x9", strings.Repeat("a", 63)} {
		if err := CheckMark(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "now", "yesterday", "list", "delete", "rev-1", "rev-x", "5m", "1d12h", "-a", "a-", "a..b", "a--b", "A", "a/b", "a,b", "a b", "ä", "2026-01-02T03:04:05Z", strings.Repeat("a", 64)} {
		if CheckMark(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestMarkValues(t *testing.T) {
	if rev, err := ParseMark(MarkValue(42)); err != nil || rev != 42 {
		t.Errorf("%d, %v", rev, err)
	}
	for _, bad := range []string{"", "42", "rev-", "rev-0", "rev--1", "rev-+1", "rev-x"} {
		if _, err := ParseMark(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	marks, err := MarksOf([]byte(`{"data":{"a":"rev-1"}}`))
	if err != nil || marks["a"] != "rev-1" {
		t.Errorf("%v, %v", marks, err)
	}
	if _, err := MarksOf([]byte(`[]`)); err == nil {
		t.Error("a list is taken")
	}
}

// FuzzCheckMark: no name of a mark can be read as another instant, or end one.
func FuzzCheckMark(f *testing.F) {
	f.Add("deploy-42")
	f.Add("rev-1")
	f.Add("5m")
	f.Fuzz(func(t *testing.T, name string) {
		if CheckMark(name) != nil {
			return
		}
		_, duration := time.ParseDuration(name)
		_, at := time.Parse(time.RFC3339Nano, strings.ToUpper(name))
		if duration == nil || at == nil || strings.ContainsAny(name, "/,%? ") || strings.Contains(name, "..") || strings.HasPrefix(name, "-") {
			t.Errorf("%q", name)
		}
	})
}
