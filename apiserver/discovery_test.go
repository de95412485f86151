package apiserver_test

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/openapi"
)

// TestDiscoveryGolden holds what we rely on from upstream: every resource we serve and
// its verbs. A new release of upstream shows here first.
func TestDiscoveryGolden(t *testing.T) {
	c := server(t)
	client := c.client.Discovery()
	_, aggregated, err := client.ServerGroupsAndResources()
	require.NoError(t, err)
	table := tableOf(aggregated)
	golden(t, "discovery.txt", []byte(table))

	plain := discovery.NewDiscoveryClientForConfigOrDie(c.config)
	plain.UseLegacyDiscovery = true
	_, legacy, err := plain.ServerGroupsAndResources()
	require.NoError(t, err)
	require.Equal(t, table, tableOf(legacy), "plain and aggregated discovery differ")
}

// tableOf is one line for each served resource, but for those of other tests, which may
// take a while to go.
func tableOf(lists []*metav1.APIResourceList) string {
	var lines []string
	for _, list := range lists {
		if strings.Contains(list.GroupVersion, ".example.com/") {
			continue
		}
		for _, r := range list.APIResources {
			scope := "cluster"
			if r.Namespaced {
				scope = "namespace"
			}
			verbs := append([]string(nil), r.Verbs...)
			sort.Strings(verbs)
			kind := schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
			line := []string{list.GroupVersion, r.Name, kindIn(list.GroupVersion, kind), scope, strings.Join(verbs, ",")}
			for name, values := range map[string][]string{"short": r.ShortNames, "in": r.Categories} {
				if len(values) > 0 {
					line = append(line, name+"="+strings.Join(values, ","))
				}
			}
			sort.Strings(line[5:])
			lines = append(lines, strings.Join(line, " "))
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n") + "\n"
}

// kindIn names a kind, with its group version if that is not the list's own.
func kindIn(groupVersion string, kind schema.GroupVersionKind) string {
	if kind.Version == "" || kind.GroupVersion().String() == groupVersion {
		return kind.Kind
	}
	return kind.GroupVersion().String() + "." + kind.Kind
}

func TestDiscoveryOfOneGroup(t *testing.T) {
	c := server(t)
	a := c.send(t, "GET", "/apis/autoscaling", "")
	require.Equal(t, "APIGroup", a.object(t)["kind"])
	require.Contains(t, string(a.body), `"preferredVersion":{"groupVersion":"autoscaling/v2","version":"v2"}`)
	require.Equal(t, "APIResourceList", c.send(t, "GET", "/api/v1", "").object(t)["kind"])
	require.Equal(t, "APIVersions", c.send(t, "GET", "/api", "").object(t)["kind"])
	require.Equal(t, "APIGroupList", c.send(t, "GET", "/apis", "").object(t)["kind"])
	require.Equal(t, 404, c.send(t, "GET", "/apis/example.com", "").status)
}

// servedKinds are the kinds of all served resources, subresources left out: theirs are
// served elsewhere or have no schema of their own.
func (c *cluster) servedKinds(t *testing.T) map[schema.GroupVersionKind]bool {
	t.Helper()
	_, lists, err := c.client.Discovery().ServerGroupsAndResources()
	require.NoError(t, err)
	served := map[schema.GroupVersionKind]bool{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		require.NoError(t, err)
		for _, r := range list.APIResources {
			if !strings.Contains(r.Name, "/") {
				served[gv.WithKind(r.Kind)] = true
			}
		}
	}
	require.Greater(t, len(served), 60)
	return served
}

// described collects the kinds that schemas say they are of.
func described(t *testing.T, schemas map[string]json.RawMessage, into map[schema.GroupVersionKind]bool) {
	t.Helper()
	for name, raw := range schemas {
		var s struct {
			Kinds []struct{ Group, Version, Kind string } `json:"x-kubernetes-group-version-kind"`
		}
		require.NoError(t, json.Unmarshal(raw, &s), name)
		for _, k := range s.Kinds {
			into[schema.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind}] = true
		}
	}
}

func missing(want, got map[schema.GroupVersionKind]bool) []string {
	var out []string
	for k := range want {
		if !got[k] {
			out = append(out, k.String())
		}
	}
	sort.Strings(out)
	return out
}

func TestOpenAPIV2(t *testing.T) {
	c := server(t)
	a := c.send(t, "GET", "/openapi/v2", "")
	require.Equal(t, 200, a.status)
	var doc struct {
		Swagger     string
		Definitions map[string]json.RawMessage
		Paths       map[string]json.RawMessage
	}
	require.NoError(t, json.Unmarshal(a.body, &doc))
	require.Equal(t, "2.0", doc.Swagger)
	require.Contains(t, doc.Paths, "/api/v1/namespaces/{namespace}/pods/{name}/log")
	got := map[schema.GroupVersionKind]bool{}
	described(t, doc.Definitions, got)
	require.Empty(t, missing(c.servedKinds(t), got))

	parsed, err := c.client.Discovery().OpenAPISchema() // as protobuf, as kubectl asks for it
	require.NoError(t, err)
	require.Equal(t, len(doc.Definitions), len(parsed.GetDefinitions().GetAdditionalProperties()))
}

func TestOpenAPIV3(t *testing.T) {
	c := server(t)
	paths, err := c.client.Discovery().OpenAPIV3().Paths()
	require.NoError(t, err)
	got := map[schema.GroupVersionKind]bool{}
	for path, version := range paths {
		for _, form := range []string{"application/json", openapi.ContentTypeOpenAPIV3PB} {
			data, err := version.Schema(form)
			require.NoError(t, err, path)
			if form != "application/json" {
				require.NotEmpty(t, data)
				continue
			}
			var doc struct {
				OpenAPI    string `json:"openapi"`
				Components struct{ Schemas map[string]json.RawMessage }
			}
			require.NoError(t, json.Unmarshal(data, &doc), path)
			require.True(t, strings.HasPrefix(doc.OpenAPI, "3."), fmt.Sprint(path, doc.OpenAPI))
			described(t, doc.Components.Schemas, got)
		}
	}
	require.Empty(t, missing(c.servedKinds(t), got))
}
