package schemas

import (
	"encoding/json"
	"reflect"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func fullEvent() Event {
	return Event{
		Rev: 1234, Ord: 1, Cnt: 3, Type: Modified, PrevRev: 1200, Epoch: "cdf818194e3a8c32.18a3", Resync: 0,
		Key:    Key{Group: "apps", Resource: "deployments", Namespace: "prod", Name: "web"},
		Header: fullHeader(), Object: []byte(`{"kind":"Deployment","metadata":{"name":"web"}}`),
	}
}

func TestMessageRoundTrip(t *testing.T) {
	odd := fullEvent()
	odd.Key = Key{Resource: "nodes", Name: "a b%é\""}
	for name, e := range map[string]Event{
		"full":                  fullEvent(),
		"odd name":              odd,
		"resync":                {Rev: 9, Ord: 0, Cnt: 1, Type: Added, Key: Key{Resource: "nodes", Name: "n"}, Resync: 12, Epoch: "c.1", Object: []byte(`{}`)},
		"delete without a body": {Rev: 9, Cnt: 1, Type: Deleted, Key: Key{Resource: "nodes", Name: "n"}, PrevRev: 3, Header: fullHeader()},
		"left":                  {Rev: 9, Ord: 1, Cnt: 2, Type: Left, Key: Key{Resource: "pods", Namespace: "a", Name: "n"}, Object: []byte(`{}`)},
		"gap":                   {Rev: 90, Cnt: 1, Type: Gap, PrevRev: 40, Object: []byte(`{"reason":"etcd was compacted"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			headers, body := e.Message()
			got, err := ParseEvent(headers, body)
			require.NoError(t, err)
			require.Equal(t, e, got)
			for name, values := range headers {
				require.Len(t, values, 1, name)
				require.NotEmpty(t, values[0], name)
				for _, c := range []byte(values[0]) {
					require.True(t, c > ' ' && c < 0x7f, "%s: %q", name, values[0])
				}
			}
			text, err := json.Marshal(e)
			require.NoError(t, err)
			var again Event
			require.NoError(t, json.Unmarshal(text, &again))
			require.Equal(t, e, again)
		})
	}
}

func TestMessageIsCloudEvent(t *testing.T) {
	headers, _ := fullEvent().Message()
	got := map[string]string{}
	for name, values := range headers {
		if strings.HasPrefix(name, cePrefix) || name == HeaderTrace {
			got[name] = values[0]
		}
	}
	require.Equal(t, map[string]string{
		"ce-specversion": "1.0", "ce-id": "1234.1", "ce-source": "/rutter/clusters/cdf818194e3a8c32",
		"ce-type": "dev.rutter.resource.v1.updated", "ce-subject": "apps/deployments/prod/web",
		"ce-time": "2026-11-23T09:00:00.123456789Z", "ce-datacontenttype": "application/json",
		"ce-sequence": "0000000000000001234.000001",
		"ce-authid":   "system:serviceaccount:kube-system:deployment-controller", "ce-authtype": "service_account",
		"ce-causationid": "12", "ce-correlationid": "0af7651916cd43dd8448eb211c80319c",
		"traceparent":    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"ce-traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "ce-tracestate": "vendor=a,b=c",
	}, got)
}

func TestSequenceSortsLikeOrder(t *testing.T) {
	order := []Event{{Rev: 9, Cnt: 1}, {Rev: 10, Cnt: 12}, {Rev: 10, Ord: 2, Cnt: 12}, {Rev: 10, Ord: 11, Cnt: 12}, {Rev: 1 << 62, Cnt: 1}}
	var sequences []string
	for _, e := range order {
		headers, _ := e.Message()
		sequences = append(sequences, headers[ceSequence][0])
	}
	require.True(t, sort.StringsAreSorted(sequences), sequences)
}

func TestAuthType(t *testing.T) {
	for user, want := range map[string]string{
		"": "unknown", "jane": "user", "system:anonymous": "unauthenticated",
		"system:node:n1": "system", "system:serviceaccount:a:b": "service_account",
	} {
		require.Equal(t, want, authType(user), user)
	}
}

func TestParseEventRefuses(t *testing.T) {
	for name, change := range map[string]func(h map[string][]string){
		"no revision":  func(h map[string][]string) { delete(h, HeaderRev) },
		"no ordinal":   func(h map[string][]string) { delete(h, HeaderOrd) },
		"bad count":    func(h map[string][]string) { h[HeaderCnt] = []string{"-1"} },
		"no type":      func(h map[string][]string) { delete(h, HeaderType) },
		"unknown type": func(h map[string][]string) { h[HeaderType] = []string{"EXPLODED"} },
		"bad subject":  func(h map[string][]string) { h[ceSubject] = []string{"x"} },
		"bad escape":   func(h map[string][]string) { h[ceAuthID] = []string{"%X"} },
		"bad time":     func(h map[string][]string) { h[ceTime] = []string{"yesterday"} },
		"bad cause":    func(h map[string][]string) { h[HeaderCause] = []string{"1,x"} },
		"bad group":    func(h map[string][]string) { h[HeaderGroups] = []string{"a,%"} },
		"bad prev":     func(h map[string][]string) { h[HeaderPrev] = []string{"x"} },
	} {
		t.Run(name, func(t *testing.T) {
			headers, body := fullEvent().Message()
			change(headers)
			_, err := ParseEvent(headers, body)
			require.ErrorIs(t, err, ErrNotEvent)
		})
	}
}

func FuzzParseEvent(f *testing.F) {
	f.Add("7", "0", "1", "ADDED", "core/nodes/n1", "jane", "a,b", "2026-11-23T09:00:00Z", "1,2", []byte(`{}`))
	f.Add("7", "1", "2", "GAP", "", "", "", "", "", []byte(nil))
	f.Fuzz(func(t *testing.T, rev, ord, cnt, kind, subject, user, groups, at, cause string, body []byte) {
		e, err := ParseEvent(map[string][]string{
			HeaderRev: {rev}, HeaderOrd: {ord}, HeaderCnt: {cnt}, HeaderType: {kind}, ceSubject: {subject},
			ceAuthID: {user}, ceAuthType: {"user"}, HeaderGroups: {groups}, ceTime: {at}, HeaderCause: {cause},
		}, body)
		if err != nil {
			return
		}
		headers, body2 := e.Message()
		again, err := ParseEvent(headers, body2)
		if err != nil || !reflect.DeepEqual(e, again) {
			t.Fatalf("%+v became %+v: %v", e, again, err)
		}
	})
}

func BenchmarkMessage(b *testing.B) {
	e := fullEvent()
	b.ReportAllocs()
	for b.Loop() {
		e.Message()
	}
}

func BenchmarkParseEvent(b *testing.B) {
	headers, body := fullEvent().Message()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseEvent(headers, body); err != nil {
			b.Fatal(err)
		}
	}
}
