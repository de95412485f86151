package serve

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"sync"

	restful "github.com/emicklei/go-restful/v3"
	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubeversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
)

// discoverer answers /api, /apis, /apis/<group>, and /apis/<group>/<version> of what is
// not built in, in the aggregated form (KEP-3352) and the plain one. What it answers is
// built for the first request after a change.
type discoverer struct {
	api       *kinds.API
	custom    Custom
	addresses discovery.DefaultAddresses

	mu         sync.Mutex
	generation any        // of what catalog shows; guarded by mu
	catalog    *catalogue // guarded by mu
}

// catalogue is what discovery answers at one time.
type catalogue struct {
	legacy, groups http.Handler
	group          map[string]http.Handler
	version        map[string]http.Handler // by path: apis/example.com/v1
}

// foremost is the place of the group that says what the places of others are: no APIService
// can be put before it.
var foremost = kinds.Priority{Group: 20001}

func newDiscoverer(api *kinds.API, custom Custom, address string) *discoverer {
	return &discoverer{api: api, custom: custom, addresses: discovery.DefaultAddresses{DefaultAddress: address}}
}

// handler returns what answers a discovery path, nil if it is none. Like upstream's
// aggregator, what answers for groups looks at no method.
func (d *discoverer) handler(path string) http.Handler {
	path = strings.Trim(path, "/")
	root, rest, below := strings.Cut(path, "/")
	switch {
	case root == "api" && !below:
		return d.current().legacy
	case root != "apis":
		return nil
	case !below:
		return d.current().groups
	}
	// A map of interfaces: absent is nil.
	switch strings.Count(rest, "/") {
	case 0:
		return d.current().group[rest]
	case 1:
		return d.current().version[path]
	default:
		return nil
	}
}

func (d *discoverer) current() *catalogue {
	d.mu.Lock()
	defer d.mu.Unlock()
	generation := d.custom.Generation()
	if d.catalog == nil || d.generation != generation {
		d.catalog, d.generation = d.build(), generation
	}
	return d.catalog
}

// shelf is a catalogue being filled.
type shelf struct {
	c              *catalogue
	legacy, groups aggregated.ResourceManager
	versions       []Announced // of groups
}

func (d *discoverer) build() *catalogue {
	codecs := kinds.Codecs()
	s := &shelf{legacy: aggregated.NewResourceManager("api"), groups: aggregated.NewResourceManager("apis")}
	s.c = &catalogue{
		legacy:  dispatched(legacyService(d.addresses, s.legacy)),
		group:   map[string]http.Handler{},
		version: map[string]http.Handler{},
	}
	builtIn, priorities := map[schema.GroupVersion]bool{}, kinds.Priorities()
	for _, v := range d.api.Versions {
		p, ok := priorities[v.GroupVersion]
		if !ok {
			p = foremost
		}
		s.add(Announced{GroupVersion: v.GroupVersion, Resources: v.Resources, GroupPriority: int(p.Group), VersionPriority: int(p.Version)})
		builtIn[v.GroupVersion] = true
	}
	for _, v := range d.custom.Discovery() {
		if builtIn[v.GroupVersion] {
			continue // requests for it go to the built-in kinds
		}
		s.add(v)
		if list := v.Plain; list != nil {
			s.c.version["apis/"+v.String()] = discovery.NewAPIVersionHandler(codecs, v.GroupVersion,
				discovery.APIResourceListerFunc(func() []metav1.APIResource { return list })) // upstream's looks at nothing but the path either
		}
	}
	list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	for _, group := range plainOrder(s.versions) {
		list.Groups = append(list.Groups, group)
		s.c.group[group.Name] = discovery.NewAPIGroupHandler(codecs, group)
	}
	s.c.groups = aggregated.WrapAggregatedDiscoveryToHandler(plainGroups(list), s.groups, s.groups)
	return s.c
}

// plainGroups serves the list of groups in the form that upstream's aggregator gives it.
func plainGroups(list metav1.APIGroupList) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		responsewriters.WriteObjectNegotiated(kinds.Codecs(), negotiation.DefaultEndpointRestrictions, schema.GroupVersion{}, w, r, http.StatusOK, &list, false)
	})
}

func legacyService(addresses discovery.Addresses, manager aggregated.ResourceManager) *restful.WebService {
	plain := discovery.NewLegacyRootAPIHandler(addresses, kinds.Codecs(), "/api")
	return aggregated.WrapAggregatedDiscoveryToHandler(plain, manager, manager).GenerateWebService("/api", metav1.APIVersions{})
}

func groupsService(plain http.Handler, manager aggregated.ResourceManager) *restful.WebService {
	return aggregated.WrapAggregatedDiscoveryToHandler(plain, manager, manager).GenerateWebService("/apis", metav1.APIGroupList{})
}

// dispatched serves one service by method and media type.
func dispatched(service *restful.WebService) http.Handler {
	return http.HandlerFunc(kinds.Container(service).Dispatch)
}

// describedDiscovery are the discovery services of the built-in kinds, for OpenAPI.
func describedDiscovery(api *kinds.API) []*restful.WebService {
	codecs, addresses := kinds.Codecs(), discovery.DefaultAddresses{}
	all := []*restful.WebService{
		legacyService(addresses, aggregated.NewResourceManager("api")),
		groupsService(plainGroups(metav1.APIGroupList{}), aggregated.NewResourceManager("apis")),
	}
	seen := map[string]bool{"": true}
	for _, v := range api.Versions {
		if !seen[v.Group] {
			seen[v.Group] = true
			all = append(all, discovery.NewAPIGroupHandler(codecs, metav1.APIGroup{Name: v.Group}).WebService())
		}
	}
	return all
}

func (s *shelf) add(v Announced) {
	gv := v.GroupVersion
	document := apidiscovery.APIVersionDiscovery{Version: gv.Version, Resources: v.Resources, Freshness: apidiscovery.DiscoveryFreshnessCurrent}
	if v.Stale {
		document.Freshness = apidiscovery.DiscoveryFreshnessStale
	}
	if gv.Group == "" {
		s.legacy.AddGroupVersion("", document)
		return
	}
	s.groups.AddGroupVersion(gv.Group, document)
	s.groups.SetGroupVersionPriority(metav1.GroupVersion(gv), v.GroupPriority, v.VersionPriority)
	s.versions = append(s.versions, v)
}

// plainOrder puts groups and their versions in the order of their priorities, and then of
// their names and of how stable they are; a group stands where its foremost version does.
func plainOrder(versions []Announced) []metav1.APIGroup {
	slices.SortFunc(versions, func(a, b Announced) int {
		return cmp.Or(cmp.Compare(b.GroupPriority, a.GroupPriority), cmp.Compare(a.Group, b.Group))
	})
	var order []string
	groups := map[string][]Announced{}
	for _, v := range versions {
		if groups[v.Group] == nil {
			order = append(order, v.Group)
		}
		groups[v.Group] = append(groups[v.Group], v)
	}
	var all []metav1.APIGroup
	for _, name := range order {
		slices.SortFunc(groups[name], func(a, b Announced) int {
			return cmp.Or(cmp.Compare(b.VersionPriority, a.VersionPriority), kubeversion.CompareKubeAwareVersionStrings(b.Version, a.Version))
		})
		group := metav1.APIGroup{Name: name}
		for _, v := range groups[name] {
			group.Versions = append(group.Versions, metav1.GroupVersionForDiscovery{GroupVersion: v.String(), Version: v.Version})
		}
		group.PreferredVersion = group.Versions[0]
		all = append(all, group)
	}
	return all
}
