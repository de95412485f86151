package schemas

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKeyHasThreeReversibleNames(t *testing.T) {
	for name, tc := range map[string]struct {
		key           Key
		path, subject string
	}{
		"core, cluster scope": {
			Key{Resource: "nodes", Name: "n7"},
			"/rutter/registry/core/nodes/n7", "h._.nodes._.n7",
		},
		"core, namespaced": {
			Key{Resource: "pods", Namespace: "prod", Name: "web-0"},
			"/rutter/registry/core/pods/prod/web-0", "h._.pods.prod.web-0",
		},
		"named group": {
			Key{Group: "apps", Resource: "deployments", Namespace: "prod", Name: "web"},
			"/rutter/registry/apps/deployments/prod/web", "h.apps.deployments.prod.web",
		},
		"dots in group and name": {
			Key{Group: "rbac.authorization.k8s.io", Resource: "clusterroles", Name: "system:node.v1"},
			"/rutter/registry/rbac.authorization.k8s.io/clusterroles/system:node.v1",
			"h.rbac%2Eauthorization%2Ek8s%2Eio.clusterroles._.system:node%2Ev1",
		},
		"wildcards in a name": {
			Key{Group: "g", Resource: "r", Namespace: "n", Name: "*.> x"},
			"/rutter/registry/g/r/n/*.> x", "h.g.r.n.%2A%2E%3E%20x",
		},
		"a name that is the empty token": {
			Key{Group: "g", Resource: "r", Namespace: "n", Name: "_"},
			"/rutter/registry/g/r/n/_", "h.g.r.n.%5F",
		},
		"underscores inside a name": {
			Key{Group: "g", Resource: "r", Namespace: "n", Name: "a_b"},
			"/rutter/registry/g/r/n/a_b", "h.g.r.n.a_b",
		},
		"non-ASCII": {
			Key{Group: "g", Resource: "r", Namespace: "n", Name: "é%"},
			"/rutter/registry/g/r/n/é%", "h.g.r.n.%C3%A9%25",
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.path, tc.key.Path())
			require.Equal(t, tc.subject, tc.key.Subject())
			fromPath, err := ParsePath(tc.path)
			require.NoError(t, err)
			require.Equal(t, tc.key, fromPath)
			fromSubject, err := ParseSubject(tc.subject)
			require.NoError(t, err)
			require.Equal(t, tc.key, fromSubject)
		})
	}
}

func TestParsePathRefusesWhatIsNoObject(t *testing.T) {
	for _, path := range []string{
		"", "/", "/rutter/", RegistryPrefix, CausePrefix + "a", "/rutter/registry/core", "/rutter/registry/core/",
		"/rutter/registry/core/pods", "/rutter/registry/core/pods/", "/rutter/registry/core/pods/ns/",
		"/rutter/registry/core/pods//x", "/rutter/registry/core//ns/x", "/rutter/registry//pods/ns/x",
		"/rutter/registry/core/pods/ns/x/y", "/other/core/pods/ns/x",
	} {
		_, err := ParsePath(path)
		require.ErrorIs(t, err, ErrNotObject, path)
	}
}

func TestParseSubjectRefusesOtherSpellings(t *testing.T) {
	for _, subject := range []string{
		"", "h", "h.", ResyncSubject, "n.node", "h.a.b.c", "h.a.b.c.d.e", "live.h.a.b.c.d",
		"h.a.b.c.", "h.a._.c.d", "h.a.b.c._", "h.a.b.c.%2e", "h.a.b.c.%41", "h.a.b.c.%", "h.a.b.c.%4",
		"h.a.b.c.%ZZ", "h.a.b.c.*", "h.a.b.c.>", "h.a.b.c.é", "h.a.b.c.a b", "h.a.b.c.a%5Fb",
	} {
		_, err := ParseSubject(subject)
		require.ErrorIs(t, err, ErrNotObject, subject)
	}
}

func TestFilters(t *testing.T) {
	for want, got := range map[string]string{
		"h.apps.deployments.>":       SubjectPrefix("apps", "deployments", ""),
		"h._.pods.prod.>":            SubjectPrefix("", "pods", "prod"),
		"h.a%2Eb.c.>":                SubjectPrefix("a.b", "c", ""),
		"h.*.*.prod.*":               Filter(Key{Group: AnyToken, Resource: AnyToken, Namespace: "prod", Name: AnyToken}),
		"h._.nodes._.*":              Filter(Key{Resource: "nodes", Name: AnyToken}),
		"n.node%2E1":                 NodeRoute("node.1"),
		"live.n.node%2E1":            LiveNodeRoute("node.1"),
		"_":                          EscapeToken(""),
		Key{Resource: "p"}.Subject(): "h._.p._._",
	} {
		require.Equal(t, want, got)
	}
}

func TestFiltersAreReadBack(t *testing.T) {
	for filter, want := range map[string]Key{
		"h.>":                         {AnyToken, AnyToken, AnyToken, AnyToken},
		SubjectPrefix("a.b", "c", ""): {"a.b", "c", AnyToken, AnyToken},
		SubjectPrefix("", "c", "d"):   {"", "c", "d", AnyToken},
		Filter(Key{Group: AnyToken, Resource: AnyToken, Namespace: "", Name: AnyToken}): {AnyToken, AnyToken, "", AnyToken},
		Key{Group: "g", Resource: "r", Namespace: "n", Name: "a b"}.Subject():           {"g", "r", "n", "a b"},
	} {
		got, err := ParseFilter(filter)
		require.NoError(t, err, filter)
		require.Equal(t, want, got, filter)
	}
	for _, filter := range []string{"", ">", "h", "x.>", "h.a.b.c", "h.a.b.c.d.e", "h.a.b.c.d.>", "h.a.>.c.d", "h.a.b.c.%2e", "h.*.*.n." + EscapeToken("*")} {
		_, err := ParseFilter(filter)
		require.ErrorIs(t, err, ErrNotObject, filter)
	}
}

func TestNodeRouteIsReversible(t *testing.T) {
	for _, node := range []string{"a", "ip-10-0-0-1.ec2.internal", "_", "a b", "%2E"} {
		got, err := ParseNodeRoute(NodeRoute(node))
		require.NoError(t, err)
		require.Equal(t, node, got)
		require.Equal(t, 1, strings.Count(NodeRoute(node), "."))
	}
	for _, subject := range []string{"", "n.", "n._", "n.*", "n.a.b", "h.a", "n.%2e"} {
		_, err := ParseNodeRoute(subject)
		require.Error(t, err, subject)
	}
}

func FuzzSubject(f *testing.F) {
	f.Add("apps", "deployments", "prod", "web")
	f.Add("", "nodes", "", "a.b_%*>\x00é")
	f.Add("_", "_", "_", "_")
	f.Fuzz(func(t *testing.T, group, resource, namespace, name string) {
		if resource == "" || name == "" {
			t.Skip()
		}
		key := Key{Group: group, Resource: resource, Namespace: namespace, Name: name}
		subject := key.Subject()
		if strings.Count(subject, ".") != 4 || strings.ContainsAny(subject, "*> \t\r\n\x00") {
			t.Fatalf("%q is no literal subject of five tokens", subject)
		}
		got, err := ParseSubject(subject)
		if err != nil || got != key {
			t.Fatalf("%q: %+v, %v", subject, got, err)
		}
	})
}

func FuzzParseSubject(f *testing.F) {
	f.Add("h.apps.deployments.prod.web")
	f.Add("h._.nodes._.%5F")
	f.Fuzz(func(t *testing.T, subject string) {
		key, err := ParseSubject(subject)
		if err == nil && key.Subject() != subject {
			t.Fatalf("%q and %q name one object", subject, key.Subject())
		}
	})
}

func FuzzParsePath(f *testing.F) {
	f.Add("/rutter/registry/apps/deployments/prod/web")
	f.Fuzz(func(t *testing.T, path string) {
		key, err := ParsePath(path)
		if err == nil && key.Path() != path {
			t.Fatalf("%q and %q name one object", path, key.Path())
		}
	})
}

// The grammar of docs/events.md as regular expressions.
var (
	abnfEscaped = `%(?:[0189A-F][0-9A-F]|2[0-9A-CEF]|3[B-F]|40|5[B-E]|60|7[B-F])`
	abnfSolo    = `(?:[A-Za-z0-9:-]|` + abnfEscaped + `)`
	abnfChar    = `(?:_|` + abnfSolo + `)`
	abnfName    = `(?:%5F|` + abnfChar + `{2,}|` + abnfSolo + `)`
	abnfToken   = `(?:_|` + abnfName + `)`
	abnfObject  = regexp.MustCompile(`^h\.` + abnfToken + `\.` + abnfName + `\.` + abnfToken + `\.` + abnfName + `$`)
	abnfRoute   = regexp.MustCompile(`^n\.` + abnfName + `$`)
)

// FuzzGrammar: what the code accepts is what the grammar allows.
func FuzzGrammar(f *testing.F) {
	for _, s := range []string{"h._.pods._.a", "h.%5F.__.a_.%2E", "h._.%5F%5F.n.a", "n.n1", "n._", "n.%5F", "n.%41", "h._.pods._._", "n.__", "n.%2D", "n.%2d", "h.a.b.c", "n.%FF"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := ParseSubject(s); (err == nil) != abnfObject.MatchString(s) {
			t.Errorf("%q: the code says %v, the grammar %v", s, err, abnfObject.MatchString(s))
		}
		if _, err := ParseNodeRoute(s); (err == nil) != abnfRoute.MatchString(s) {
			t.Errorf("%q: the code says %v, the grammar %v", s, err, abnfRoute.MatchString(s))
		}
	})
}
