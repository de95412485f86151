package history

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
	"github.com/rutter-project/rutter/schemas/bundle"
)

var anyKey = schemas.Key{Group: schemas.AnyToken, Resource: schemas.AnyToken, Namespace: schemas.AnyToken, Name: schemas.AnyToken}

// recorded is a span of the rig's history as a recording.
func (r *rig) recorded(t *testing.T, from, to int64) *rig {
	t.Helper()
	r.settled(t)
	at := func(rev int64) bundle.Instant {
		i, err := r.Resolve(t.Context(), Point{Text: fmt.Sprint("rev-", rev), Rev: rev})
		require.NoError(t, err)
		return bundle.Instant(i)
	}
	b := &bundle.Bundle{Header: bundle.Header{From: at(from), To: at(to), Cluster: r.epoch}}
	past, err := r.At(t.Context(), Instant(at(from)))
	require.NoError(t, err)
	require.NoError(t, Objects(past, anyKey, func(e schemas.Event) error {
		b.State = append(b.State, e)
		return nil
	}))
	if from != to {
		require.NoError(t, r.Events(t.Context(), Query{Key: anyKey, Since: &Point{Text: fmt.Sprint("rev-", from+1), Rev: from + 1}, Until: &Point{Text: fmt.Sprint("rev-", to), Rev: to}}, func(e schemas.Event) error {
			b.Events = append(b.Events, e)
			return nil
		}))
	}
	status, err := r.Status(t.Context())
	require.NoError(t, err)
	for _, g := range status.Gaps { // those that are for good: others are closed by events
		if g.To.Rev > from && g.To.Rev <= to && g.behind != 0 {
			b.Header.Later = append(b.Header.Later, at(g.To.Rev))
			past, err := r.At(t.Context(), g.To)
			require.NoError(t, err)
			require.NoError(t, Objects(past, anyKey, func(e schemas.Event) error {
				e.Resync = g.To.Rev
				b.Later = append(b.Later, e)
				return nil
			}))
		}
	}
	recording, err := NewRecording(b)
	require.NoError(t, err)
	v := view.New(recording.WaitFor)
	require.NoError(t, recording.Present(t.Context(), v))
	require.Equal(t, to, v.Rev())
	return &rig{History: New(recording.Parts(v), DefaultConfig(), zerolog.Nop()), truth: r.truth, view: v}
}

func TestRecordedStatesEqualTheLog(t *testing.T) {
	r := newRig(t)
	first := r.write(t, 0, false)
	for i := range 100 {
		r.write(t, i*7%20, i%5 == 0)
	}
	from, to := first+30, first+80
	played := r.recorded(t, from, to)
	for rev := from; rev <= to; rev++ {
		played.same(t, rev)
	}
	require.Equal(t, from, played.refused(t, Point{Text: "x", Rev: from - 1}, Expired).Oldest.Rev)
	require.Equal(t, to, played.refused(t, Point{Text: "x", Rev: to + 1}, Future).Newest.Rev)
	end, err := played.Resolve(t.Context(), Point{Text: "now"})
	require.NoError(t, err)
	require.Equal(t, to, end.Rev)
	require.Equal(t, played.Now(), end.Time)
	_, err = played.Resolve(t.Context(), Point{Text: "t", At: time.Now()})
	require.ErrorContains(t, err, "has not come yet", "its clock has stopped")
}

func TestRecordingHasItsGaps(t *testing.T) {
	r := newRig(t)
	from := r.write(t, 0, false)
	for i := range 10 {
		r.write(t, i, false)
	}
	after, closed := r.lose(t, 5)
	last := r.write(t, 3, true)
	played := r.recorded(t, from, last)
	for _, rev := range []int64{from, after, closed, last} {
		played.same(t, rev)
	}
	refused := played.refused(t, Point{Text: "x", Rev: after + 1}, InGap)
	require.Equal(t, after, refused.Gap.From.Rev)
	status, err := played.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, status.Gaps, 1)
	require.Nil(t, status.Packs, "a recording is not packed")
	require.Equal(t, r.epoch, status.Epoch)
}

func TestRecordingOfOneInstant(t *testing.T) {
	r := newRig(t)
	r.write(t, 0, false)
	rev := r.write(t, 1, false)
	r.write(t, 2, false)
	played := r.recorded(t, rev, rev)
	played.same(t, rev)
	none := func(schemas.Event) error { t.Error("there are no events"); return nil }
	require.NoError(t, played.Events(t.Context(), Query{Key: anyKey}, none))
	i, err := played.Resolve(t.Context(), Point{Text: "t", At: played.Now()})
	require.NoError(t, err)
	require.Equal(t, rev, i.Rev)
}

func TestFollowerOfARecordingWaitsAtItsEnd(t *testing.T) {
	r := newRig(t)
	from := r.write(t, 0, false)
	played := r.recorded(t, from, r.write(t, 1, false))
	ctx, cancel := context.WithCancel(t.Context())
	told := 0
	err := played.Events(ctx, Query{Key: anyKey, Follow: true, Since: &Point{Text: "x", Rev: from + 1}, Ready: cancel}, func(schemas.Event) error { told++; return nil })
	require.ErrorIs(t, err, context.Canceled)
	require.LessOrEqual(t, told, 1)
}

func TestSubjectFilter(t *testing.T) {
	for _, tc := range []struct {
		filter, subject string
		want            bool
	}{
		{"", "h.apps.deployments.a.b", true},
		{schemas.AllObjects, "h._.nodes._.n", true},
		{"h._.pods.>", "h._.pods.a.b", true},
		{"h._.pods.>", "h._.pods", false},
		{"h._.pods.>", "h.x.pods.a.b", false},
		{"h.*.pods.*.b", "h.x.pods.a.b", true},
		{"h.*.pods.*.b", "h.x.pods.a.c", false},
		{"h.*.pods.*", "h.x.pods.a.b", false},
		{"h.x.pods.a.b", "h.x.pods.a", false},
	} {
		require.Equal(t, tc.want, subjectFilter(tc.filter)(tc.subject), "%s %s", tc.filter, tc.subject)
	}
}

// TestRecordingReadsAsTheBusDoes: sequences begin at 1, and 0 is the first.
func TestRecordingReadsAsTheBusDoes(t *testing.T) {
	event := schemas.Event{Rev: 2, Cnt: 1, Type: schemas.Added, Key: schemas.Key{Resource: "nodes", Name: "n"}, Object: []byte("{}")}
	recording, err := NewRecording(&bundle.Bundle{Header: bundle.Header{From: bundle.Instant{Rev: 1}, To: bundle.Instant{Rev: 2}}, Events: []schemas.Event{event}})
	require.NoError(t, err)
	for from, want := range map[uint64]int{0: 1, 1: 1, 2: 0, 99: 0} {
		told := 0
		require.NoError(t, recording.ReadRange(t.Context(), bus.Range{From: from}, func(schemas.Event) error { told++; return nil }))
		require.Equal(t, want, told, from)
	}
	_, err = recording.ReadKeyframe(t.Context(), 2)
	require.ErrorIs(t, err, bus.ErrNotFound)
	require.ErrorContains(t, recording.WaitFor(t.Context(), 3), "ends at revision 2")
}
