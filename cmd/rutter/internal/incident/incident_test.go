package incident

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
	"github.com/rutter-project/rutter/schemas/bundle"
)

func key(t *testing.T, text string) schemas.Key {
	t.Helper()
	k, err := schemas.ParseKey(text)
	require.NoError(t, err)
	return k
}

func object(t *testing.T, rev int64, name, body string, cause ...int64) schemas.Event {
	t.Helper()
	return schemas.Event{Rev: rev, Type: schemas.Added, Key: key(t, name), Object: []byte(body), Header: schemas.Header{Cause: cause}}
}

func owned(uid, owner string) string {
	return fmt.Sprintf(`{"metadata":{"uid":%q,"ownerReferences":[{"uid":%q}]}}`, uid, owner)
}

func TestChoice(t *testing.T) {
	story := []schemas.Event{
		object(t, 1, "core/namespaces/shop", `{"metadata":{"uid":"ns"}}`),
		object(t, 2, "core/namespaces/other", `{}`),
		object(t, 3, "core/nodes/n1", `{}`),
		object(t, 4, "apiextensions.k8s.io/customresourcedefinitions/widgets.example.com", `{}`),
		object(t, 5, "apps/deployments/shop/web", `{"metadata":{"uid":"d"}}`),
		object(t, 6, "apps/replicasets/shop/web-1", owned("r", "d"), 5),
		object(t, 7, "core/pods/shop/web-1-a", owned("p", "r"), 6),
		object(t, 8, "core/pods/shop/web-1-a", owned("p", "r"), 7, 3, 9999),
		object(t, 9, "core/events/shop/e", `{"involvedObject":{"uid":"p"}}`),
		object(t, 10, "events.k8s.io/events/shop/f", `{"regarding":{"uid":"p"}}`),
		object(t, 11, "apps/deployments/shop/api", `{"metadata":{"uid":"x","ownerReferences":"odd"}}`),
		object(t, 12, "core/pods/other/p", `not JSON`),
		{Rev: 13, Type: schemas.Gap},
	}
	definition := "apiextensions.k8s.io/customresourcedefinitions/widgets.example.com"
	web := []string{"apps/deployments/shop/web", "apps/replicasets/shop/web-1", "core/events/shop/e", "core/namespaces/shop", "core/pods/shop/web-1-a", "events.k8s.io/events/shop/f", definition}
	deploy := key(t, "apps/deployments/shop/web")
	none := key(t, "apps/deployments/shop/none")
	for name, tc := range map[string]struct {
		of     bundle.Selection
		causes bool
		asked  int
		want   []string
	}{
		"namespace":             {of: bundle.Selection{Namespaces: []string{"other"}}, asked: 2, want: []string{"core/namespaces/other", "core/pods/other/p", definition}},
		"kind, without causes":  {of: bundle.Selection{Resources: []string{"pods"}, Namespaces: []string{"shop"}}, asked: 1, want: []string{"core/namespaces/shop", "core/pods/shop/web-1-a", definition}},
		"kind, with causes":     {of: bundle.Selection{Resources: []string{"pods"}, Namespaces: []string{"shop"}}, causes: true, asked: 1, want: []string{"apps/deployments/shop/web", "apps/replicasets/shop/web-1", "core/namespaces/shop", "core/nodes/n1", "core/pods/shop/web-1-a", definition}},
		"kind of a group":       {of: bundle.Selection{Resources: []string{"deployments.apps"}}, asked: 2, want: []string{"apps/deployments/shop/api", "apps/deployments/shop/web", "core/namespaces/shop", definition}},
		"object":                {of: bundle.Selection{Object: &deploy}, asked: 5, want: web},
		"object, with causes":   {of: bundle.Selection{Object: &deploy}, causes: true, asked: 5, want: append(slices.Clone(web), "core/nodes/n1")},
		"object that never was": {of: bundle.Selection{Object: &none}, causes: true, want: []string{definition}},
	} {
		t.Run(name, func(t *testing.T) {
			c := NewChoice(tc.of, tc.causes)
			for _, e := range story {
				c.Learn(e)
			}
			require.Equal(t, tc.asked, c.Decide())
			got := map[string]bool{}
			for _, e := range story {
				if c.Wants(e) && e.Type != schemas.Gap {
					got[e.Key.String()] = true
				}
			}
			require.ElementsMatch(t, tc.want, slices.Collect(maps.Keys(got)))
			require.True(t, c.Wants(schemas.Event{Type: schemas.Gap}), "gaps are told whatever was chosen")
		})
	}
	require.True(t, NewChoice(bundle.Selection{}, true).Wants(story[11]), "without a choice, everything is wanted")
}

func TestRedaction(t *testing.T) {
	mark := func(v string) string { return "<" + v[:1] + ">" }
	for name, tc := range map[string]struct {
		what         []string
		key          string
		object, want string
	}{
		"nothing asked for": {nil, "core/pods/a/b", `{"spec":{"containers":[{"env":[{"name":"T","value":"secret"}]}]}}`, `{"spec":{"containers":[{"env":[{"name":"T","value":"secret"}]}]}}`},
		"env of a pod": {[]string{Env}, "core/pods/a/b", `{"n":12345678901234567890,"spec":{"containers":[{"env":[{"name":"T","value":"secret"},{"name":"R","valueFrom":{"x":1}}]}],"initContainers":[{"env":[{"name":"T","value":"other"}]}]}}`,
			`{"n":12345678901234567890,"spec":{"containers":[{"env":[{"name":"T","value":"<s>"},{"name":"R","valueFrom":{"x":1}}]}],"initContainers":[{"env":[{"name":"T","value":"<o>"}]}]}}`},
		"env of a kind of somebody else": {[]string{Env}, "example.com/apps/a/b", `{"spec":{"runs":[[{"env":[{"name":"T","value":"secret"}]}]],"env":"plain"}}`, `{"spec":{"runs":[[{"env":[{"name":"T","value":"<s>"}]}]],"env":"plain"}}`},
		"what kubectl has noted": {[]string{Env}, "apps/deployments/a/b", `{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"env\":[{\"name\":\"T\",\"value\":\"secret\"}]}\n"}}}`,
			`{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"env\":[{\"name\":\"T\",\"value\":\"<s>\"}]}"}}}`},
		"noted, and no JSON":  {[]string{Env}, "apps/deployments/a/b", `{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"secret"}}}`, `{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":""}}}`},
		"config map":          {[]string{ConfigMaps}, "core/configmaps/a/b", `{"data":{"k":"secret"},"binaryData":{"b":"secret"}}`, `{"data":{"k":"<s>"},"binaryData":{"b":"PHM+"}}`},
		"another kind's data": {[]string{ConfigMaps}, "example.com/configmaps/a/b", `{"data":{"k":"plain"}}`, `{"data":{"k":"plain"}}`},
		"no JSON":             {[]string{Env}, "core/pods/a/b", `secret`, ``},
	} {
		t.Run(name, func(t *testing.T) {
			got := Redaction{What: tc.what, Mark: mark}.Apply(schemas.Event{Type: schemas.Added, Key: key(t, tc.key), Object: []byte(tc.object)})
			if tc.want == "" {
				require.Empty(t, got.Object)
				return
			}
			require.JSONEq(t, tc.want, string(got.Object))
			require.NotContains(t, string(got.Object), "0e+", "numbers stay as they are")
		})
	}
	require.EqualError(t, CheckRedaction([]string{Env, "x"}), `--redact "x": want env, configmaps`)
}

func TestHides(t *testing.T) {
	env := `{"spec":{"containers":[{"env":[{"name":"A","value":"redacted-1"}]}]}}`
	for name, tc := range map[string]struct {
		redacted []string
		resource string
		object   string
		want     bool
	}{
		"secret":              {[]string{"secrets"}, "secrets", `{"data":{}}`, true},
		"env was hidden":      {[]string{"secrets", Env}, "pods", env, true},
		"env was not":         {[]string{"secrets"}, "pods", env, false},
		"no env":              {[]string{"secrets", Env}, "pods", `{"spec":{"containers":[{}]}}`, false},
		"configmap":           {[]string{"secrets", ConfigMaps}, "configmaps", `{"data":{"a":"redacted-1"}}`, true},
		"empty configmap":     {[]string{"secrets", ConfigMaps}, "configmaps", `{"data":{}}`, false},
		"not to be read":      {nil, "pods", `[`, true},
		"hidden by last week": {[]string{"secrets", Env}, "pods", `{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"env\":[{\"name\":\"A\",\"value\":\"x\"}]}"}}}`, true},
	} {
		require.Equal(t, tc.want, Hides(tc.redacted, schemas.Key{Resource: tc.resource}, []byte(tc.object)), name)
	}
}
