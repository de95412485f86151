package past

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

func TestRestored(t *testing.T) {
	old := `{"kind":"X","apiVersion":"v1","metadata":{"name":"a","uid":"1","resourceVersion":"5","generation":2,"creationTimestamp":"2026-01-02T15:04:05Z","managedFields":[{}],
		"labels":{"l":"v"},"annotations":{"deployment.kubernetes.io/revision":"3","mine":"kept"},
		"ownerReferences":[{"apiVersion":"v1","kind":"Y","name":"lives","uid":"old","blockOwnerDeletion":true},{"apiVersion":"v1","kind":"Y","name":"gone","uid":"old2"}]},
		"spec":{"n":12345678901234567890},"status":{"phase":"Running"}}`
	owner := func(r Reference) (string, bool) { return "now", r.Name == "lives" }
	for name, tc := range map[string]struct{ live, want string }{
		"gone": {"", `{"kind":"X","apiVersion":"v1","metadata":{"name":"a","labels":{"l":"v"},"annotations":{"mine":"kept"},"ownerReferences":[{"apiVersion":"v1","kind":"Y","name":"lives","uid":"now","blockOwnerDeletion":true}]},"spec":{"n":12345678901234567890}}`},
		"there": {`{"metadata":{"resourceVersion":"9"}}`,
			`{"kind":"X","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"9","labels":{"l":"v"},"annotations":{"mine":"kept"},"ownerReferences":[{"apiVersion":"v1","kind":"Y","name":"lives","uid":"now","blockOwnerDeletion":true}]},"spec":{"n":12345678901234567890}}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Restored(schemas.Key{Resource: "x", Name: "a"}, json.RawMessage(old), json.RawMessage(tc.live), owner)
			require.NoError(t, err)
			require.JSONEq(t, tc.want, string(got))
			require.Contains(t, string(got), "12345678901234567890", "numbers stay as they are")
		})
	}
	alone, err := Restored(schemas.Key{}, json.RawMessage(`{"metadata":{"ownerReferences":[{"name":"gone"}]}}`), nil, owner)
	require.NoError(t, err)
	require.JSONEq(t, `{"metadata":{}}`, string(alone))
	pod, err := Restored(schemas.Key{Resource: "pods", Name: "a"}, json.RawMessage(`{"metadata":{},"spec":{"nodeName":"n","x":1}}`), nil, owner)
	require.NoError(t, err)
	require.JSONEq(t, `{"metadata":{},"spec":{"x":1}}`, string(pod))
	_, err = Restored(schemas.Key{Resource: "x", Name: "a"}, json.RawMessage(`no`), nil, owner)
	require.ErrorContains(t, err, "core/x/a")
}

func TestTouches(t *testing.T) {
	event := func(rev int64, kind schemas.EventType, object string) schemas.Event {
		return schemas.Event{Rev: rev, Type: kind, Object: []byte(object)}
	}
	events := []schemas.Event{
		event(2, schemas.Modified, `{"a":2,"b":{"c":1,"d":1}}`),
		event(3, schemas.Modified, `{"a":2,"b":{"c":2,"d":1}}`),
		event(4, schemas.Modified, `{"b":{"c":2,"d":1}}`),
		event(5, schemas.Modified, `{"b":{"c":2,"d":1},"ab":1}`),
	}
	touched := TouchesOf([]byte(`{"a":1,"b":{"c":1,"d":1}}`), events)
	for path, want := range map[string]int64{"a": 4, "b.c": 3, "b": 3, "ab": 5, "b.c.deeper": 3, "nobody": 5} {
		require.Equal(t, want, touched.By(path).Rev, path)
	}
	require.Zero(t, TouchesOf([]byte(`{}`), nil).By("a").Rev)
	require.EqualValues(t, 2, TouchesOf(nil, events[:1]).By("a").Rev, "what can't be compared is touched as a whole")
	anew := TouchesOf([]byte(`{"a":1}`), []schemas.Event{event(2, schemas.Deleted, `{"a":1}`), event(3, schemas.Added, `{"a":1}`)})
	require.EqualValues(t, 3, anew.By("a").Rev)
}

func TestExact(t *testing.T) {
	for name, tc := range map[string]struct{ restored, live, want string }{
		"what was added goes": {`{"metadata":{"name":"a","labels":{"l":"v"},"resourceVersion":"9"},"spec":{"n":12345678901234567890}}`,
			`{"metadata":{"name":"a","uid":"1","resourceVersion":"9","labels":{"l":"v","new":"x"},"annotations":{"new":"x"}},"spec":{"n":1,"new":2},"data":{"new":"x"}}`,
			`{"metadata":{"name":"a","labels":{"l":"v"},"resourceVersion":"9","uid":"1"},"spec":{"n":12345678901234567890}}`},
		"status stays": {`{"metadata":{}}`, `{"metadata":{},"status":{"phase":"Running"}}`, `{"metadata":{},"status":{"phase":"Running"}}`},
		"books of controllers stay": {`{"metadata":{"annotations":{"mine":"old"}}}`,
			`{"metadata":{"annotations":{"mine":"new","deployment.kubernetes.io/revision":"3","scheduler.rutter.dev/decision":"d"}}}`,
			`{"metadata":{"annotations":{"mine":"old","deployment.kubernetes.io/revision":"3","scheduler.rutter.dev/decision":"d"}}}`},
		"books and nothing of mine":   {`{"metadata":{}}`, `{"metadata":{"annotations":{"deployment.kubernetes.io/revision":"3"}}}`, `{"metadata":{"annotations":{"deployment.kubernetes.io/revision":"3"}}}`},
		"finalizers and owners stay":  {`{"metadata":{"finalizers":["a"],"ownerReferences":[{"uid":"1","name":"x"}]}}`, `{"metadata":{"finalizers":["b","a"],"ownerReferences":[{"uid":"1","name":"x"},{"uid":"2","name":"y"}]}}`, `{"metadata":{"finalizers":["a","b"],"ownerReferences":[{"uid":"1","name":"x"},{"uid":"2","name":"y"}]}}`},
		"nothing of it, nothing kept": {`{"metadata":{}}`, `{"metadata":{}}`, `{"metadata":{}}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Exact(schemas.Key{Resource: "x", Name: "a"}, json.RawMessage(tc.restored), json.RawMessage(tc.live))
			require.NoError(t, err)
			require.JSONEq(t, tc.want, string(got))
		})
	}
	_, err := Exact(schemas.Key{Resource: "x", Name: "a"}, json.RawMessage(`{"metadata":{}}`), json.RawMessage(`no`))
	require.ErrorContains(t, err, "core/x/a as it is")
}
