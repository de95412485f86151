package aggregation

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// registered are the versions of custom resources that have APIServices.
type registered struct {
	mu       sync.Mutex
	versions map[schema.GroupVersion]bool // guarded by mu
}

// Priority is where a version stands in discovery, as upstream's APIServices say it.
type Priority struct{ Group, Version int32 }

// CustomPriority is upstream's for custom resources.
var CustomPriority = Priority{1000, 100}

// Announce makes the APIService of a built-in version if it is missing at start.
func (a *Aggregator) Announce(gv schema.GroupVersion, p Priority) {
	a.announced.mu.Lock()
	defer a.announced.mu.Unlock()
	a.announced.missing = append(a.announced.missing, serviceName(gv))
	a.register.AddAPIServiceToSyncOnStart(localService(gv, p))
}

// announced are the APIServices of built-in versions that have not been seen available
// since the start.
type announced struct {
	mu      sync.Mutex
	missing []string // guarded by mu
}

// Registered is a health check: it fails until the APIServices of all built-in versions
// were available once. What becomes of them then is their owner's.
func (a *Aggregator) Registered(context.Context) error {
	a.announced.mu.Lock()
	defer a.announced.mu.Unlock()
	a.announced.missing = slices.DeleteFunc(a.announced.missing, func(name string) bool {
		service, err := a.backends.services.Get(name)
		return err == nil && available(service)
	})
	if len(a.announced.missing) > 0 {
		return fmt.Errorf("missing APIServices: %s", strings.Join(a.announced.missing, ", "))
	}
	return nil
}

// Custom makes APIServices of these versions of custom resources and removes those it
// made of others.
func (a *Aggregator) Custom(versions map[schema.GroupVersion]bool) {
	a.registered.mu.Lock()
	defer a.registered.mu.Unlock()
	for gv := range versions {
		if !a.registered.versions[gv] {
			a.register.AddAPIServiceToSync(localService(gv, CustomPriority))
		}
	}
	for gv := range a.registered.versions {
		if !versions[gv] {
			a.register.RemoveAPIServiceToSync(serviceName(gv))
		}
	}
	a.registered.versions = versions
}

func serviceName(gv schema.GroupVersion) string { return gv.Version + "." + gv.Group }

func localService(gv schema.GroupVersion, p Priority) *apiregistration.APIService {
	return &apiregistration.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: serviceName(gv)},
		Spec:       apiregistration.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: p.Group, VersionPriority: p.Version},
	}
}
