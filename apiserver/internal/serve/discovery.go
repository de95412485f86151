package serve

import (
	"net/http"
	"strings"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
)

// discoverer answers /api, /apis and /apis/<group>, in the aggregated form
// (KEP-3352) and the plain one.
type discoverer struct {
	legacy, groups http.Handler
	group          map[string]http.Handler
}

// groupPriority spaces the groups so that others can be put between them later.
const groupPriority = 100

func newDiscoverer(api *kinds.API, address string) *discoverer {
	addresses := discovery.DefaultAddresses{DefaultAddress: address}
	codecs := kinds.Codecs()
	plain := discovery.NewRootAPIsHandler(addresses, codecs)
	legacy, groups := aggregated.NewResourceManager("api"), aggregated.NewResourceManager("apis")
	d := &discoverer{
		legacy: aggregated.WrapAggregatedDiscoveryToHandler(discovery.NewLegacyRootAPIHandler(addresses, codecs, "/api"), legacy, legacy),
		groups: aggregated.WrapAggregatedDiscoveryToHandler(plain, groups, groups),
		group:  map[string]http.Handler{},
	}
	byGroup := map[string]*metav1.APIGroup{}
	var order []string
	for i, v := range api.Versions {
		document := apidiscovery.APIVersionDiscovery{Version: v.Version, Resources: v.Resources, Freshness: apidiscovery.DiscoveryFreshnessCurrent}
		if v.Group == "" {
			legacy.AddGroupVersion("", document)
			continue
		}
		groups.AddGroupVersion(v.Group, document)
		priority := (len(api.Versions) - i) * groupPriority
		groups.SetGroupVersionPriority(metav1.GroupVersion{Group: v.Group, Version: v.Version}, priority, priority)
		named := metav1.GroupVersionForDiscovery{GroupVersion: v.String(), Version: v.Version}
		g, ok := byGroup[v.Group]
		if !ok {
			g = &metav1.APIGroup{Name: v.Group, PreferredVersion: named}
			byGroup[v.Group] = g
			order = append(order, v.Group)
		}
		g.Versions = append(g.Versions, named)
	}
	for _, name := range order {
		plain.AddGroup(*byGroup[name])
		d.group[name] = discovery.NewAPIGroupHandler(codecs, *byGroup[name])
	}
	return d
}

// handler returns what answers a discovery path, nil if it is none.
func (d *discoverer) handler(path string) http.Handler {
	path = strings.Trim(path, "/")
	switch path {
	case "api":
		return d.legacy
	case "apis":
		return d.groups
	}
	name, ok := strings.CutPrefix(path, "apis/")
	if !ok {
		return nil
	}
	return d.group[name] // a map of interfaces: absent is nil
}
