package serve

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestGroupsStandByPriority(t *testing.T) {
	version := func(gv string, group, version int) Announced {
		parsed, err := schema.ParseGroupVersion(gv)
		if err != nil {
			t.Fatal(err)
		}
		return Announced{GroupVersion: parsed, GroupPriority: group, VersionPriority: version}
	}
	for name, c := range map[string]struct {
		versions []Announced
		want     string
	}{
		"the foremost first":              {[]Announced{version("a/v1", 100, 1), version("b/v1", 2000, 1)}, "b/v1 | a/v1"},
		"by name if equal":                {[]Announced{version("b/v1", 100, 1), version("a/v1", 100, 1)}, "a/v1 | b/v1"},
		"a group as its foremost version": {[]Announced{version("a/v1", 100, 1), version("b/v1", 200, 1), version("a/v2", 300, 1)}, "a/v2 a/v1 | b/v1"},
		"versions by priority":            {[]Announced{version("a/v2", 100, 1), version("a/v1", 100, 2)}, "a/v1 a/v2"},
		"versions by stability if equal":  {[]Announced{version("a/v1beta1", 100, 1), version("a/v1", 100, 1), version("a/v2", 100, 1)}, "a/v2 a/v1 a/v1beta1"},
	} {
		t.Run(name, func(t *testing.T) {
			var groups []string
			for _, group := range plainOrder(c.versions) {
				var versions []string
				for _, v := range group.Versions {
					versions = append(versions, v.GroupVersion)
				}
				if group.PreferredVersion.GroupVersion != versions[0] {
					t.Errorf("%s is preferred", group.PreferredVersion.GroupVersion)
				}
				groups = append(groups, strings.Join(versions, " "))
			}
			if got := strings.Join(groups, " | "); got != c.want {
				t.Errorf("%s instead of %s", got, c.want)
			}
		})
	}
}
