package past

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rutter-project/rutter/cmd/rutter/internal/delta"
	"github.com/rutter-project/rutter/schemas"
)

// Log is where events come from.
type Log interface {
	// At lists the events of one revision; none if it is not held, or not the reader's
	// to see.
	At(ctx context.Context, rev int64) ([]schemas.Event, error)
	// Of lists the events of one object up to a revision.
	Of(ctx context.Context, key schemas.Key, until int64) ([]schemas.Event, error)
	// Before is the event of the same object before another one, or at least its state
	// then; Rev is 0 if that is not held.
	Before(ctx context.Context, e schemas.Event) (schemas.Event, error)
	// Owner finds the key of the object that an owner reference names.
	Owner(apiVersion, kind, namespace, name string) (schemas.Key, bool)
}

// Step is one change in a chain of causes.
type Step struct {
	schemas.Event
	// Note says what the change means, such as "bound to node n1".
	Note string
	// Changes are the fields that matter.
	Changes []string
	// Cause are the revisions of the steps that led here.
	Cause []int64
	// Missing are causes that were named and can't be read.
	Missing []int64
	// ByOwner means that no cause was recorded and the owner's last change stands for it.
	ByOwner bool
	// Unknown means that a program made the change and no cause was recorded.
	Unknown bool
	// Asked means that the change is of the object that was asked for.
	Asked bool
}

// maxSteps bounds a chain. Real ones have some ten.
const maxSteps = 100

// Why lists what led to the object as it was at a revision, and to its end if it has
// ended, in order. It is empty if nothing is held of the object.
func Why(ctx context.Context, log Log, key schemas.Key, until int64) ([]Step, error) {
	events, err := log.Of(ctx, key, until)
	if err != nil {
		return nil, err
	}
	c := chain{log: log, steps: map[place]*Step{}}
	life, err := c.life(ctx, events)
	if err != nil {
		return nil, err
	}
	for _, m := range life {
		m.step.Asked = true
		if err := c.add(ctx, m.step, m.before); err != nil {
			return nil, err
		}
	}
	out := make([]Step, 0, len(c.steps))
	for _, s := range c.steps {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Step) int {
		return cmp.Or(cmp.Compare(a.Rev, b.Rev), gapFirst(a, b), cmp.Compare(a.Ord, b.Ord))
	})
	return out, nil
}

// gapFirst orders a gap before the change behind it, whose revision it has.
func gapFirst(a, b Step) int {
	switch {
	case a.Type == b.Type:
		return 0
	case a.Type == schemas.Gap:
		return -1
	case b.Type == schemas.Gap:
		return 1
	default:
		return 0
	}
}

// place names one event of the log.
type place struct {
	rev int64
	key schemas.Key
}

type chain struct {
	log   Log
	steps map[place]*Step
}

// add puts a step and all that led to it into the chain. before is the object's state
// before the step, nil if that is to be found.
func (c *chain) add(ctx context.Context, s Step, before []byte) error {
	at := place{s.Rev, s.Key}
	if c.steps[at] != nil || len(c.steps) >= maxSteps {
		return nil
	}
	c.steps[at] = &s
	if s.Type == schemas.Gap {
		return nil
	}
	if before == nil && s.PrevRev > 0 && s.Type == schemas.Modified {
		old, err := c.log.Before(ctx, s.Event)
		if err != nil {
			return err
		}
		before = old.Object
	}
	s.Changes = telling(s.Event, before)
	if s.Note == "" {
		s.Note = cmp.Or(meaning(s.Event, before), changed)
	}
	for _, rev := range s.Header.Cause {
		events, err := c.log.At(ctx, rev)
		if err != nil {
			return err
		}
		if len(events) == 0 {
			s.Missing = append(s.Missing, rev)
			continue
		}
		s.Cause = append(s.Cause, rev)
		for _, e := range events {
			if err := c.add(ctx, Step{Event: e}, nil); err != nil {
				return err
			}
		}
	}
	if len(s.Header.Cause) > 0 {
		return nil
	}
	if err := c.byOwner(ctx, &s); err != nil {
		return err
	}
	s.Unknown = !s.ByOwner && IsProgram(s.Header.User)
	return nil
}

// byOwner lets the owner's last change of what it wants stand for a cause that nobody
// recorded.
func (c *chain) byOwner(ctx context.Context, s *Step) error {
	owner, ok := controller(s.Object)
	if !ok || s.Type != schemas.Added {
		return nil
	}
	key, ok := c.log.Owner(owner.APIVersion, owner.Kind, s.Key.Namespace, owner.Name)
	if !ok {
		return nil
	}
	events, err := c.log.Of(ctx, key, s.Rev-1)
	if err != nil {
		return err
	}
	wants, err := c.life(ctx, events)
	if err != nil || len(wants) == 0 {
		return err
	}
	for len(wants) > 0 && wants[len(wants)-1].step.Type == schemas.Gap {
		wants = wants[:len(wants)-1]
	}
	if len(wants) == 0 {
		return nil
	}
	last := wants[len(wants)-1]
	s.ByOwner, s.Cause = true, []int64{last.step.Rev}
	return c.add(ctx, last.step, last.before)
}

// IsProgram tells components from people and what acts for them.
func IsProgram(user string) bool {
	return user == "" || strings.HasPrefix(user, "system:") || strings.HasPrefix(user, "rutter:")
}

// lastLife are the events since the object was last made, with the gap in which that was.
func lastLife(events []schemas.Event) []schemas.Event {
	for i := len(events) - 1; i >= 0; i-- {
		if events[i].Type == schemas.Added {
			if i > 0 && events[i].Resync != 0 && events[i-1].Type == schemas.Gap {
				i--
			}
			return events[i:]
		}
	}
	return events
}

// moment is an event that tells something about the object's life, and the state before.
type moment struct {
	step   Step
	before []byte
}

// life are the moments of an object since it was last made. Of one that is older than all
// that is held, they begin with the state before.
func (c *chain) life(ctx context.Context, events []schemas.Event) ([]moment, error) {
	events = lastLife(events)
	if len(events) == 0 || events[0].Type != schemas.Modified {
		return moments(events, nil), nil
	}
	old, err := c.log.Before(ctx, events[0])
	return moments(events, old.Object), err
}

// moments picks the events that matter: made, wanted otherwise, bound, running, ended.
// before is the state before the first, empty if there was none or it is not held.
func moments(events []schemas.Event, before []byte) []moment {
	var out []moment
	first := true // of all, or behind a gap
	for _, e := range events {
		if e.Type == schemas.Gap {
			first = true
			out = append(out, moment{step: Step{Event: e, Note: fmt.Sprintf("changes after revision %d and before %d are lost", e.PrevRev, e.Rev)}})
			before = nil
			continue
		}
		text := meaning(e, before)
		if first && text == "" {
			text = changed
		}
		first = false
		if text != "" {
			out = append(out, moment{Step{Event: e, Note: text}, before})
		}
		before = e.Object
	}
	return out
}

// maxTelling bounds the fields that are shown of one change.
const maxTelling = 4

// telling picks the changed fields that say what was wanted or found, over those that
// only keep books.
func telling(e schemas.Event, before []byte) []string {
	if e.Type != schemas.Modified || len(before) == 0 || len(e.Object) == 0 {
		return nil
	}
	changes, err := delta.Of(before, e.Object)
	if err != nil {
		return nil // what is no JSON has no fields to show
	}
	var out []string
	for _, c := range changes {
		wanted := strings.HasPrefix(c.Path, "spec") || strings.HasPrefix(c.Path, "data") || c.Path == "metadata.deletionTimestamp" || c.Path == "status.phase"
		found := strings.HasPrefix(c.Path, "status.conditions[") && (strings.HasSuffix(c.Path, "].status") || strings.HasSuffix(c.Path, "].reason") || strings.HasSuffix(c.Path, "]"))
		if !wanted && !found {
			continue
		}
		if len(out) == maxTelling {
			return append(out, "and more")
		}
		out = append(out, c.String())
	}
	return out
}
