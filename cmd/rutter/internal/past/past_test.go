package past

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

func TestParseInstant(t *testing.T) {
	now := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)
	for text, want := range map[string]Instant{
		"now":                  {Text: "now", Relative: true},
		"-5m":                  {Text: "-5m", At: now.Add(-5 * time.Minute), Relative: true},
		"90s":                  {Text: "-90s", At: now.Add(-90 * time.Second), Relative: true},
		"-1d12h":               {Text: "-1d12h", At: now.Add(-36 * time.Hour), Relative: true},
		"2d":                   {Text: "-2d", At: now.Add(-48 * time.Hour), Relative: true},
		"rev-42":               {Text: "rev-42", Rev: 42},
		"before-upgrade":       {Text: "before-upgrade", Mark: true},
		"2026-01-02T14:00:00Z": {Text: "2026-01-02T14:00:00Z", At: now.Add(-time.Hour)},
		"2026-01-02t16:00:00z": {Text: "2026-01-02t16:00:00z", At: now.Add(time.Hour)},
	} {
		got, err := ParseInstant(text, now)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, bad := range []string{"", "-", "noon", "10", "--5m", "+5m", "-d", "rev-", "rev-0", "rev--1", "rev-+1", "rev-9x", "2026-01-02", "0001-01-01T00:00:00Z", "99999d"} {
		_, err := ParseInstant(bad, now)
		require.Error(t, err, bad)
	}
}

func FuzzParseInstant(f *testing.F) {
	now := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)
	for _, seed := range []string{"-1d12h", "rev-7", "now", "2026-01-02T14:00:00.5+01:00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseInstant(text, now)
		if err != nil {
			return
		}
		if (got.Relative && got.At.After(now)) || got.Rev < 0 {
			t.Fatalf("%q is %+v", text, got)
		}
		again, err := ParseInstant(got.Text, now)
		if err != nil || again != got {
			t.Fatalf("%q is %+v, and its text is %+v, %v", text, got, again, err)
		}
	})
}

func event(rev, prev int64, kind schemas.EventType, user, object string, cause ...int64) schemas.Event {
	return schemas.Event{Rev: rev, PrevRev: prev, Type: kind, Key: schemas.Key{Resource: "configmaps", Namespace: "a", Name: "m"},
		Header: schemas.Header{V: 1, User: user, Cause: cause}, Object: []byte(object)}
}

func lostGap(rev, after int64) schemas.Event {
	return schemas.Event{Rev: rev, PrevRev: after, Cnt: 1, Type: schemas.Gap}
}

// TestTouchesAcrossAGap: what a change that is lost may have set is nobody's, also when
// another change came since.
func TestTouchesAcrossAGap(t *testing.T) {
	x, y := `{"x":1,"y":1}`, `{"x":1,"y":2}`
	for name, tc := range map[string]struct {
		events []schemas.Event
		lost   bool
		user   string
	}{
		"nothing since":      {events: []schemas.Event{event(2, 1, schemas.Modified, "a", x), lostGap(8, 2)}, lost: true},
		"changed since":      {events: []schemas.Event{lostGap(8, 2), event(9, 5, schemas.Modified, "me", y)}, lost: true},
		"and once more":      {events: []schemas.Event{lostGap(8, 2), event(9, 5, schemas.Modified, "me", x), event(10, 9, schemas.Modified, "b", y)}, user: "b"},
		"made anew since":    {events: []schemas.Event{lostGap(8, 2), event(9, 0, schemas.Added, "b", y)}, user: "b"},
		"the gap comes last": {events: []schemas.Event{event(2, 1, schemas.Modified, "a", y), lostGap(8, 2)}, lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			by := TouchesOf([]byte(x), tc.events).By("y")
			require.Equal(t, tc.lost, by.Lost())
			require.Equal(t, tc.user, by.Header.User)
		})
	}
}

func TestBlame(t *testing.T) {
	type row struct {
		Path  string
		Rev   int64
		Known bool
	}
	for name, tc := range map[string]struct {
		base   string
		events []schemas.Event
		want   []row
	}{
		"from the beginning": {events: []schemas.Event{
			event(1, 0, schemas.Added, "a", `{"data":{"x":"1","y":"1"}}`), event(2, 1, schemas.Modified, "b", `{"data":{"x":"2","y":"1","z":[{"name":"q","v":1}]}}`)},
			want: []row{{"data.x", 2, true}, {"data.y", 1, true}, {"data.z[name=q].name", 2, true}, {"data.z[name=q].v", 2, true}}},
		"set, and set back": {events: []schemas.Event{
			event(1, 0, schemas.Added, "a", `{"x":1}`), event(2, 1, schemas.Modified, "b", `{"x":2}`), event(3, 2, schemas.Modified, "c", `{"x":1}`)},
			want: []row{{"x", 3, true}}},
		"moved in a list": {events: []schemas.Event{
			event(1, 0, schemas.Added, "a", `{"l":[{"name":"p","v":1},{"name":"q","v":1}]}`), event(2, 1, schemas.Modified, "b", `{"l":[{"name":"q","v":2},{"name":"p","v":1}]}`)},
			want: []row{{"l[name=q].name", 1, true}, {"l[name=q].v", 2, true}, {"l[name=p].name", 1, true}, {"l[name=p].v", 1, true}}},
		"made anew": {events: []schemas.Event{
			event(1, 0, schemas.Added, "a", `{"x":1}`), event(2, 1, schemas.Deleted, "a", `{"x":1}`), event(3, 0, schemas.Added, "b", `{"x":1}`)},
			want: []row{{"x", 3, true}}},
		"deleted": {events: []schemas.Event{event(1, 0, schemas.Added, "a", `{"x":1}`), event(2, 1, schemas.Deleted, "b", `{"x":1}`)},
			want: []row{{"x", 1, true}}},
		"older than the log":           {events: []schemas.Event{event(5, 4, schemas.Modified, "a", `{"x":1}`)}, want: []row{{"x", 5, false}}},
		"older, but the state is held": {base: `{"x":1,"y":1}`, events: []schemas.Event{event(5, 4, schemas.Modified, "a", `{"x":1,"y":2}`)}, want: []row{{"x", 5, false}, {"y", 5, true}}},
		"behind a gap": {events: []schemas.Event{event(1, 0, schemas.Added, "a", `{"x":1,"y":1}`), lostGap(8, 1), event(9, 5, schemas.Modified, "b", `{"x":1,"y":2}`)},
			want: []row{{"x", 1, true}, {"y", 9, false}}},
		"empty values": {events: []schemas.Event{event(1, 0, schemas.Added, "a", `{"e":{},"f":[],"g":null}`)}, want: []row{{"e", 1, true}, {"f", 1, true}, {"g", 1, true}}},
	} {
		t.Run(name, func(t *testing.T) {
			origins, err := Blame([]byte(tc.base), tc.events)
			require.NoError(t, err)
			var got []row
			for _, o := range origins {
				got = append(got, row{o.Path, o.By.Rev, o.Known})
			}
			require.Equal(t, tc.want, got)
		})
	}
	_, err := Blame([]byte("{"), nil)
	require.ErrorContains(t, err, "state before")
	_, err = Blame(nil, []schemas.Event{event(7, 0, schemas.Added, "a", "{")})
	require.ErrorContains(t, err, "revision 7")
}

func TestMask(t *testing.T) {
	secret := schemas.Key{Resource: "secrets", Namespace: "a", Name: "s"}
	for name, tc := range map[string]struct {
		key                   schemas.Key
		before, after         string
		wantBefore, wantAfter string
	}{
		"not a Secret":    {schemas.Key{Resource: "configmaps"}, `{"data":{"a":"1"}}`, `{"data":{"a":"2"}}`, `{"data":{"a":"1"}}`, `{"data":{"a":"2"}}`},
		"another group's": {schemas.Key{Group: "example.com", Resource: "secrets"}, `{"data":{"a":"1"}}`, `{}`, `{"data":{"a":"1"}}`, `{}`},
		"same, other, gone, new": {secret, `{"data":{"g":"1","o":"1","s":"1"}}`, `{"data":{"n":"1","o":"2","s":"1"}}`,
			`{"data":{"g":"***","o":"*** (before)","s":"***"}}`, `{"data":{"n":"***","o":"*** (after)","s":"***"}}`},
		"new":     {secret, ``, `{"data":{"n":"1"}}`, ``, `{"data":{"n":"***"}}`},
		"applied": {secret, ``, `{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"1"}}}`, ``, `{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"***"}}}`},
		"broken":  {secret, `{"data":`, ``, `{"secret":"***"}`, ``},
	} {
		t.Run(name, func(t *testing.T) {
			before, after := Mask(tc.key, json.RawMessage(tc.before), json.RawMessage(tc.after))
			require.Equal(t, tc.wantBefore, string(before))
			require.Equal(t, tc.wantAfter, string(after))
		})
	}
}

func TestFamily(t *testing.T) {
	f := Family{}
	f.Add([]byte(`{"metadata":{"uid":"a"}}`))
	f.Add([]byte(`{}`))
	f.Adopt([]byte(`{"metadata":{"uid":"b","ownerReferences":[{"uid":"a"}]}}`))
	f.Adopt([]byte(`{"metadata":{"uid":"c","ownerReferences":[{"uid":"x"},{"uid":"b"}]}}`))
	f.Adopt([]byte(`{"metadata":{"uid":"d","ownerReferences":[{"uid":"x"}]}}`))
	require.Equal(t, Family{"a": true, "b": true, "c": true}, f)
	require.False(t, f.Has([]byte(`{}`)))
}

// fakeLog is a log in memory.
type fakeLog []schemas.Event

func (l fakeLog) At(_ context.Context, rev int64) (out []schemas.Event, err error) {
	for _, e := range l {
		if e.Rev == rev {
			out = append(out, e)
		}
	}
	return out, nil
}

func (l fakeLog) Before(_ context.Context, e schemas.Event) (schemas.Event, error) {
	for _, old := range l {
		if old.Key == e.Key && old.Rev == e.PrevRev {
			return old, nil
		}
	}
	return schemas.Event{}, nil
}

func (l fakeLog) Of(_ context.Context, key schemas.Key, until int64) (out []schemas.Event, err error) {
	for _, e := range l {
		if e.Key == key && e.Rev <= until {
			out = append(out, e)
		}
	}
	return out, nil
}

func (l fakeLog) Owner(apiVersion, kind, namespace, name string) (schemas.Key, bool) {
	return schemas.Key{Group: "apps", Resource: "replicasets", Namespace: namespace, Name: name}, kind == "ReplicaSet"
}

func of(e schemas.Event, key schemas.Key) schemas.Event {
	e.Key = key
	return e
}

func TestWhy(t *testing.T) {
	node, pod := schemas.Key{Resource: "nodes", Name: "n"}, schemas.Key{Resource: "pods", Namespace: "a", Name: "p"}
	rs := schemas.Key{Group: "apps", Resource: "replicasets", Namespace: "a", Name: "r"}
	type row struct {
		Rev     int64
		Note    string
		Cause   []int64
		Flags   string
		Changes []string
	}
	const owned = `{"metadata":{"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"r","controller":true}]}}`
	readyIs := func(status, reason string) string {
		return `{"status":{"conditions":[{"type":"Ready","status":"` + status + `","reason":"` + reason + `"}]}}`
	}
	for name, tc := range map[string]struct {
		log  fakeLog
		key  schemas.Key
		want []row
	}{
		"a node fails": {key: pod, log: fakeLog{
			of(event(1, 0, schemas.Added, "jane", `{}`), pod),
			of(event(2, 0, schemas.Added, "jane", readyIs("True", "")), node),
			of(event(3, 2, schemas.Modified, "rutter:reconcilers", readyIs("Unknown", "NodeStatusUnknown")), node),
			of(event(4, 1, schemas.Modified, "rutter:reconcilers", `{"metadata":{"deletionTimestamp":"t"}}`, 3), pod),
			of(event(5, 4, schemas.Deleted, "rutter:reconcilers", `{"metadata":{"deletionTimestamp":"t"}}`, 4), pod),
		}, want: []row{
			{1, "created", nil, "asked", nil},
			{3, "not ready: NodeStatusUnknown", nil, "unknown", []string{`~ status.conditions[type=Ready].reason: "" → "NodeStatusUnknown"`, `~ status.conditions[type=Ready].status: "True" → "Unknown"`}},
			{4, "deletion asked for", []int64{3}, "asked", nil},
			{5, "gone", []int64{4}, "asked", nil}}},
		"evicted": {key: pod, log: fakeLog{
			of(event(1, 0, schemas.Added, "jane", `{"status":{"phase":"Pending"}}`), pod),
			of(event(2, 1, schemas.Modified, "jane", `{"status":{"phase":"Pending","conditions":[{"type":"DisruptionTarget","status":"True","reason":"EvictionByEvictionAPI","message":"drained"}]}}`), pod),
			of(event(3, 2, schemas.Modified, "system:node:n", `{"status":{"phase":"Failed","reason":"Evicted","message":"no memory"}}`), pod),
		}, want: []row{{1, "created", nil, "asked", nil},
			{2, "to be disrupted: EvictionByEvictionAPI: drained", nil, "asked", nil},
			{3, "is Failed: Evicted: no memory", nil, "asked unknown", []string{`~ status.phase: "Pending" → "Failed"`}}}},
		"no cause, but an owner": {key: pod, log: fakeLog{
			of(event(1, 0, schemas.Added, "jane", `{"metadata":{"generation":1},"spec":{"replicas":1}}`), rs),
			of(event(2, 1, schemas.Modified, "jane", `{"metadata":{"generation":2},"spec":{"replicas":2}}`), rs),
			of(event(3, 2, schemas.Modified, "rutter:x", `{"metadata":{"generation":2},"status":{}}`), rs),
			of(event(4, 0, schemas.Added, "rutter:x", owned), pod),
		}, want: []row{{2, "changed", nil, "", []string{"~ spec.replicas: 1 → 2"}}, {4, "created", []int64{2}, "asked owner", nil}}},
		"a cause that is not held": {key: pod, log: fakeLog{of(event(9, 0, schemas.Added, "rutter:x", `{}`, 7), pod)}, want: []row{{9, "created", nil, "asked missing", nil}}},
		"a circle ends": {key: pod, log: fakeLog{
			of(event(1, 0, schemas.Added, "jane", `{}`, 2), pod), of(event(2, 0, schemas.Added, "jane", `{}`, 1), node),
		}, want: []row{{1, "created", []int64{2}, "asked", nil}, {2, "created", []int64{1}, "", nil}}},
		"only its last life": {key: pod, log: fakeLog{
			of(event(1, 0, schemas.Added, "jane", `{}`), pod), of(event(2, 1, schemas.Deleted, "jane", `{}`), pod), of(event(3, 0, schemas.Added, "joe", `{}`), pod),
		}, want: []row{{3, "created", nil, "asked", nil}}},
		"nothing held": {key: pod},
	} {
		t.Run(name, func(t *testing.T) {
			steps, err := Why(t.Context(), tc.log, tc.key, 100)
			require.NoError(t, err)
			var got []row
			for _, s := range steps {
				r := row{s.Rev, s.Note, s.Cause, "", s.Changes}
				for _, flag := range []struct {
					name string
					set  bool
				}{{"asked", s.Asked}, {"owner", s.ByOwner}, {"unknown", s.Unknown}, {"missing", len(s.Missing) > 0}} {
					if flag.set {
						r.Flags += " " + flag.name
					}
				}
				if r.Flags != "" {
					r.Flags = r.Flags[1:]
				}
				got = append(got, r)
			}
			require.Equal(t, tc.want, got)
		})
	}
}
