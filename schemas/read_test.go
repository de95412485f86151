package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMetadataOf(t *testing.T) {
	for object, want := range map[string]string{
		`{"kind":"Pod","metadata":{"name":"a","labels":{"x":"}"}},"spec":{}}`: `{"name":"a","labels":{"x":"}"}}`,
		`{"metadata":{}}`:         `{}`,
		`{"metadata": {"a":[]} }`: `{"a":[]}`,
		`{"metadata":null}`:       ``,
		`{"metadata":"x"}`:        ``,
		`{"metadata":`:            ``,
		`{"metadata":{"a":`:       ``,
		`{}`:                      ``,
		``:                        ``,
	} {
		require.Equal(t, want, string(MetadataOf([]byte(object))), object)
	}
}

func labelsOf(object string) map[string]string {
	got := map[string]string{}
	EachLabel([]byte(object), func(k, v []byte) bool { got[string(k)] = string(v); return true })
	return got
}

func TestEachLabel(t *testing.T) {
	for object, want := range map[string]map[string]string{
		`{"metadata":{"name":"a","labels":{"app":"web","e":"","x":"\u0061"}},"spec":{"labels":{"no":"no"}}}`: {"app": "web", "e": "", "x": "a"},
		`{"metadata":{"labels":{}}}`:               {},
		`{"metadata":{"labels":null}}`:             {},
		`{"metadata":{"annotations":{"a":"b"}}}`:   {},
		`{"metadata":{"labels": { "a" : "b" } } }`: {"a": "b"},
		`{"metadata":{"labels":{"a":"b","c":`:      {"a": "b"},
		``:                                         {},
	} {
		require.Equal(t, want, labelsOf(object), object)
	}
}

func TestTexts(t *testing.T) {
	paths := []Path{{"spec", "nodeName"}, {"spec", "hostNetwork"}, {"status", "phase"}, {"metadata", "name"}, {"status", "replicas"}, {"type"}}
	for object, want := range map[string]string{
		`{"metadata":{"name":"p"},"spec":{"a":{"nodeName":"no"},"nodeName":"n1","hostNetwork":true},"status":{"phase":"R\u0075n","replicas":3},"type":"T"}`: `[n1 true Run p 3 T]`,
		`{"spec":"x","status":null,"metadata":[{"name":"no"}],"type":{}}`:                                                                                   `[     ]`,
		`{"spec":{"nodeName":null,"hostNetwork":[1]},"type":""}`:                                                                                            `[     ]`,
		`{"spec":{},"type":"behind"}`:  `[     behind]`,
		`{"type":"T","spec":{"nodeN`:   `[     T]`,
		`{ "type" : "T" , "spec" : {}`: `[     T]`,
		`[]`:                           `[     ]`,
	} {
		require.Equal(t, want, fmt.Sprintf("%s", Texts([]byte(object), paths)), object)
	}
}

func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		`{"metadata":{"name":"a","labels":{"a":"b","c":"\n"}},"spec":{"nodeName":"x","n":1},"type":"y"}`, `{"spec":{"nodeName":{}}}`, `{"metadata":{"labels":{"a":1}}}`, `{"type":`,
	} {
		f.Add([]byte(seed))
	}
	paths := []Path{{"spec", "nodeName"}, {"type"}, {"metadata", "name"}}
	f.Fuzz(func(t *testing.T, object []byte) {
		MetadataOf(object)
		EachLabel(object, func(_, _ []byte) bool { return true })
		got := Texts(object, paths)
		var want struct {
			Metadata struct{ Name string }
			Spec     struct{ NodeName string }
			Type     string
		}
		var names map[string]any
		if json.Unmarshal(object, &names) != nil || json.Unmarshal(object, &want) != nil || unusualNames(object, names) {
			return
		}
		for i, text := range []string{want.Spec.NodeName, want.Type, want.Metadata.Name} {
			if string(got[i]) != text {
				t.Fatalf("%q: %v is %q, want %q", object, paths[i], got[i], text)
			}
		}
	})
}

// unusualNames tells objects that hold a name twice, or one in another case or written
// with escapes, which encoding/json takes for the same.
func unusualNames(object []byte, m map[string]any) bool {
	for _, name := range []string{"metadata", "spec", "type", "name", "nodeName"} {
		if bytes.Count(object, []byte(`"`+name+`"`)) > 1 {
			return true
		}
	}
	return bytes.Contains(object, []byte(`\u`)) || hasOther(m)
}

func hasOther(m map[string]any) bool {
	for name, v := range m {
		switch name {
		case "metadata", "spec", "type", "name", "nodeName", "labels":
		default:
			return true
		}
		if inner, ok := v.(map[string]any); ok && hasOther(inner) {
			return true
		}
	}
	return false
}
