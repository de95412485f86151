package kinds

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/rangeallocation"
	"k8s.io/kubernetes/pkg/registry/core/service/allocator"
)

// allocationTimeout bounds one allocation: the allocator interface has no context.
const allocationTimeout = 10 * time.Second

// rangeAllocations is where bitmaps of allocated numbers are kept, objects like all
// others: RangeAllocation in core.
var rangeAllocations = schema.GroupResource{Resource: "rangeallocations"}

// nodePortAllocations is the name of the one bitmap there is.
const nodePortAllocations = "servicenodeports"

// allocation keeps a bitmap of allocated numbers in the store, so that several API
// servers never give out one number twice. Each call is one optimistic update.
type allocation struct {
	store     storage.Interface
	key       string
	rangeSpec string
	empty     func() allocator.Snapshottable

	mu   sync.Mutex
	last allocator.Snapshottable // as of the last call; guarded by mu
}

var (
	_ allocator.Interface           = (*allocation)(nil)
	_ rangeallocation.RangeRegistry = (*allocation)(nil)
)

// allocations makes the factory that portallocator wants.
func (c Config) allocations(name string) allocator.AllocatorWithOffsetFactory {
	return func(size int, rangeSpec string, offset int) (allocator.Interface, error) {
		newFunc := func() runtime.Object { return &api.RangeAllocation{} }
		store, prefix, err := c.RawStorage(rangeAllocations, newFunc)
		if err != nil {
			return nil, err
		}
		empty := func() allocator.Snapshottable {
			return allocator.NewAllocationMapWithOffset(size, rangeSpec, offset)
		}
		return &allocation{store: store, key: prefix + "/" + name, rangeSpec: rangeSpec, empty: empty, last: empty()}, nil
	}
}

// update runs fn on the stored bitmap, of which it tells the version, and stores the
// result unless fn says it changed nothing.
func (a *allocation) update(fn func(version string, m allocator.Snapshottable) (changed bool, err error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), allocationTimeout)
	defer cancel()
	var seen allocator.Snapshottable
	err := a.store.GuaranteedUpdate(ctx, a.key, &api.RangeAllocation{}, true, nil,
		storage.SimpleUpdate(func(in runtime.Object) (runtime.Object, error) {
			stored := in.(*api.RangeAllocation)
			bitmap, err := a.restore(stored)
			if err != nil {
				return nil, err
			}
			seen = bitmap
			changed, err := fn(stored.ResourceVersion, bitmap)
			if err != nil {
				return nil, err
			}
			if !changed && stored.ResourceVersion != "" {
				return stored, nil
			}
			stored.Name = rangeName(a.key)
			stored.Range, stored.Data = bitmap.Snapshot()
			return stored, nil
		}), nil)
	if apierrors.IsConflict(err) {
		return err // whoever tries again looks at its type
	}
	if err != nil {
		return fmt.Errorf("allocation %s: %w", a.key, err)
	}
	a.mu.Lock()
	a.last = seen
	a.mu.Unlock()
	return nil
}

func (a *allocation) restore(stored *api.RangeAllocation) (allocator.Snapshottable, error) {
	bitmap := a.empty()
	if stored.ResourceVersion == "" {
		return bitmap, nil
	}
	if stored.Range != a.rangeSpec {
		return nil, fmt.Errorf("stored range %q is not the configured range %q", stored.Range, a.rangeSpec)
	}
	return bitmap, bitmap.Restore(stored.Range, stored.Data)
}

func (a *allocation) Allocate(offset int) (ok bool, err error) {
	err = a.update(func(_ string, m allocator.Snapshottable) (bool, error) {
		ok, err = m.Allocate(offset)
		return ok, err
	})
	return ok, err
}

func (a *allocation) AllocateNext() (offset int, ok bool, err error) {
	err = a.update(func(_ string, m allocator.Snapshottable) (bool, error) {
		offset, ok, err = m.AllocateNext()
		return ok, err
	})
	return offset, ok, err
}

func (a *allocation) Release(offset int) error {
	return a.update(func(_ string, m allocator.Snapshottable) (bool, error) {
		return m.Has(offset), m.Release(offset)
	})
}

func (a *allocation) ForEach(fn func(int)) { a.seen().ForEach(fn) }
func (a *allocation) Has(offset int) bool  { return a.seen().Has(offset) }
func (a *allocation) Free() int            { return a.seen().Free() }
func (a *allocation) Destroy()             {}
func (a *allocation) seen() allocator.Snapshottable {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// Get implements rangeallocation.RangeRegistry.
func (a *allocation) Get() (*api.RangeAllocation, error) {
	ctx, cancel := context.WithTimeout(context.Background(), allocationTimeout)
	defer cancel()
	stored := &api.RangeAllocation{}
	err := a.store.Get(ctx, a.key, storage.GetOptions{IgnoreNotFound: true}, stored)
	return stored, err
}

// CreateOrUpdate implements rangeallocation.RangeRegistry. It is a conflict if something
// was allocated or released since the snapshot.
func (a *allocation) CreateOrUpdate(snapshot *api.RangeAllocation) error {
	return a.update(func(stored string, m allocator.Snapshottable) (bool, error) {
		if stored != snapshot.ResourceVersion {
			return false, apierrors.NewConflict(rangeAllocations, rangeName(a.key), errAllocatedSince)
		}
		return true, m.Restore(snapshot.Range, snapshot.Data)
	})
}

var errAllocatedSince = errors.New("allocated or released since it was read")

func rangeName(key string) string {
	return key[strings.LastIndexByte(key, '/')+1:]
}
