package aggregation

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// GroupVersion is what discovery tells of an aggregated version.
type GroupVersion struct {
	schema.GroupVersion
	Resources []apidiscovery.APIResourceDiscovery
	// Stale tells that the server could not be asked last time. It has no resources then:
	// clients would not believe them.
	Stale                          bool
	GroupPriority, VersionPriority int
}

// described is what an aggregated server said of itself.
type described struct {
	service   *apiregistration.APIService
	resources []apidiscovery.APIResourceDiscovery
	stale     bool
}

// Discovery lists the aggregated versions, those of servers that don't answer as stale:
// clients that must not miss anything, as who empties a namespace, learn of them.
func (a *Aggregator) Discovery() []GroupVersion {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []GroupVersion
	for _, d := range a.seen {
		all = append(all, GroupVersion{GroupVersion: gvOf(d.service), Resources: d.resources, Stale: d.stale,
			GroupPriority: int(d.service.Spec.GroupPriorityMinimum), VersionPriority: int(d.service.Spec.VersionPriority)})
	}
	slices.SortFunc(all, func(x, y GroupVersion) int {
		if x.Group != y.Group {
			return strings.Compare(x.Group, y.Group)
		}
		if x.VersionPriority != y.VersionPriority {
			return y.VersionPriority - x.VersionPriority
		}
		return strings.Compare(x.Version, y.Version)
	})
	return all
}

// read asks all aggregated servers what they serve, several at a time, and tells whether
// all have answered.
func (a *Aggregator) read(ctx context.Context) bool {
	present := a.remote()
	uids := map[types.UID]bool{}
	for _, service := range present {
		uids[service.UID] = true
	}
	a.backends.only(uids)
	a.swaggers.only(uids)
	a.documents.only(uids)
	found := make([]*described, len(present))
	var wg sync.WaitGroup
	for i, service := range present {
		wg.Go(func() { found[i] = a.describe(ctx, service) })
	}
	wg.Wait()
	next, whole := map[types.UID]*described{}, true
	for _, d := range found {
		next[d.service.UID] = d
		whole = whole && !d.stale
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !sameDescriptions(a.seen, next) {
		a.generation.Add(1)
	}
	a.seen = next
	return whole
}

func sameDescriptions(a, b map[types.UID]*described) bool {
	if len(a) != len(b) {
		return false
	}
	for uid, x := range a {
		y, ok := b[uid]
		if !ok || x.stale != y.stale || !reflect.DeepEqual(x.service.Spec, y.service.Spec) || !reflect.DeepEqual(x.resources, y.resources) {
			return false
		}
	}
	return true
}

// describe asks one server.
func (a *Aggregator) describe(ctx context.Context, service *apiregistration.APIService) *described {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	resources, err := a.fetch(ctx, service)
	return &described{service: service, resources: resources, stale: err != nil}
}

const (
	acceptAggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
	// maxDocument bounds what is read of an aggregated server.
	maxDocument = 64 << 20
)

// fetch reads aggregated discovery, or that of the version if the server knows no other.
func (a *Aggregator) fetch(ctx context.Context, service *apiregistration.APIService) ([]apidiscovery.APIResourceDiscovery, error) {
	gv := gvOf(service)
	var groups apidiscovery.APIGroupDiscoveryList
	if err := a.fetchJSON(ctx, service, "/apis", acceptAggregated, &groups); err == nil && groups.Kind == "APIGroupDiscoveryList" {
		for _, g := range groups.Items {
			for _, v := range g.Versions {
				if g.Name == gv.Group && v.Version == gv.Version {
					return v.Resources, nil
				}
			}
		}
	}
	var list metav1.APIResourceList
	if err := a.fetchJSON(ctx, service, "/apis/"+gv.String(), "application/json", &list); err != nil {
		return nil, err
	}
	for i := range list.APIResources { // a resource of the list's own version need not say so
		r := &list.APIResources[i]
		if r.Group == "" && r.Version == "" {
			r.Group, r.Version = gv.Group, gv.Version
		}
	}
	return endpoints.ConvertGroupVersionIntoToDiscovery(list.APIResources)
}

func (a *Aggregator) fetchJSON(ctx context.Context, service *apiregistration.APIService, path, accept string, into any) error {
	resp, err := a.backends.get(ctx, service, path, accept)
	if err != nil {
		return fmt.Errorf("get %s of APIService %s: %w", path, service.Name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return &answerError{service.Name, path, resp.StatusCode}
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxDocument)).Decode(into); err != nil {
		return fmt.Errorf("decode %s of APIService %s: %w", path, service.Name, err)
	}
	return nil
}

// answerError says that an aggregated server answered, but not with what was asked for.
type answerError struct {
	service, path string
	status        int
}

func (e *answerError) Error() string {
	return fmt.Sprintf("APIService %s answers %s with %d", e.service, e.path, e.status)
}
