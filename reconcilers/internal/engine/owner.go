package engine

import (
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// Names of the indexes that IndexOwned adds.
const (
	ByController = "controller" // UID of the controlling owner
	Orphans      = "orphans"    // namespace, of objects without a controller
)

// IndexOwned adds indexes of objects by their controller, and of those without one. It
// may be called for one informer by several controllers, before the informer starts.
func IndexOwned(informer cache.SharedIndexInformer) error {
	if _, ok := informer.GetIndexer().GetIndexers()[ByController]; ok {
		return nil
	}
	return informer.AddIndexers(cache.Indexers{
		ByController: func(obj any) ([]string, error) {
			accessor, err := meta.Accessor(obj)
			if err != nil {
				return nil, err
			}
			if ref := metav1.GetControllerOfNoCopy(accessor); ref != nil {
				return []string{string(ref.UID)}, nil
			}
			return nil, nil
		},
		Orphans: func(obj any) ([]string, error) {
			accessor, err := meta.Accessor(obj)
			if err != nil {
				return nil, err
			}
			if metav1.GetControllerOfNoCopy(accessor) == nil {
				return []string{accessor.GetNamespace()}, nil
			}
			return nil, nil
		},
	})
}

// Owned returns the objects below an index value.
func Owned[T any](indexer cache.Indexer, index, value string) []T {
	objects, err := indexer.ByIndex(index, value)
	if err != nil {
		return nil // the index is added by the constructor that asks
	}
	out := make([]T, 0, len(objects))
	for _, obj := range objects {
		if t, ok := obj.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

// OwnerKey maps an object to the key of its controller of the given kind, before and
// after the change.
func OwnerKey(kind string) Mapper {
	return func(old, obj any) []string {
		var keys []string
		for _, o := range []any{old, obj} {
			if o == nil {
				continue
			}
			accessor, err := meta.Accessor(o)
			if err != nil {
				continue
			}
			ref := metav1.GetControllerOfNoCopy(accessor)
			if ref == nil || ref.Kind != kind {
				continue
			}
			key := accessor.GetNamespace() + "/" + ref.Name
			if accessor.GetNamespace() == "" {
				key = ref.Name
			}
			if len(keys) == 0 || keys[0] != key {
				keys = append(keys, key)
			}
		}
		return keys
	}
}

// NamespaceOf maps an object of the given name to its namespace, others to nothing.
func NamespaceOf(name string) Mapper {
	return func(_, obj any) []string {
		accessor, err := meta.Accessor(obj)
		if err != nil || accessor.GetName() != name {
			return nil
		}
		return []string{accessor.GetNamespace()}
	}
}
