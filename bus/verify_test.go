package bus

import (
	"context"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

// script is a Truth made of a list of events.
type script []schemas.Event

func (s script) Bounds(context.Context) (oldest, newest int64, err error) {
	return 1, s[len(s)-1].Rev, nil
}

func (s script) Changes(_ context.Context, from, to int64, fn func(schemas.Event) error) error {
	for _, e := range s {
		if e.Rev < from || e.Rev > to {
			continue
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

func (s script) State(_ context.Context, rev int64, fn func(schemas.Event) error) error {
	last := map[schemas.Key]schemas.Event{}
	for _, e := range s {
		if e.Rev <= rev {
			last[e.Key] = e
		}
	}
	for _, e := range last {
		if e.Type == schemas.Deleted {
			continue
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

func TestVerifyFindsEveryKindOfFault(t *testing.T) {
	type events = []schemas.Event
	for name, tc := range map[string]struct {
		stream func(truth events) events
		want   Report
	}{
		"nothing wrong": {func(truth events) events { return truth }, Report{Changes: 5}},
		"one missing": {
			func(truth events) events { return append(truth[:1:1], truth[2:]...) }, Report{Changes: 5, Missing: 1},
		},
		"one doubled": {
			func(truth events) events { return append(truth[:2:2], truth[1:]...) }, Report{Changes: 5, Doubled: 1},
		},
		"two swapped": {
			func(truth events) events { return events{truth[0], truth[2], truth[1], truth[3], truth[4]} },
			Report{Changes: 5, Unordered: 1, StateStale: 1},
		},
		"another content": {
			func(truth events) events {
				changed := truth[1]
				changed.Object = []byte(`{"metadata":{}}`)
				return events{truth[0], changed, truth[2], truth[3], truth[4]}
			},
			Report{Changes: 5, Different: 1},
		},
		"one that never happened": {
			func(truth events) events {
				extra := truth[3]
				extra.Key, extra.Rev = pod("ghost"), extra.Rev-1
				return events{truth[0], truth[1], truth[2], extra, truth[3], truth[4]}
			},
			Report{Changes: 5, Unknown: 1, StateExtra: 1},
		},
		"a gap that is named": {
			func(truth events) events {
				gap := schemas.Event{Rev: truth[2].Rev, Cnt: 1, Type: schemas.Gap, PrevRev: truth[0].Rev, Resync: truth[2].Rev}
				resync := truth[2]
				resync.Resync = truth[2].Rev
				return events{truth[0], resync, gap, truth[3], truth[4]}
			},
			Report{Changes: 3},
		},
		"the first ones missing": {
			func(truth events) events { return truth[2:] }, Report{Changes: 5, Missing: 2},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := startBus(t)
			truth := events{
				b.event(schemas.Added, pod("a"), 1), b.event(schemas.Modified, pod("a"), 2), b.event(schemas.Modified, pod("a"), 3),
			}
			b.rev += 5
			truth = append(truth, b.event(schemas.Added, pod("b"), 1), b.event(schemas.Deleted, pod("b"), 1))
			for _, e := range tc.stream(truth) {
				subject := schemas.ResyncSubject
				if e.Type != schemas.Gap {
					subject = e.Key.Subject()
				}
				require.NoError(t, b.window.Publish(t.Context(), subject, e, 0))
			}
			b.flush(t)
			b.settle(t, StreamState)
			report, err := b.Verify(t.Context(), script(truth))
			require.NoError(t, err)
			faults := tc.want
			faults.Changes = 0
			require.Equal(t, reflect.DeepEqual(faults, Report{}), report.OK(), "%+v", report)
			require.True(t, report.Archive.ok() && report.Packs.ok(), "copies of it have the same faults: %+v", report)
			report.From, report.To, report.Objects, report.Gaps, report.Examples, report.Archive = 0, 0, 0, nil, nil, Copy{}
			require.Equal(t, tc.want, *report)
		})
	}
}
