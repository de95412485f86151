package history

import (
	"context"
	"fmt"
	"io"
	"maps"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// rig is a history on a bus, and what its log should say.
type rig struct {
	*History
	dir     string
	streams bus.StreamsConfig
	server  *bus.Server
	client  *bus.Client
	window  *bus.Window
	live    *upToDate
	view    *view.View
	epoch   string
	clock   time.Time
	truth   map[int64]map[string]int64 // revision by key, at every revision
	now     map[string]int64
}

func newRig(t *testing.T, change ...func(*bus.StreamsConfig)) *rig {
	t.Helper()
	streams := bus.DefaultStreamsConfig()
	for _, f := range change {
		f(&streams)
	}
	r := &rig{dir: t.TempDir(), streams: streams,
		live: &upToDate{rev: 1}, truth: map[int64]map[string]int64{}, now: map[string]int64{}, clock: time.Now().Add(-time.Hour).UTC().Truncate(time.Second)}
	r.startBus(t)
	made, err := r.client.MakeStreams(t.Context(), 1, 1)
	require.NoError(t, err)
	r.epoch = made.Epoch
	r.view = view.New(r.live.WaitFor)
	r.open(t)
	r.fresh()
	return r
}

func (r *rig) open(t *testing.T) {
	t.Helper()
	head, err := r.client.Head(t.Context(), bus.StreamHistory)
	require.NoError(t, err)
	r.window, err = r.client.OpenWindow(head.Seq, 64, nil)
	require.NoError(t, err)
	t.Cleanup(r.window.Close)
}

// fresh forgets all that is in memory, as a restart does.
func (r *rig) fresh() {
	r.History = New(Parts{Bus: r.client, Frames: r.client, Feed: r.live, Relay: r.live, View: r.view, Revision: r.live.current,
		Object: func(context.Context, schemas.Key, int64) ([]byte, error) { return nil, bus.ErrNotFound }}, DefaultConfig(), zerolog.Nop())
}

// write makes one change of the object "p<n>"; a gone one is created.
func (r *rig) write(t *testing.T, n int, remove bool) int64 {
	t.Helper()
	key := schemas.Key{Resource: "pods", Namespace: "default", Name: fmt.Sprint("p", n)}
	r.live.rev++
	r.clock = r.clock.Add(time.Second)
	e := schemas.Event{Rev: r.live.rev, Cnt: 1, Type: schemas.Modified, Key: key, Epoch: r.epoch, PrevRev: r.now[key.Path()],
		Header: schemas.Header{V: 1, Time: r.clock, Verb: "update", User: "jane"}, Object: fmt.Appendf(nil, `{"metadata":{"name":%q},"rev":%d}`, key.Name, r.live.rev)}
	entry := feed.Entry{Rev: e.Rev, Cnt: 1, Key: key, Type: feed.Modified, Object: e.Object}
	if remove {
		e.Type, entry.Type = schemas.Deleted, feed.Deleted
		delete(r.now, key.Path())
	} else {
		r.now[key.Path()] = e.Rev
	}
	require.NoError(t, r.window.Publish(t.Context(), key.Subject(), e, 0))
	r.view.Apply(feed.Batch{Rev: e.Rev, Entries: []feed.Entry{entry}})
	r.truth[e.Rev] = maps.Clone(r.now)
	return e.Rev
}

// lose makes changes that the log never gets, and closes the gap as the relay does.
func (r *rig) lose(t *testing.T, n int) (after, closed int64) {
	t.Helper()
	after = r.live.rev
	for i := range n {
		r.live.rev++
		key := schemas.Key{Resource: "pods", Namespace: "default", Name: fmt.Sprint("p", i)}
		r.now[key.Path()] = r.live.rev
		r.view.Apply(feed.Batch{Rev: r.live.rev, Entries: []feed.Entry{{Rev: r.live.rev, Cnt: 1, Key: key, Type: feed.Modified, Object: []byte(`{"metadata":{}}`)}}})
	}
	closed = r.live.rev
	for path, rev := range r.now {
		if rev > after {
			key, err := schemas.ParsePath(path)
			require.NoError(t, err)
			e := schemas.Event{Rev: rev, Cnt: 1, Type: schemas.Modified, Key: key, Epoch: r.epoch, Resync: closed, Object: []byte(`{"metadata":{}}`)}
			require.NoError(t, r.window.Publish(t.Context(), key.Subject(), e, 0))
		}
	}
	gap := schemas.Event{Rev: closed, Cnt: 1, Type: schemas.Gap, PrevRev: after, Resync: closed, Epoch: r.epoch, Object: []byte(`{"reason":"test"}`)}
	require.NoError(t, r.window.Publish(t.Context(), schemas.ResyncSubject, gap, 0))
	r.truth[closed] = maps.Clone(r.now)
	return after, closed
}

func (r *rig) settled(t *testing.T) {
	t.Helper()
	require.NoError(t, r.window.Flush(t.Context()))
	require.NoError(t, r.client.WaitMirror(t.Context(), bus.StreamArchive))
}

func (r *rig) keyframe(t *testing.T) {
	t.Helper()
	r.settled(t)
	held, err := r.look(t.Context())
	require.NoError(t, err)
	require.NoError(t, r.History.write(t.Context(), held))
}

// same checks the state at a revision.
func (r *rig) same(t *testing.T, rev int64) {
	t.Helper()
	found, err := r.Resolve(t.Context(), Point{Text: fmt.Sprint("rev-", rev), Rev: rev})
	require.NoError(t, err)
	past, err := r.At(t.Context(), found)
	require.NoError(t, err)
	got := map[string]int64{}
	past.Each(func(i *view.Item) bool { got[i.Key] = i.Rev; return true })
	require.Equal(t, r.truth[rev], got, "at revision %d", rev)
}

func (r *rig) refused(t *testing.T, p Point, kind Kind) *Error {
	t.Helper()
	_, err := r.Resolve(t.Context(), p)
	var refused *Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, kind, refused.Kind, "%v", err)
	return refused
}

func TestStatesFromKeyframesEqualTheLog(t *testing.T) {
	r := newRig(t)
	first := r.write(t, 0, false)
	for i := range 400 {
		r.write(t, i*7%40, i%5 == 0)
		if i%90 == 89 {
			r.keyframe(t)
		}
	}
	r.settled(t)
	for _, newMemory := range []bool{true, false} {
		for rev := first; rev <= r.live.rev; rev += 9 {
			if newMemory {
				r.fresh()
			}
			r.same(t, rev)
		}
	}
	frames, err := r.client.Keyframes(t.Context())
	require.NoError(t, err)
	require.Len(t, frames, 4)
	require.NoError(t, r.client.DeleteKeyframe(t.Context(), frames[2].Rev))
	r.fresh()
	r.same(t, frames[3].Rev-1)
	r.same(t, frames[3].Rev)
}

func TestDamagedKeyframeIsReplacedByAnOlderOne(t *testing.T) {
	r := newRig(t)
	for i := range 50 {
		r.write(t, i%9, false)
	}
	r.keyframe(t)
	for i := range 50 {
		r.write(t, i%9, false)
	}
	r.settled(t)
	k := bus.Keyframe{Rev: r.live.rev - 20, Time: time.Now(), Seq: r.window.Next() - 1}
	require.NoError(t, r.client.PutKeyframe(t.Context(), k, &shortReader{}))
	r.same(t, r.live.rev-10)
}

// shortReader is a keyframe that is cut.
type shortReader struct{ done bool }

func (s *shortReader) Read(p []byte) (int, error) {
	if s.done {
		return 0, io.EOF
	}
	s.done = true
	return copy(p, "cut"), io.EOF
}

func TestGapIsRefusedWithItsBounds(t *testing.T) {
	r := newRig(t)
	for i := range 20 {
		r.write(t, i, false)
	}
	after, closed := r.lose(t, 15)
	last := r.write(t, 3, true)
	r.settled(t)
	r.same(t, after)
	r.same(t, closed)
	r.same(t, last)
	refused := r.refused(t, Point{Text: "x", Rev: after + 3}, InGap)
	require.Equal(t, after, refused.Gap.From.Rev)
	require.Equal(t, closed, refused.Gap.To.Rev)
	require.Equal(t, "test", refused.Gap.Reason)
	require.ErrorContains(t, refused, fmt.Sprintf("changes after rev-%d", after))
	require.Positive(t, refused.Oldest.Rev)
	_, err := r.Open(t.Context(), Span{From: Point{Text: "a", Rev: after}, To: &Point{Text: "b", Rev: last}})
	require.ErrorContains(t, err, "lies in a gap")
	status, err := r.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, status.Gaps, 1)
	require.NotNil(t, status.Packs)
	require.Positive(t, status.Retention.MaxPackBytes)
	held, err := r.look(t.Context())
	require.NoError(t, err)
	require.True(t, r.wanted(held, time.Now()), "a gap asks for a new keyframe")
	var types []schemas.EventType
	err = r.Events(t.Context(), Query{Key: schemas.Key{Group: schemas.AnyToken, Resource: "pods", Namespace: schemas.AnyToken, Name: schemas.AnyToken}, Since: &Point{Rev: after, Text: "y"}},
		func(e schemas.Event) error { types = append(types, e.Type); return nil })
	require.NoError(t, err)
	require.Contains(t, types, schemas.Gap)
}

func TestTrimmedLogBeginsWithItsFirstKeyframe(t *testing.T) {
	r := newRig(t, func(c *bus.StreamsConfig) { c.ArchiveBytes = 64 << 10 })
	first := r.write(t, 0, false)
	for i := range 600 {
		r.write(t, i%30, false)
		if i == 50 || i == 560 {
			r.keyframe(t)
		}
	}
	r.settled(t)
	held, err := r.look(t.Context())
	require.NoError(t, err)
	require.True(t, held.head.Trimmed)
	require.Len(t, held.frames, 1, "what is behind the older one has been dropped")
	require.Equal(t, held.frames[0].Rev, held.oldest.Rev)
	r.same(t, held.oldest.Rev)
	r.same(t, r.live.rev-1)
	refused := r.refused(t, Point{Text: "x", Rev: held.oldest.Rev - 1}, Expired)
	require.Equal(t, held.oldest.Rev, refused.Oldest.Rev)
	require.NoError(t, r.retire(t.Context(), held))
	frames, err := r.client.Keyframes(t.Context())
	require.NoError(t, err)
	require.Len(t, frames, 2, "the newest one before all that is held stays")
	var gap schemas.Event
	err = r.Events(t.Context(), Query{Key: schemas.Key{Group: schemas.AnyToken, Resource: schemas.AnyToken, Namespace: schemas.AnyToken, Name: schemas.AnyToken}, Since: &Point{Rev: first, Text: "z"}},
		func(e schemas.Event) error { gap = e; return ErrStop })
	require.NoError(t, err)
	require.Equal(t, schemas.Gap, gap.Type, "what is missing is told first")
	require.Equal(t, first-1, gap.PrevRev)
	var begins schemas.Event
	err = r.Events(t.Context(), Query{Key: schemas.Key{Group: schemas.AnyToken, Resource: schemas.AnyToken, Namespace: schemas.AnyToken, Name: schemas.AnyToken}, Since: &Point{Rev: held.oldest.Rev, Text: "oldest"}},
		func(e schemas.Event) error { begins = e; return ErrStop })
	require.NoError(t, err)
	require.NotEqual(t, schemas.Gap, begins.Type, "the oldest instant is held")
	for name, tc := range map[string]struct {
		behind Place
		want   int64 // where the gap begins, -1 if there is none
	}{
		"a revision long gone":        {Place{Rev: first, Whole: true}, first},
		"a part of one":               {Place{Rev: first}, first - 1},
		"the last one that is gone":   {Place{Rev: held.first.Rev - 1, Whole: true}, -1},
		"the one before":              {Place{Rev: held.first.Rev - 2, Whole: true}, held.first.Rev - 2},
		"a part of the last one gone": {Place{Rev: held.first.Rev - 1}, held.first.Rev - 2},
		"the first one held":          {Place{Rev: held.first.Rev, Whole: true}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			var told schemas.Event
			any := schemas.Key{Group: schemas.AnyToken, Resource: schemas.AnyToken, Namespace: schemas.AnyToken, Name: schemas.AnyToken}
			require.NoError(t, r.Events(t.Context(), Query{Key: any, Behind: &tc.behind}, func(e schemas.Event) error { told = e; return ErrStop }))
			if tc.want < 0 {
				require.NotEqual(t, schemas.Gap, told.Type, "nothing is lost to who has everything before")
				return
			}
			require.Equal(t, schemas.Gap, told.Type)
			require.Equal(t, tc.want, told.PrevRev)
		})
	}
}

func TestLateRecordsCountByTheirWriter(t *testing.T) {
	r := newRig(t)
	for i := range 30 { // an hour ago by their writers, recorded now
		r.write(t, i, false)
	}
	r.settled(t)
	at := r.clock.Add(-10 * time.Second)
	found, err := r.Resolve(t.Context(), Point{Text: "t", At: at})
	require.NoError(t, err)
	require.Equal(t, r.live.rev-10, found.Rev, "the change of that very second is in it")
	r.refused(t, Point{Text: "t", At: time.Now().Add(time.Minute)}, Future)
	r.refused(t, Point{Text: "t", At: r.clock.Add(-time.Hour)}, Expired)
	r.refused(t, Point{Text: "t", Rev: r.live.rev + 1}, Future)
}

func TestFullStoreIsThinned(t *testing.T) {
	r := newRig(t)
	r.write(t, 0, false)
	for range 7 {
		r.write(t, 1, false)
		r.keyframe(t)
	}
	held, err := r.look(t.Context())
	require.NoError(t, err)
	require.NoError(t, r.thin(t.Context(), held))
	frames, err := r.client.Keyframes(t.Context())
	require.NoError(t, err)
	require.Len(t, frames, 4)
	require.Equal(t, held.frames[0].Rev, frames[0].Rev)
	require.Equal(t, held.frames[6].Rev, frames[3].Rev)
}
