package customresources

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/rutter-project/rutter/apiserver/internal/store"
	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// Definition is a definition and the revision at which it was created, 0 if that is
// not known. It is shared and must not be changed.
type Definition struct {
	*apiextensions.CustomResourceDefinition
	Created int64
}

// Source is where definitions come from. It is safe for concurrent use.
type Source interface {
	// Get finds a definition by name ("widgets.example.com").
	Get(name string) (Definition, bool)
	// List returns all definitions, ordered by name.
	List() []Definition
	// Generation is comparable and changes whenever a definition does.
	Generation() any
	// CatchUp waits until everything committed before the call is known.
	CatchUp(ctx context.Context) error
}

// fixed is a set of definitions that never changes.
type fixed map[string]Definition

// Fixed returns a source of exactly these definitions.
func Fixed(definitions ...*apiextensions.CustomResourceDefinition) Source {
	f := fixed{}
	for _, d := range definitions {
		f[d.Name] = Definition{CustomResourceDefinition: d}
	}
	return f
}

func (f fixed) Get(name string) (Definition, bool) {
	d, ok := f[name]
	return d, ok
}

func (f fixed) List() []Definition {
	var all []Definition
	for _, d := range f {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b Definition) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func (f fixed) Generation() any               { return 0 }
func (f fixed) CatchUp(context.Context) error { return nil }

// Following is a source that reads the view's table of definitions.
type Following struct {
	store *store.Store

	mu      sync.Mutex
	decoded map[string]decoded // by etcd key; guarded by mu
}

// decoded is a definition and the item it was made from.
type decoded struct {
	item       *view.Item
	definition Definition
}

var _ Source = (*Following)(nil)

// Follow returns a source of the definitions in a store.
func Follow(definitions *store.Store) *Following {
	return &Following{store: definitions, decoded: map[string]decoded{}}
}

// Get implements Source.
func (f *Following) Get(name string) (Definition, bool) {
	item, ok := f.store.Table().Get(f.store.Prefix() + name)
	if !ok {
		return Definition{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d, err := f.decodeLocked(item)
	return d, err == nil
}

// List implements Source.
func (f *Following) List() []Definition {
	snap := f.store.Table().Snapshot()
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Definition
	snap.Ascend(f.store.Prefix(), "", func(i *view.Item) bool {
		if d, err := f.decodeLocked(i); err == nil {
			all = append(all, d)
		}
		return true
	})
	if len(f.decoded) > len(all) {
		f.forgetLocked(all)
	}
	return all
}

// forgetLocked drops what was decoded of definitions that are gone.
func (f *Following) forgetLocked(present []Definition) {
	names := map[string]bool{}
	for _, d := range present {
		names[f.store.Prefix()+d.Name] = true
	}
	for key := range f.decoded {
		if !names[key] {
			delete(f.decoded, key)
		}
	}
}

// decodeLocked decodes an item once. Stored definitions are complete: they were
// defaulted when they were written.
func (f *Following) decodeLocked(item *view.Item) (Definition, error) {
	if d, ok := f.decoded[item.Key]; ok && d.item == item {
		return d.definition, nil
	}
	crd := &apiextensions.CustomResourceDefinition{}
	if err := json.Unmarshal(item.Object, crd); err != nil {
		return Definition{}, fmt.Errorf("stored definition %s: %w", strings.TrimPrefix(item.Key, f.store.Prefix()), err)
	}
	crd.ResourceVersion = strconv.FormatInt(item.Rev, 10)
	d := Definition{CustomResourceDefinition: crd, Created: item.Created}
	f.decoded[item.Key] = decoded{item: item, definition: d}
	return d, nil
}

// Generation implements Source.
func (f *Following) Generation() any { return f.store.Table().Generation() }

// CatchUp implements Source.
func (f *Following) CatchUp(ctx context.Context) error {
	_, err := f.store.Fresh(ctx, "")
	return err
}

// Run calls changed at first, and whenever a definition has changed, until the context
// ends.
func (f *Following) Run(ctx context.Context, changed func()) error {
	_, cursor := f.store.Table().SnapshotAndCursor()
	changed()
	for {
		events, _, more, err := cursor.Poll(changesAtOnce)
		switch {
		case errors.Is(err, view.ErrGone):
			_, cursor = f.store.Table().SnapshotAndCursor()
			changed()
			continue
		case err != nil:
			return err
		case len(events) > 0:
			// Watches that end because of a change are to tell what came before it.
			if err := f.store.Applied(ctx, events[len(events)-1].Rev); err != nil {
				return nil // the context has ended
			}
			changed()
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

// changesAtOnce is how many changes lead to one call.
const changesAtOnce = 1000
