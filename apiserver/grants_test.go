package apiserver

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

type rules = []authorizer.ResourceRuleInfo

func rule(verbs, groups, resources string, names ...string) authorizer.ResourceRuleInfo {
	return &authorizer.DefaultResourceRuleInfo{
		Verbs: strings.Fields(verbs), APIGroups: strings.Split(groups, ","), Resources: strings.Fields(resources), ResourceNames: names,
	}
}

func TestGrantedFilters(t *testing.T) {
	for name, tc := range map[string]struct {
		cluster    rules
		namespaces map[string]rules
		want       []string
	}{
		"nothing":                      {},
		"other verbs":                  {cluster: rules{rule("get list", "", "pods")}},
		"subresources only":            {cluster: rules{rule("watch", "", "pods/log */scale")}},
		"pods of a namespace":          {namespaces: map[string]rules{"shop": {rule("get watch", "", "pods")}}, want: []string{"h._.pods.shop.>"}},
		"pods everywhere":              {cluster: rules{rule("watch", "", "pods")}, want: []string{"h._.pods.*.>"}},
		"all verbs":                    {cluster: rules{rule("*", "apps", "deployments")}, want: []string{"h.apps.deployments.*.>"}},
		"a group with dots":            {cluster: rules{rule("watch", "rbac.authorization.k8s.io", "roles")}, want: []string{"h.rbac%2Eauthorization%2Ek8s%2Eio.roles.*.>"}},
		"a whole group in a namespace": {namespaces: map[string]rules{"shop": {rule("watch", "apps", "*")}}, want: []string{"h.apps.*.shop.>"}},
		"everything in a namespace":    {namespaces: map[string]rules{"shop": {rule("*", "*", "*"), rule("watch", "", "pods")}}, want: []string{"h.*.*.shop.>"}},
		"named objects": {
			namespaces: map[string]rules{"shop": {rule("watch", "", "configmaps", "web", "a.b", "*")}},
			want:       []string{"h._.configmaps.shop.%2A", "h._.configmaps.shop.a%2Eb", "h._.configmaps.shop.web"},
		},
		"a named node": {cluster: rules{rule("watch", "", "nodes", "n1")}, want: []string{"h._.nodes.*.n1"}},
		"several groups and resources": {
			namespaces: map[string]rules{"shop": {rule("watch", ",apps", "pods deployments")}},
			want:       []string{"h._.deployments.shop.>", "h._.pods.shop.>", "h.apps.deployments.shop.>", "h.apps.pods.shop.>"},
		},
		"what the cluster grants is not repeated": {
			cluster:    rules{rule("watch", "", "pods")},
			namespaces: map[string]rules{"shop": {rule("watch", "", "pods"), rule("watch", "", "services")}, "dev": {rule("watch", "", "pods", "web")}},
			want:       []string{"h._.pods.*.>", "h._.services.shop.>"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := grantedFilters(tc.cluster, tc.namespaces)
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
}

func TestGrantedFiltersAreBounded(t *testing.T) {
	namespaces := map[string]rules{}
	for i := range maxFilters + 1 {
		namespaces[fmt.Sprint("ns-", i)] = rules{rule("watch", "", "pods")}
	}
	_, err := grantedFilters(nil, namespaces)
	require.ErrorContains(t, err, "1001 sets of objects")
	delete(namespaces, "ns-0")
	got, err := grantedFilters(nil, namespaces)
	require.NoError(t, err)
	require.Len(t, got, maxFilters)
}
