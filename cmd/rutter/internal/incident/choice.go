// Package incident decides what of a span of history goes into a bundle, and what is
// hidden of it. It only decides; events come from who asks.
package incident

import (
	"encoding/json"
	"slices"

	"github.com/rutter-project/rutter/schemas"
	"github.com/rutter-project/rutter/schemas/bundle"
)

// Choice gathers what there is in a span (Learn), and then tells what is wanted of it
// (Wants).
type Choice struct {
	bundle.Selection
	// Causes adds the objects whose changes caused those of what was chosen.
	Causes bool

	known   map[schemas.Key]*ties
	changed map[int64][]schemas.Key // objects by the revision that changed them
	chosen  map[schemas.Key]bool    // nil until Decide
}

// ties is what leads from an object to others.
type ties struct {
	uids, owners, about []string
	revs                []int64 // causes
}

// NewChoice begins with nothing known.
func NewChoice(of bundle.Selection, causes bool) *Choice {
	return &Choice{Selection: of, Causes: causes, known: map[schemas.Key]*ties{}, changed: map[int64][]schemas.Key{}}
}

// Learn takes an object of the state, or a change.
func (c *Choice) Learn(e schemas.Event) {
	if e.Type == schemas.Gap {
		return
	}
	t := c.known[e.Key]
	if t == nil {
		t = &ties{}
		c.known[e.Key] = t
	}
	var o struct {
		Metadata struct {
			UID             string          `json:"uid"`
			OwnerReferences json.RawMessage `json:"ownerReferences"`
		} `json:"metadata"`
		InvolvedObject json.RawMessage `json:"involvedObject"`
		Regarding      json.RawMessage `json:"regarding"`
	}
	_ = json.Unmarshal(e.Object, &o) // kinds of others may use the names otherwise
	var refs []struct {
		UID string `json:"uid"`
	}
	_ = json.Unmarshal(o.Metadata.OwnerReferences, &refs)
	t.uids = with(t.uids, o.Metadata.UID)
	for _, ref := range refs {
		t.owners = with(t.owners, ref.UID)
	}
	for _, raw := range []json.RawMessage{o.InvolvedObject, o.Regarding} {
		var ref struct {
			UID string `json:"uid"`
		}
		_ = json.Unmarshal(raw, &ref)
		t.about = with(t.about, ref.UID)
	}
	for _, rev := range e.Header.Cause {
		if !slices.Contains(t.revs, rev) {
			t.revs = append(t.revs, rev)
		}
	}
	if c.Causes {
		c.changed[e.Rev] = append(c.changed[e.Rev], e.Key)
	}
}

// with adds what is not there yet.
func with(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// definitions are always wanted: without them nobody can read the objects of their kinds.
var definitions = schemas.Key{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}

// Decide chooses, once everything was learned, and returns how many objects were asked for.
func (c *Choice) Decide() int {
	c.chosen = map[schemas.Key]bool{}
	if c.Object != nil {
		c.chooseFamily(*c.Object)
	} else {
		for key := range c.known {
			if c.fits(key) {
				c.chosen[key] = true
			}
		}
	}
	asked := len(c.chosen)
	if c.Causes {
		c.chooseCauses()
	}
	for key := range c.chosen {
		if key.Namespace != "" {
			c.chosen[schemas.Key{Resource: "namespaces", Name: key.Namespace}] = true
		}
	}
	return asked
}

// fits tells what namespaces and resources were asked for.
func (c *Choice) fits(key schemas.Key) bool {
	namespace := key.Namespace
	if key.Group == "" && key.Resource == "namespaces" {
		namespace = key.Name
	}
	if len(c.Namespaces) > 0 && !slices.Contains(c.Namespaces, namespace) {
		return false
	}
	return len(c.Resources) == 0 || slices.Contains(c.Resources, ResourceName(key))
}

// ResourceName is how a Selection names a resource.
func ResourceName(key schemas.Key) string {
	if key.Group == "" {
		return key.Resource
	}
	return key.Resource + "." + key.Group
}

// chooseFamily takes an object, what it owns, and the Events about any of them.
func (c *Choice) chooseFamily(root schemas.Key) {
	if c.known[root] == nil {
		return
	}
	owned, about := map[string][]schemas.Key{}, map[string][]schemas.Key{}
	for key, t := range c.known {
		for _, uid := range t.owners {
			owned[uid] = append(owned[uid], key)
		}
		for _, uid := range t.about {
			about[uid] = append(about[uid], key)
		}
	}
	c.walk([]schemas.Key{root}, func(t *ties) []schemas.Key {
		var next []schemas.Key
		for _, uid := range t.uids {
			next = append(append(next, owned[uid]...), about[uid]...)
		}
		return next
	})
}

// chooseCauses takes the objects that were changed at the revisions which are named as
// causes, and theirs.
func (c *Choice) chooseCauses() {
	begin := make([]schemas.Key, 0, len(c.chosen))
	for key := range c.chosen {
		begin = append(begin, key)
	}
	c.chosen = map[schemas.Key]bool{}
	c.walk(begin, func(t *ties) []schemas.Key {
		var next []schemas.Key
		for _, rev := range t.revs {
			next = append(next, c.changed[rev]...)
		}
		return next
	})
}

// walk chooses what can be reached.
func (c *Choice) walk(todo []schemas.Key, next func(*ties) []schemas.Key) {
	for len(todo) > 0 {
		key := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if c.chosen[key] {
			continue
		}
		c.chosen[key] = true
		if t := c.known[key]; t != nil {
			todo = append(todo, next(t)...)
		}
	}
}

// Wants tells whether an event goes into the bundle. Gaps do, and the cluster's marks.
func (c *Choice) Wants(e schemas.Event) bool {
	return e.Type == schemas.Gap || c.Whole() || c.chosen[e.Key] || e.Key == schemas.Marks ||
		(e.Key.Group == definitions.Group && e.Key.Resource == definitions.Resource)
}
