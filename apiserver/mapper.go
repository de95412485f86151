package apiserver

import (
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// mapper is a RESTMapper over discovery that learns again when what is served changes.
type mapper struct {
	discovered meta.ResettableRESTMapper
	generation atomic.Pointer[func() any] // set once the server knows what it serves

	mu   sync.Mutex
	seen any // guarded by mu
}

var _ meta.RESTMapper = (*mapper)(nil)

// follow sets what changes whenever discovery does.
func (m *mapper) follow(generation func() any) { m.generation.Store(&generation) }

func (m *mapper) current() meta.RESTMapper {
	generation := m.generation.Load()
	if generation == nil {
		return m.discovered
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := (*generation)(); m.seen != now {
		m.seen = now
		m.discovered.Reset()
	}
	return m.discovered
}

// KindFor implements meta.RESTMapper.
func (m *mapper) KindFor(r schema.GroupVersionResource) (schema.GroupVersionKind, error) {
	return m.current().KindFor(r)
}

// KindsFor implements meta.RESTMapper.
func (m *mapper) KindsFor(r schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	return m.current().KindsFor(r)
}

// ResourceFor implements meta.RESTMapper.
func (m *mapper) ResourceFor(r schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	return m.current().ResourceFor(r)
}

// ResourcesFor implements meta.RESTMapper.
func (m *mapper) ResourcesFor(r schema.GroupVersionResource) ([]schema.GroupVersionResource, error) {
	return m.current().ResourcesFor(r)
}

// RESTMapping implements meta.RESTMapper.
func (m *mapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	return m.current().RESTMapping(kind, versions...)
}

// RESTMappings implements meta.RESTMapper.
func (m *mapper) RESTMappings(kind schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	return m.current().RESTMappings(kind, versions...)
}

// ResourceSingularizer implements meta.RESTMapper.
func (m *mapper) ResourceSingularizer(resource string) (string, error) {
	return m.current().ResourceSingularizer(resource)
}
