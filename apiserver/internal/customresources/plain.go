package customresources

import (
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/rutter-project/rutter/apiserver/internal/store"
	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// Plain is a resource whose stored bytes are what clients are to see in JSON.
type Plain struct {
	Store      *store.Store
	Kind       string
	ListKind   string
	Namespaced bool
	Warnings   []string
	Table      rest.TableConvertor
	// Retired is closed when the resource's definition changes.
	Retired <-chan struct{}
}

// Plain finds the resource of a request if its objects need no decoding: they are
// stored in the version asked for, under the schema they were written under, which fills
// nothing in.
func (s *Server) Plain(info *request.RequestInfo) (Plain, bool) {
	if info.APIGroup == "" {
		return Plain{}, false
	}
	t, err := s.find(info)
	if err != nil || t == nil || info.APIVersion != t.resource.stored {
		return Plain{}, false
	}
	st, ok := t.version.opened.(*store.Store)
	if !ok || !t.resource.asStored(t.crd, st) {
		return Plain{}, false
	}
	names := t.crd.Status.AcceptedNames
	return Plain{Store: st, Kind: names.Kind, ListKind: names.ListKind, Namespaced: t.crd.Spec.Scope == apiextensions.NamespaceScoped,
		Warnings: t.version.warnings, Table: t.version.storage.CustomResource, Retired: t.resource.retired}, true
}

// asStored tells that all objects were written under the present schema: the
// definition's first, and none is left over from a definition before it.
func (r *resource) asStored(crd *apiextensions.CustomResourceDefinition, st *store.Store) bool {
	if crd.Generation != 1 || r.created == 0 || r.shape.fills(r.stored) || r.shape.open ||
		len(crd.Status.StoredVersions) != 1 || !apihelpers.IsStoredVersion(crd, r.stored) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.direct == nil {
		young := true
		st.Table().Snapshot().Ascend(st.Prefix(), "", func(i *view.Item) bool {
			young = i.Rev > r.created
			return young
		})
		r.direct = &young
	}
	return *r.direct
}
