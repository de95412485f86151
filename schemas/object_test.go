package schemas

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAppendWithResourceVersion(t *testing.T) {
	for name, tc := range map[string]struct{ object, want string }{
		"stored layout": {
			`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"spec":{}}`,
			`{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"42","name":"a"},"spec":{}}`,
		},
		"empty metadata": {
			`{"apiVersion":"v1","kind":"Pod","metadata":{}}`,
			`{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"42"}}`,
		},
		"metadata with a space in it": {
			`{"metadata":{ }}`, `{"metadata":{"resourceVersion":"42" }}`,
		},
		"spaces everywhere": {
			"\n{ \"kind\" : \"Pod\" ,\t\"metadata\" :\r\n { \"name\" : \"a\" } }",
			"\n{ \"kind\" : \"Pod\" ,\t\"metadata\" :\r\n {\"resourceVersion\":\"42\", \"name\" : \"a\" } }",
		},
		"metadata of a template first": {
			`{"spec":{"template":{"metadata":{"name":"t"}}},"metadata":{"name":"a"}}`,
			`{"spec":{"template":{"metadata":{"name":"t"}}},"metadata":{"resourceVersion":"42","name":"a"}}`,
		},
		"the text inside a string": {
			`{"kind":"\"metadata\":{","metadata":{"name":"a"}}`,
			`{"kind":"\"metadata\":{","metadata":{"resourceVersion":"42","name":"a"}}`,
		},
		"a string that ends in a backslash": {
			`{"kind":"a\\","x":[1,{"metadata":{}},"]"],"metadata":{"name":"a"}}`,
			`{"kind":"a\\","x":[1,{"metadata":{}},"]"],"metadata":{"resourceVersion":"42","name":"a"}}`,
		},
		"scalars in front": {
			`{"a":1.5e3,"b":true,"c":null,"metadata":{"name":"a"}}`,
			`{"a":1.5e3,"b":true,"c":null,"metadata":{"resourceVersion":"42","name":"a"}}`,
		},
		"null metadata":         {`{"metadata":null,"a":1}`, `{"metadata":{"resourceVersion":"42"},"a":1}`},
		"no metadata":           {`{"kind":"Pod"}`, `{"metadata":{"resourceVersion":"42"},"kind":"Pod"}`},
		"empty object":          {`{}`, `{"metadata":{"resourceVersion":"42"}}`},
		"a value of that name":  {`{"kind":"metadata","metadata":{}}`, `{"kind":"metadata","metadata":{"resourceVersion":"42"}}`},
		"metadata is no object": {`{"metadata":"x"}`, `{"metadata":"x"}`},
		"array":                 {`[1]`, `[1]`},
		"nothing":               {``, ``},
		"cut short":             {`{"kind":"Po`, `{"kind":"Po`},
		"cut after a key":       {`{"kind"`, `{"kind"`},
		"cut in an escape":      {`{"kind":"a\`, `{"kind":"a\`},
		"missing value":         {`{"kind":}`, `{"kind":}`},
	} {
		t.Run(name, func(t *testing.T) {
			got := AppendWithResourceVersion([]byte("x"), []byte(tc.object), 42)
			require.Equal(t, "x"+tc.want, string(got))
		})
	}
}

func TestAppendWithResourceVersionDoesNotAllocate(t *testing.T) {
	object := []byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"spec":{"nodeName":"n"}}`)
	dst := make([]byte, 0, 256)
	require.Zero(t, testing.AllocsPerRun(100, func() { dst = AppendWithResourceVersion(dst[:0], object, 1<<62) }))
}

func TestNodeOf(t *testing.T) {
	for object, want := range map[string]string{
		`{"kind":"Pod","metadata":{"nodeName":"no"},"spec":{"a":[{"nodeName":"no"}],"nodeName":"n1"}}`: "n1",
		`{"spec":{"nodeName":"a\u002eb"}}`: "a.b",
		`{"spec":{"nodeName":""}}`:         "",
		`{"spec":{"nodeName":7}}`:          "",
		`{"spec":null}`:                    "",
		`{"spec":{}}`:                      "",
		`{}`:                               "",
		``:                                 "",
		`{"spec":{"nodeName":"n`:           "",
	} {
		require.Equal(t, want, NodeOf([]byte(object)), object)
	}
}

func FuzzAppendWithResourceVersion(f *testing.F) {
	for _, seed := range []string{
		`{"kind":"Pod","metadata":{"name":"a"},"spec":{}}`, `{"metadata":null}`, `{}`, `{"a":[{"metadata":{}}]}`,
		`{"a":"\\","metadata":{ }}`, `[`, `{"spec":{"nodeName":"x"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, object []byte) {
		NodeOf(object)
		got := AppendWithResourceVersion(nil, object, 42)
		var want map[string]any
		if json.Unmarshal(object, &want) != nil || want == nil || unusual(object, want) {
			return
		}
		metadata, ok := want["metadata"].(map[string]any)
		if !ok {
			metadata = map[string]any{}
			want["metadata"] = metadata
		}
		metadata["resourceVersion"] = "42"
		var have map[string]any
		if err := json.Unmarshal(got, &have); err != nil || !reflect.DeepEqual(have, want) {
			t.Fatalf("%q became %q: %v", object, got, err)
		}
	})
}

// unusual tells inputs that the contract excludes: a resourceVersion that is
// there already, metadata of another type, or a name written with escapes or
// twice.
func unusual(object []byte, decoded map[string]any) bool {
	metadata := decoded["metadata"]
	switch m := metadata.(type) {
	case nil:
	case map[string]any:
		if _, there := m["resourceVersion"]; there {
			return true
		}
	default:
		return true
	}
	s := string(object)
	return strings.Contains(s, `\u`) || strings.Count(s, `"metadata"`) > 1
}

func BenchmarkAppendWithResourceVersion(b *testing.B) {
	object := []byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"spec":{"x":"` + strings.Repeat("y", 2048) + `"}}`)
	var dst []byte
	b.SetBytes(int64(len(object)))
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendWithResourceVersion(dst[:0], object, 123456789)
	}
}
