package past

import (
	"fmt"

	"github.com/rutter-project/rutter/cmd/rutter/internal/delta"
	"github.com/rutter-project/rutter/schemas"
)

// Origin is a field of an object and the event that gave it its value.
type Origin struct {
	delta.Leaf
	// By set the value. If Known is false it was set before By, the oldest event that
	// is held of the object.
	By    schemas.Event
	Known bool
	// Lost says that By, or a change before it that is lost, set the value.
	Lost bool
}

// Blame says of each field of the last state who set it. The events are all that are
// held of one object, in order; base is its state before the first of them, empty if
// that is not held. An object that was deleted and made anew begins anew. Behind a gap that
// hides changes of the object nobody knows which change set what differs.
func Blame(base []byte, events []schemas.Event) ([]Origin, error) {
	before, err := delta.Leaves(base)
	if err != nil {
		return nil, fmt.Errorf("state before the first event: %w", err)
	}
	known := map[string]Origin{}
	var order []delta.Leaf
	var last int64 // revision of the event before
	lost := false  // behind a gap
	for i, e := range events {
		if lost = lost || e.Lost(); e.Type == schemas.Gap {
			continue
		}
		hidden := lost && (e.Resync != 0 || e.Type == schemas.Modified && e.PrevRev != last)
		last, lost = e.Rev, false
		if e.Type == schemas.Deleted {
			continue // its fields are those of the state before
		}
		leaves, err := delta.Leaves(e.Object)
		if err != nil {
			return nil, fmt.Errorf("%s at revision %d: %w", e.Key, e.Rev, err)
		}
		next := make(map[string]Origin, len(leaves))
		for _, leaf := range leaves {
			old, had := known[leaf.Path]
			switch {
			case hidden && had && old.Value == leaf.Value && e.Type != schemas.Added:
				next[leaf.Path] = old
			case hidden:
				next[leaf.Path] = Origin{Leaf: leaf, By: e, Lost: true}
			case e.Type == schemas.Added, had && old.Value != leaf.Value, !had && i > 0:
				next[leaf.Path] = Origin{Leaf: leaf, By: e, Known: e.Resync == 0}
			case had:
				next[leaf.Path] = old
			default: // the first event that is held, and the object is older
				next[leaf.Path] = Origin{Leaf: leaf, By: e, Known: len(before) > 0 && e.Resync == 0 && !holds(before, leaf)}
			}
		}
		known, order = next, leaves
	}
	origins := make([]Origin, len(order))
	for i, leaf := range order {
		origins[i] = known[leaf.Path]
	}
	return origins, nil
}

func holds(leaves []delta.Leaf, leaf delta.Leaf) bool {
	for _, l := range leaves {
		if l == leaf {
			return true
		}
	}
	return false
}
