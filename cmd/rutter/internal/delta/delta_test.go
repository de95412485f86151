package delta

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOf(t *testing.T) {
	for name, tc := range map[string]struct {
		before, after string
		want          []string
	}{
		"nothing":            {`{"a":{"b":[1,2]},"c":null}`, `{"c":null,"a":{"b":[1,2]}}`, nil},
		"a value":            {`{"spec":{"replicas":1}}`, `{"spec":{"replicas":3}}`, []string{"~ spec.replicas: 1 → 3"}},
		"large numbers":      {`{"a":9007199254740993}`, `{"a":9007199254740992}`, []string{"~ a: 9007199254740993 → 9007199254740992"}},
		"added and removed":  {`{"a":"x<y","b":{"c":1}}`, `{"d":{"e":[1]}}`, []string{`- a: "x<y"`, `- b: {"c":1}`, `+ d: {"e":[1]}`}},
		"another type":       {`{"a":{"b":1}}`, `{"a":[1]}`, []string{`~ a: {"b":1} → [1]`}},
		"to null":            {`{"a":1}`, `{"a":null}`, []string{"~ a: 1 → null"}},
		"odd keys":           {`{"a":{"b.c/d":1}}`, `{"a":{"b.c/d":2}}`, []string{`~ a["b.c/d"]: 1 → 2`}},
		"a list by position": {`{"a":[1,2,3]}`, `{"a":[1,4]}`, []string{"~ a[1]: 2 → 4", "- a[2]: 3"}},
		"a list by name": {`{"c":[{"name":"x","image":"a"},{"name":"y"}]}`, `{"c":[{"name":"y"},{"name":"x","image":"b"},{"name":"z"}]}`,
			[]string{`~ c[name=x].image: "a" → "b"`, `+ c[name=z]: {"name":"z"}`}},
		"conditions by type": {`{"c":[{"type":"Ready","status":"False"}]}`, `{"c":[{"type":"Ready","status":"True"}]}`, []string{`~ c[type=Ready].status: "False" → "True"`}},
		"managed fields":     {`{"metadata":{"managedFields":[1],"generation":1,"resourceVersion":"1"}}`, `{"metadata":{"managedFields":[2],"resourceVersion":"2"}}`, nil},
		"created":            {``, `{"kind":"Pod","metadata":{"name":"a"}}`, []string{`+ kind: "Pod"`, `+ metadata: {"name":"a"}`}},
	} {
		t.Run(name, func(t *testing.T) {
			changes, err := Of([]byte(tc.before), []byte(tc.after))
			require.NoError(t, err)
			var got []string
			for _, c := range changes {
				got = append(got, c.String())
			}
			require.Equal(t, tc.want, got)
		})
	}
	_, err := Of([]byte(`{`), nil)
	require.ErrorContains(t, err, "state before")
	_, err = Of(nil, []byte(`{`))
	require.ErrorContains(t, err, "state after")
}

func FuzzOf(f *testing.F) {
	f.Add([]byte(`{"a":[{"name":"x"}]}`), []byte(`{"a":[{"name":"x","b":null}]}`))
	f.Fuzz(func(t *testing.T, before, after []byte) {
		same, err := Of(before, before)
		if err == nil && len(same) != 0 {
			t.Fatalf("%s differs from itself: %v", before, same)
		}
		changes, err := Of(before, after)
		if err != nil {
			return
		}
		for _, c := range changes {
			_ = c.String()
		}
	})
}
