package kinds

import (
	"context"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/rangeallocation"
)

// oneObject is a store of one object.
type oneObject struct {
	storage.Interface
	held api.RangeAllocation
}

func (s *oneObject) Get(_ context.Context, _ string, _ storage.GetOptions, out runtime.Object) error {
	s.held.DeepCopyInto(out.(*api.RangeAllocation))
	return nil
}

func (s *oneObject) GuaranteedUpdate(_ context.Context, _ string, _ runtime.Object, _ bool, _ *storage.Preconditions, try storage.UpdateFunc, _ runtime.Object) error {
	changed, _, err := try(s.held.DeepCopy(), storage.ResponseMeta{})
	if err != nil {
		return err
	}
	version, _ := strconv.Atoi(s.held.ResourceVersion)
	s.held = *changed.(*api.RangeAllocation)
	s.held.ResourceVersion = strconv.Itoa(version + 1)
	return nil
}

// A repair that has read the bitmap must not undo what was allocated since.
func TestASnapshotOfAllocationsIsNotWrittenOverLaterOnes(t *testing.T) {
	c := Config{RawStorage: func(schema.GroupResource, func() runtime.Object) (storage.Interface, string, error) {
		return &oneObject{}, "/registry", nil
	}}
	a, err := c.allocations(nodePortAllocations)(100, "0-99", 0)
	require.NoError(t, err)
	registry := a.(rangeallocation.RangeRegistry)
	_, err = a.Allocate(7)
	require.NoError(t, err)
	old, err := registry.Get()
	require.NoError(t, err)
	_, err = a.Allocate(8)
	require.NoError(t, err)
	require.True(t, apierrors.IsConflict(registry.CreateOrUpdate(old)))
	now, err := registry.Get()
	require.NoError(t, err)
	require.NoError(t, registry.CreateOrUpdate(now))
	require.True(t, a.Has(7))
	require.True(t, a.Has(8))
}
