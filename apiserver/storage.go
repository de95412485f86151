package apiserver

import (
	"fmt"
	"slices"
	"sync"
	"time"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/apiserver/internal/customresources"
	"github.com/rutter-project/rutter/apiserver/internal/kinds"
	"github.com/rutter-project/rutter/apiserver/internal/serve"
	"github.com/rutter-project/rutter/apiserver/internal/store"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas"
)

// stores gives upstream's REST storages our store as their storage.Interface.
type stores struct {
	cfg    Config
	view   *view.View
	leases *store.Leases
	sealer store.Sealer
	shapes map[schema.GroupResource]*view.Shape // of some resources

	mu     sync.Mutex
	opened map[schema.GroupVersionResource]*store.Store // by the version stored; guarded by mu
}

var _ generic.RESTOptionsGetter = (*stores)(nil)

// deleteWorkers is how many objects a deletecollection deletes at a time.
const deleteWorkers = 4

// GetRESTOptions implements generic.RESTOptionsGetter.
func (s *stores) GetRESTOptions(gr schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	codec, version, err := kinds.StorageCodec(gr, example)
	if err != nil {
		return generic.RESTOptions{}, err
	}
	return generic.RESTOptions{
		// Dry runs encode without a store, and discovery tells a hash of the version stored.
		StorageConfig:           &storagebackend.ConfigForResource{Config: storagebackend.Config{Codec: codec, EncodeVersioner: version}, GroupResource: gr},
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: deleteWorkers,
		ResourcePrefix:          prefixOf(gr),
		Decorator: func(_ *storagebackend.ConfigForResource, _ string, _ func(runtime.Object) (string, error),
			newFunc, newList func() runtime.Object, _ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
			st, err := s.open(gr, newFunc, newList)
			return st, func() {}, err
		},
	}, nil
}

// raw opens the store of a resource that has no REST storage.
func (s *stores) raw(gr schema.GroupResource, newFunc func() runtime.Object) (storage.Interface, string, error) {
	st, err := s.open(gr, newFunc, newFunc)
	return st, prefixOf(gr), err
}

func (s *stores) open(gr schema.GroupResource, newFunc, newList func() runtime.Object) (*store.Store, error) {
	codec, version, err := kinds.StorageCodec(gr, newFunc())
	if err != nil {
		return nil, err
	}
	cfg := store.Config{
		Client: s.cfg.Etcd, View: s.view, Codec: codec, Resource: gr,
		NewFunc: newFunc, NewList: newList,
		Prefix:   prefixOf(gr),
		CauseKey: schemas.CausePrefix + s.cfg.ID,
		Header:   serve.Header,
		Leases:   s.leases,
		Shape:    view.Bare(true), // there is no selector for what a kind lacks
	}
	if shape, ok := s.shapes[kinds.StoredAs(gr)]; ok {
		cfg.Shape = shape
	}
	if gr == (schema.GroupResource{Resource: "secrets"}) {
		cfg.Sealer = s.sealer
	}
	st, err := store.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("store of %s: %w", gr, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened[version.WithResource(kinds.StoredAs(gr).Resource)] = st
	return st, nil
}

// of is the store of a resource by the version it is stored in, nil if there is none.
func (s *stores) of(gvr schema.GroupVersionResource) *store.Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened[gvr]
}

// custom opens the store of one version of a custom resource.
func (s *stores) custom(c customresources.Storage) (storage.Interface, error) {
	st, err := store.New(store.Config{
		Client: s.cfg.Etcd, View: s.view, Codec: c.Codec, Resource: c.Resource, NewFunc: c.NewFunc, NewList: c.NewList,
		Prefix: c.Prefix, CauseKey: schemas.CausePrefix + s.cfg.ID, Header: serve.Header, Leases: s.leases,
		Retired: c.Retired,
	})
	if err != nil {
		return nil, fmt.Errorf("store of %s: %w", c.Resource, err)
	}
	return st, nil
}

// asStored finds the served resources whose stored bytes are what clients get in JSON.
func (s *stores) asStored(api *kinds.API) map[schema.GroupVersionResource]serve.Stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[schema.GroupVersionResource]serve.Stored{}
	for _, version := range api.Versions {
		for _, r := range version.Resources {
			gvr := version.WithResource(r.Resource)
			st, ok := s.opened[gvr]
			if !ok || st.Sealed() || !slices.Contains(r.Verbs, "watch") {
				continue
			}
			found[gvr] = stored(version, r, st)
		}
	}
	return found
}

// stored is a built-in resource that is kept in the version it is served in.
func stored(version kinds.GroupVersion, r apidiscovery.APIResourceDiscovery, st *store.Store) serve.Stored {
	kind := version.WithKind(r.ResponseKind.Kind)
	s := serve.Stored{Store: st, Kind: kind.Kind, Namespaced: r.Scope == apidiscovery.ScopeNamespace, Shape: st.Shape(), Forms: st.Forms(), Warnings: kinds.Deprecation(kind),
		FieldLabel: func(label, value string) (string, string, error) {
			return kinds.Scheme().ConvertFieldLabel(kind, label, value)
		}}
	s.Table, _ = version.Storages[r.Resource].(rest.TableConvertor)
	if fresh := func() serve.Message {
		object, err := kinds.Scheme().New(kind)
		if err != nil {
			return nil
		}
		message, _ := object.(serve.Message)
		return message
	}; fresh() != nil {
		s.New = fresh
	}
	return s
}

// prefixOf is where the objects of a resource are kept in etcd.
func prefixOf(gr schema.GroupResource) string {
	stored := kinds.StoredAs(gr)
	group := stored.Group
	if group == "" {
		group = "core"
	}
	return schemas.RegistryPrefix + group + "/" + stored.Resource
}

// minRequestTimeout is the least time a watch lives whose client set no timeout.
const minRequestTimeout = 30 * time.Minute
