package past

import (
	"strings"

	"github.com/rutter-project/rutter/cmd/rutter/internal/delta"
	"github.com/rutter-project/rutter/schemas"
)

// Touches are changes of one object, by the fields that they changed.
type Touches struct {
	by   map[string]schemas.Event // the last change, by path
	last schemas.Event
}

// TouchesOf reads the events of an object that follow a state of it. What can't be
// compared counts as touched as a whole.
func TouchesOf(before []byte, events []schemas.Event) Touches {
	t := Touches{by: map[string]schemas.Event{}}
	var lost schemas.Event // the gap before, if no event of the object has come since
	for _, e := range events {
		if e.Type == schemas.Gap {
			before, lost = nil, e
			t.by[""], t.last = e, e
			continue
		}
		if lost.Rev != 0 && e.Type == schemas.Modified { // what it has not changed may be a change that is lost
			lost.Rev = e.Rev
			t.by[""], t.last, before, lost = lost, lost, e.Object, schemas.Event{}
			continue
		}
		lost = schemas.Event{}
		t.last = e
		changes, err := delta.Of(before, e.Object)
		if err != nil || len(before) == 0 {
			t.by[""] = e
		}
		for _, c := range changes {
			t.by[c.Path] = e
		}
		if before = e.Object; e.Type == schemas.Deleted {
			before = nil
		}
	}
	return t
}

// By is the last change of a field, of a part of it, or of what it is a part of. Where none
// is known it is the last change of all; Rev is 0 if there was none.
func (t Touches) By(path string) schemas.Event {
	var found schemas.Event
	for touched, e := range t.by {
		if e.Rev > found.Rev && (touched == "" || within(path, touched) || within(touched, path)) {
			found = e
		}
	}
	if found.Rev == 0 {
		return t.last
	}
	return found
}

// within reports that a path is another one or below it.
func within(path, above string) bool {
	rest, ok := strings.CutPrefix(path, above)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}
