package view

import (
	"slices"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/rutter-project/rutter/schemas"
)

// Field is a field that selectors may name, and where the stored object has it.
type Field struct {
	Name string
	// Paths are where its value is: the first that is not empty counts.
	Paths []schemas.Path
	// Default is its value if there is none.
	Default string
	// Indexed tells that objects are looked for by it.
	Indexed bool
}

// Shape is what selectors may ask of the objects of a resource: their labels, and some
// fields. It is immutable.
type Shape struct {
	fields []Field
	paths  []schemas.Path // of all fields, in order
}

// NewShape returns a shape with the given fields, besides the name and, if the resource
// is namespaced, the namespace.
func NewShape(namespaced bool, more ...Field) *Shape {
	s := &Shape{fields: []Field{{Name: "metadata.name", Paths: []schemas.Path{{"metadata", "name"}}}}}
	if namespaced {
		s.fields = append(s.fields, Field{Name: "metadata.namespace", Paths: []schemas.Path{{"metadata", "namespace"}}})
	}
	s.fields = append(s.fields, more...)
	for _, f := range s.fields {
		s.paths = append(s.paths, f.Paths...)
	}
	return s
}

var bare, bareInNamespace = NewShape(false), NewShape(true)

// Bare is the shape of objects that are only selected by labels, name and namespace.
func Bare(namespaced bool) *Shape {
	if namespaced {
		return bareInNamespace
	}
	return bare
}

func (s *Shape) field(name string) int {
	return slices.IndexFunc(s.fields, func(f Field) bool { return f.Name == name })
}

// Knows tells that objects of this shape can be judged by a selector.
func (s *Shape) Knows(selector fields.Selector) bool {
	for _, r := range selector.Requirements() {
		if s.field(r.Field) < 0 {
			return false
		}
	}
	return true
}

// record reads labels and fields out of a stored object.
func (s *Shape) record(object []byte) *Record {
	r := &Record{shape: s, values: make([][]byte, len(s.fields))}
	schemas.EachLabel(object, func(k, v []byte) bool {
		r.labels = append(r.labels, label{k, v})
		return true
	})
	texts := schemas.Texts(object, s.paths)
	for i, f := range s.fields {
		for range f.Paths {
			if len(r.values[i]) == 0 {
				r.values[i] = texts[0]
			}
			texts = texts[1:]
		}
		if r.values[i] == nil {
			r.values[i] = []byte(f.Default)
		}
	}
	return r
}

// Record is what selectors look at: the labels of an object, and the fields of its shape.
// It points into the stored bytes.
type Record struct {
	shape  *Shape
	labels []label
	values [][]byte // of the shape's fields
}

type label struct{ key, value []byte }

var (
	_ labels.Labels = (*Record)(nil)
	_ fields.Fields = fieldsOf{}
)

// Lookup implements labels.Labels.
func (r *Record) Lookup(key string) (string, bool) {
	for i := range r.labels {
		if string(r.labels[i].key) == key {
			return string(r.labels[i].value), true
		}
	}
	return "", false
}

// Has implements labels.Labels.
func (r *Record) Has(key string) bool { _, ok := r.Lookup(key); return ok }

// Get implements labels.Labels.
func (r *Record) Get(key string) string { v, _ := r.Lookup(key); return v }

// fieldsOf is the same for fields.
type fieldsOf struct{ *Record }

// Has implements fields.Fields.
func (r fieldsOf) Has(name string) bool { return r.shape.field(name) >= 0 }

// Get implements fields.Fields.
func (r fieldsOf) Get(name string) string {
	if i := r.shape.field(name); i >= 0 {
		return string(r.values[i])
	}
	return ""
}

// Selector chooses objects by labels and fields; nil is no condition. The shape must know
// the fields.
type Selector struct {
	Labels labels.Selector
	Fields fields.Selector
	Shape  *Shape
}

// Empty tells that everything is chosen.
func (s Selector) Empty() bool {
	return (s.Labels == nil || s.Labels.Empty()) && (s.Fields == nil || s.Fields.Empty())
}

// Matches tells whether an object is chosen.
func (s Selector) Matches(i *Item) bool {
	if s.Empty() {
		return true
	}
	r := i.Record(s.Shape)
	return (s.Labels == nil || s.Labels.Matches(r)) && (s.Fields == nil || s.Fields.Matches(fieldsOf{r}))
}
