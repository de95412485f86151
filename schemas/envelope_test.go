package schemas

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func fullHeader() Header {
	return Header{
		V: 1, Time: time.Date(2026, 11, 23, 9, 0, 0, 123456789, time.UTC), Verb: "patch",
		User: "system:serviceaccount:kube-system:deployment-controller", Groups: []string{"a,b", "system:authenticated", "é"},
		Manager: "kubectl-client-side-apply", Agent: "kubectl/v1.37.2 (linux/amd64) \"x\" 100%", Request: "8f1c",
		Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", TraceState: "vendor=a,b=c", Cause: []int64{7, 12},
	}
}

func TestValueRoundTrip(t *testing.T) {
	for name, h := range map[string]Header{
		"full":                       fullHeader(),
		"minimal":                    {V: 1, Time: time.Unix(0, 0).UTC(), Verb: "create", User: "u"},
		"newline in the user's name": {V: 1, Time: time.Unix(1, 0).UTC(), Verb: "create", User: "a\nb"},
	} {
		t.Run(name, func(t *testing.T) {
			object := []byte("{\"kind\":\"Pod\",\n\"metadata\":{}}")
			value, err := EncodeValue(h, object)
			require.NoError(t, err)
			gotHeader, gotObject, err := DecodeValue(value)
			require.NoError(t, err)
			require.Equal(t, h, gotHeader)
			require.Equal(t, object, gotObject)
			only, err := ObjectOf(value)
			require.NoError(t, err)
			require.Equal(t, &gotObject[0], &only[0], "no copy")
		})
	}
}

func TestHeaderFieldNames(t *testing.T) {
	h := fullHeader()
	h.Groups, h.Agent, h.Dry, h.V = []string{"g"}, "a", true, 0
	line, err := h.Encode()
	require.NoError(t, err)
	require.Equal(t, `{"v":1,"time":"2026-11-23T09:00:00.123456789Z","verb":"patch",`+
		`"user":"system:serviceaccount:kube-system:deployment-controller","groups":["g"],`+
		`"manager":"kubectl-client-side-apply","agent":"a","request":"8f1c",`+
		`"trace":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","traceState":"vendor=a,b=c","cause":[7,12],"dry":true}`, string(line))
}

func TestDecodeValueRefuses(t *testing.T) {
	for _, value := range []string{"", "\n", "{}", "x\n{}", "{\n{}", `{"v":"x"}` + "\n{}"} {
		_, _, err := DecodeValue([]byte(value))
		require.Error(t, err, "%q", value)
	}
	_, err := ObjectOf([]byte(`{"kind":"Pod"}`))
	require.ErrorIs(t, err, ErrNoHeader)
}

func FuzzDecodeValue(f *testing.F) {
	value, err := EncodeValue(fullHeader(), []byte(`{"kind":"Pod"}`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, value []byte) {
		h, object, err := DecodeValue(value)
		if err != nil {
			return
		}
		again, err := EncodeValue(h, object)
		if err != nil {
			return // a year that JSON can't write
		}
		_, object2, err := DecodeValue(again)
		if err != nil || string(object2) != string(object) {
			t.Fatalf("%q became %q: %v", object, object2, err)
		}
	})
}
