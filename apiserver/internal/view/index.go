package view

import (
	"slices"
	"strings"

	"github.com/google/btree"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

const (
	// indexDegree keeps nodes, which are copied when a snapshot is about, at a kilobyte.
	indexDegree = 16
	// scanFrom is which part of all objects is better gone through than looked up.
	scanFrom = 4
)

// posting says that the object at key has a label or an indexed field of some value.
type posting struct{ term, key string }

// index finds objects by their labels and by some fields: a persistent tree of postings,
// by term and then by key. It is copied like the tree of objects and holds their keys
// only, so that a change which leaves labels and fields alone leaves it alone.
type index struct {
	shape *Shape
	tree  *btree.BTreeG[posting]
}

func newIndex(shape *Shape) *index {
	return &index{shape: shape, tree: btree.NewG(indexDegree, func(a, b posting) bool {
		if a.term != b.term {
			return a.term < b.term
		}
		return a.key < b.key
	})}
}

func (x *index) clone() *index { return &index{shape: x.shape, tree: x.tree.Clone()} }

// Terms of labels and of fields differ in the first byte; no label key has a "=".
func labelTerm(key, value string) string  { return "l" + key + "=" + value }
func fieldTerm(name, value string) string { return "f" + name + "=" + value }

// terms are what an object is found by, sorted; none for nil.
func (x *index) terms(i *Item) []string {
	if i == nil {
		return nil
	}
	r := x.shape.record(i.Object)
	out := make([]string, 0, len(r.labels)+1)
	for _, l := range r.labels {
		out = append(out, labelTerm(string(l.key), string(l.value)))
	}
	for n, f := range x.shape.fields {
		if f.Indexed {
			out = append(out, fieldTerm(f.Name, string(r.values[n])))
		}
	}
	slices.Sort(out)
	return out
}

// replace notes that the object at a key was one thing and is now another. nil is no
// object.
func (x *index) replace(was, is *Item) {
	before, after := x.terms(was), x.terms(is)
	if slices.Equal(before, after) {
		return
	}
	for _, t := range before {
		if _, stays := slices.BinarySearch(after, t); !stays {
			x.tree.Delete(posting{t, was.Key})
		}
	}
	for _, t := range after {
		if _, there := slices.BinarySearch(before, t); !there {
			x.tree.ReplaceOrInsert(posting{x.shared(t), is.Key})
		}
	}
}

// shared is the string that other postings of a term have.
func (x *index) shared(term string) string {
	x.tree.AscendGreaterOrEqual(posting{term: term}, func(p posting) bool {
		if p.term == term {
			term = p.term
		}
		return false
	})
	return term
}

// apply notes a change.
func (x *index) apply(e *Event) {
	if e.Type == Deleted {
		x.replace(e.Prev, nil)
		return
	}
	x.replace(e.Prev, e.Item)
}

// condition is a part of a selector by which the index finds all that can match: objects
// with one of some terms, or with any term that begins with stem.
type condition struct {
	terms []string
	stem  string
	wide  bool // not all that is found this way fulfils the condition
}

func (x *index) conditions(s Selector) []condition {
	var out []condition
	if s.Labels != nil {
		requirements, _ := s.Labels.Requirements()
		for _, r := range requirements {
			if c, ok := labelCondition(r); ok {
				out = append(out, c)
			}
		}
	}
	if s.Fields != nil {
		for _, r := range s.Fields.Requirements() {
			if c, ok := x.fieldCondition(r); ok {
				out = append(out, c)
			}
		}
	}
	return out
}

func labelCondition(r labels.Requirement) (condition, bool) {
	switch r.Operator() {
	case selection.Equals, selection.DoubleEquals, selection.In:
		var c condition
		for _, value := range r.ValuesUnsorted() {
			c.terms = append(c.terms, labelTerm(r.Key(), value))
		}
		return c, true
	case selection.Exists, selection.GreaterThan, selection.LessThan:
		return condition{stem: labelTerm(r.Key(), ""), wide: r.Operator() != selection.Exists}, true
	default: // what an object must not have does not say where it is
		return condition{}, false
	}
}

func (x *index) fieldCondition(r fields.Requirement) (condition, bool) {
	i := x.shape.field(r.Field)
	if i < 0 || !x.shape.fields[i].Indexed || r.Operator != selection.Equals && r.Operator != selection.DoubleEquals {
		return condition{}, false
	}
	return condition{terms: []string{fieldTerm(r.Field, r.Value)}}, true
}

// decides tells that what narrow finds is all that matches and nothing else, so that no
// object has to be looked at: the selector is one requirement, by which the index is made.
func decides(s Selector, conditions []condition) bool {
	var requirements int
	if s.Labels != nil {
		all, selectable := s.Labels.Requirements()
		if !selectable {
			return false
		}
		requirements += len(all)
	}
	if s.Fields != nil {
		requirements += len(s.Fields.Requirements())
	}
	return requirements == 1 && len(conditions) == 1 && !conditions[0].wide
}

// each calls yield with the keys of a condition that begin with prefix and are not less
// than from, until it returns false. They are in order for each term.
func (x *index) each(c condition, prefix, from string, yield func(key string) bool) {
	start := max(prefix, from)
	if c.stem != "" {
		x.tree.AscendGreaterOrEqual(posting{term: c.stem}, func(p posting) bool {
			if !strings.HasPrefix(p.term, c.stem) {
				return false
			}
			return p.key < start || !strings.HasPrefix(p.key, prefix) || yield(p.key)
		})
		return
	}
	more := true
	for _, term := range c.terms {
		x.tree.AscendGreaterOrEqual(posting{term, start}, func(p posting) bool {
			if p.term != term || !strings.HasPrefix(p.key, prefix) {
				return false
			}
			more = yield(p.key)
			return more
		})
		if !more {
			return
		}
	}
}

// narrow returns the keys, in order, of the objects that can fulfil all conditions. False
// if these are more than limit.
func (x *index) narrow(conditions []condition, prefix, from string, limit int) (keys []string, ok bool) {
	for _, c := range conditions {
		found := make([]string, 0, min(len(keys), limit))
		x.each(c, prefix, from, func(key string) bool {
			found = append(found, key)
			return len(found) <= limit
		})
		if len(found) <= limit {
			keys, ok, limit = found, true, max(len(found)-1, 0)
		}
		if ok && len(keys) == 0 {
			break
		}
	}
	slices.Sort(keys)
	return keys, ok
}
