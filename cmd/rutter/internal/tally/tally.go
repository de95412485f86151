// Package tally counts changes by who made them and what they were made to, over a window
// of time that may move.
package tally

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rutter-project/rutter/schemas"
)

// dimensions are what changes can be counted by.
var dimensions = map[string]func(schemas.Event) string{
	"actor":     func(e schemas.Event) string { return cmp.Or(e.Header.User, "somebody unknown") },
	"manager":   func(e schemas.Event) string { return cmp.Or(e.Header.Manager, "-") },
	"kind":      func(e schemas.Event) string { return kind(e.Key) },
	"namespace": func(e schemas.Event) string { return cmp.Or(e.Key.Namespace, "-") },
	"object":    object,
	"change":    func(e schemas.Event) string { return string(e.Type) },
	"verb":      func(e schemas.Event) string { return cmp.Or(e.Header.Verb, "-") },
}

// Dimensions are their names, in the order in which they are told.
var Dimensions = []string{"actor", "manager", "kind", "namespace", "object", "change", "verb"}

func kind(k schemas.Key) string {
	if k.Group == "" {
		return k.Resource
	}
	return k.Resource + "." + k.Group
}

func object(e schemas.Event) string {
	name := kind(e.Key) + "/" + e.Key.Name
	if e.Key.Namespace == "" {
		return name
	}
	return e.Key.Namespace + " " + name
}

// Row is one group of changes.
type Row struct {
	// Names are its values, in the order of the dimensions.
	Names []string
	// Events is how many changes there were, Bytes how large the objects in them were.
	Events, Bytes int64
	// LastRev is the newest of them.
	LastRev int64
}

// Tally counts changes. It is for one goroutine.
type Tally struct {
	by     []string
	bucket time.Duration
	groups map[string]*Row
	total  Row
	// buckets of changes that Before may have to forget, oldest first. There are none if the
	// window does not move.
	buckets []bucket
}

type bucket struct {
	begins time.Time
	groups map[string]*Row
}

// key joins names; no name has a NUL.
const separator = "\x00"

// New counts by these dimensions. A window that moves is forgotten in steps of bucket; 0 is
// for one that does not.
func New(by []string, bucket time.Duration) (*Tally, error) {
	if len(by) == 0 {
		return nil, fmt.Errorf("nothing to count by; want some of %s", strings.Join(Dimensions, ", "))
	}
	for i, name := range by {
		if dimensions[name] == nil {
			return nil, fmt.Errorf("%q can't be counted by; want some of %s", name, strings.Join(Dimensions, ", "))
		}
		if slices.Contains(by[:i], name) {
			return nil, fmt.Errorf("%q is given twice", name)
		}
	}
	return &Tally{by: by, bucket: bucket, groups: map[string]*Row{}}, nil
}

// Add counts a change that the log took at a time. Times may go back a little; they count
// as the newest then.
func (t *Tally) Add(e schemas.Event, at time.Time) {
	names := make([]string, len(t.by))
	for i, name := range t.by {
		names[i] = dimensions[name](e)
	}
	key, size := strings.Join(names, separator), int64(len(e.Object))
	count(t.groups, key, names, 1, size, e.Rev)
	t.total.Events++
	t.total.Bytes += size
	t.total.LastRev = e.Rev
	if t.bucket == 0 {
		return
	}
	begins := at.Truncate(t.bucket)
	if n := len(t.buckets); n == 0 || begins.After(t.buckets[n-1].begins) {
		t.buckets = append(t.buckets, bucket{begins, map[string]*Row{}})
	}
	count(t.buckets[len(t.buckets)-1].groups, key, names, 1, size, e.Rev)
}

func count(groups map[string]*Row, key string, names []string, events, bytes, rev int64) {
	row := groups[key]
	if row == nil {
		row = &Row{Names: names}
		groups[key] = row
	}
	row.Events += events
	row.Bytes += bytes
	row.LastRev = max(row.LastRev, rev)
}

// Forget leaves out what was before a time, but for a part of a bucket.
func (t *Tally) Forget(before time.Time) {
	for len(t.buckets) > 0 && !t.buckets[0].begins.Add(t.bucket).After(before) {
		for key, old := range t.buckets[0].groups {
			row := t.groups[key]
			row.Events -= old.Events
			row.Bytes -= old.Bytes
			t.total.Events -= old.Events
			t.total.Bytes -= old.Bytes
			if row.Events == 0 {
				delete(t.groups, key)
			}
		}
		t.buckets = t.buckets[1:]
	}
}

// Total is the sum of all groups.
func (t *Tally) Total() Row { return t.total }

// Top are the groups with the most changes, or the most bytes, at most n of them; 0 is all.
// Groups that are equal are in the order of their names.
func (t *Tally) Top(n int, byBytes bool) []Row {
	rows := make([]Row, 0, len(t.groups))
	for _, row := range t.groups {
		rows = append(rows, *row)
	}
	slices.SortFunc(rows, func(a, b Row) int {
		events, bytes := cmp.Compare(b.Events, a.Events), cmp.Compare(b.Bytes, a.Bytes)
		if byBytes {
			events, bytes = bytes, events
		}
		return cmp.Or(events, bytes, slices.Compare(a.Names, b.Names))
	})
	if n > 0 && len(rows) > n {
		rows = rows[:n]
	}
	return rows
}
