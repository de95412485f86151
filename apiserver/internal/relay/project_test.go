package relay

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/apiserver/internal/feed/feedtest"
	"github.com/rutter-project/rutter/schemas"
)

// entry is one change of a pod between two nodes; "-" is no pod, "" no node.
func entry(name, from, to string) feed.Entry {
	e := feed.Entry{Rev: 9, Ord: 0, Cnt: 1, Key: feedtest.PodKey(name), Type: feed.Modified, HeaderLine: []byte(`{"v":1,"user":"jane"}`)}
	if from != "-" {
		e.Prev, e.PrevRev = []byte("{}\n"+feedtest.Pod(name, from, 1)), 7
	} else {
		e.Type = feed.Created
	}
	if to == "-" {
		e.Type, e.Object = feed.Deleted, []byte(feedtest.Pod(name, from, 1))
	} else {
		e.Object = []byte(feedtest.Pod(name, to, 2))
	}
	return e
}

func TestProject(t *testing.T) {
	for name, tc := range map[string]struct {
		entries []feed.Entry
		want    []string
	}{
		"created without a node": {[]feed.Entry{entry("a", "-", "")}, []string{"0/1 ADDED h._.pods.default.a"}},
		"created on a node":      {[]feed.Entry{entry("a", "-", "n1")}, []string{"0/2 ADDED n.n1", "1/2 ADDED h._.pods.default.a"}},
		"bound":                  {[]feed.Entry{entry("a", "", "n1")}, []string{"0/2 ADDED n.n1", "1/2 MODIFIED h._.pods.default.a"}},
		"changed on its node":    {[]feed.Entry{entry("a", "n1", "n1")}, []string{"0/2 MODIFIED n.n1", "1/2 MODIFIED h._.pods.default.a"}},
		"moved": {[]feed.Entry{entry("a", "n1", "n2")}, []string{
			"0/3 LEFT n.n1", "1/3 ADDED n.n2", "2/3 MODIFIED h._.pods.default.a",
		}},
		"unbound":                     {[]feed.Entry{entry("a", "n1", "")}, []string{"0/2 LEFT n.n1", "1/2 MODIFIED h._.pods.default.a"}},
		"deleted":                     {[]feed.Entry{entry("a", "n1", "-")}, []string{"0/2 DELETED n.n1", "1/2 DELETED h._.pods.default.a"}},
		"deleted before it was bound": {[]feed.Entry{entry("a", "", "-")}, []string{"0/1 DELETED h._.pods.default.a"}},
		"several": {[]feed.Entry{entry("a", "-", "n1"), entry("b", "n1", "-")}, []string{
			"0/4 ADDED n.n1", "1/4 DELETED n.n1", "2/4 ADDED h._.pods.default.a", "3/4 DELETED h._.pods.default.b",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			messages, err := project(tc.entries, "c.1")
			require.NoError(t, err)
			var got []string
			for _, m := range messages {
				got = append(got, fmt.Sprintf("%d/%d %s %s", m.event.Ord, m.event.Cnt, m.event.Type, m.subject))
				require.Equal(t, "c.1", m.event.Epoch)
				require.NotEmpty(t, m.event.Object)
				require.Equal(t, "jane", m.event.Header.User)
			}
			require.Equal(t, tc.want, got)
		})
	}
}

func TestProjectNeedsThePreviousState(t *testing.T) {
	e := entry("a", "n1", "n2")
	e.Prev, e.PrevRev = nil, 0
	_, err := project([]feed.Entry{e}, "")
	require.ErrorIs(t, err, errPrevMissing)
}

func TestProjectBearsABadHeader(t *testing.T) {
	e := entry("a", "-", "")
	e.HeaderLine = []byte("{")
	messages, err := project([]feed.Entry{e}, "")
	require.NoError(t, err)
	require.Equal(t, "unknown", messages[0].event.Header.Verb)
}

func TestDifference(t *testing.T) {
	snapshot := func(name, node string, rev int64) feed.Entry {
		return feed.Entry{Rev: rev, Key: feedtest.PodKey(name), Type: feed.Modified, Object: []byte(feedtest.Pod(name, node, 1))}
	}
	state := func(name, node string, rev int64, kind schemas.EventType) schemas.Event {
		return schemas.Event{Rev: rev, Key: feedtest.PodKey(name), Type: kind, Object: []byte(feedtest.Pod(name, node, 1))}
	}
	held := map[schemas.Key]schemas.Event{}
	for _, e := range []schemas.Event{
		state("same", "n1", 3, schemas.Added), state("changed", "", 4, schemas.Modified), state("gone", "n1", 5, schemas.Modified),
		state("dead", "n1", 6, schemas.Deleted), state("again", "n1", 7, schemas.Deleted), state("moved", "n1", 8, schemas.Added),
	} {
		held[e.Key] = e
	}
	messages, err := difference(held, []feed.Entry{
		snapshot("same", "n1", 3), snapshot("changed", "", 12), snapshot("again", "", 11), snapshot("moved", "n2", 10), snapshot("new", "", 9),
	}, 20, "c.1")
	require.NoError(t, err)
	var got []string
	for _, m := range messages {
		got = append(got, fmt.Sprintf("%d %s %s prev %d", m.event.Rev, m.event.Type, m.subject, m.event.PrevRev))
		require.EqualValues(t, 20, m.event.Resync)
	}
	require.Equal(t, []string{
		"9 ADDED h._.pods.default.new prev 0",
		"10 LEFT n.n1 prev 8", "10 ADDED n.n2 prev 8", "10 MODIFIED h._.pods.default.moved prev 8",
		"11 ADDED h._.pods.default.again prev 0",
		"12 MODIFIED h._.pods.default.changed prev 4",
		"20 DELETED n.n1 prev 5", "20 DELETED h._.pods.default.gone prev 5",
	}, got)
}

func TestCompactionPlan(t *testing.T) {
	cfg := CompactorConfig{Keep: 5 * time.Minute, Settle: 3 * time.Minute, MaxHold: time.Hour}
	type step struct {
		minute           int
		newest, position int64
		want             int64
	}
	for name, steps := range map[string][]step{
		"keeps five minutes": {
			{0, 100, 100, 0}, {1, 110, 110, 0}, {4, 140, 140, 0}, {5, 150, 150, 100}, {6, 160, 160, 109}, {7, 160, 160, 110}, {9, 170, 170, 140},
		},
		"never passes the relay": {
			{0, 100, 50, 0}, {5, 110, 50, 49}, {6, 120, 50, 0}, {20, 120, 90, 0}, {23, 120, 90, 89}, {30, 120, 120, 0}, {33, 120, 120, 119},
		},
		"does not rely on what the bus may not have flushed": {
			{0, 100, 10, 0}, {1, 200, 10, 0}, {9, 200, 200, 9}, {11, 200, 200, 0}, {12, 200, 200, 199},
		},
		"nor on a stream that has lost its end": {
			{0, 100, 100, 0}, {4, 100, 100, 0}, {5, 100, 60, 59}, {6, 100, 60, 0},
		},
		"gives up on the relay after an hour": {
			{0, 100, 10, 0}, {10, 200, 10, 9}, {59, 300, 10, 0}, {60, 300, 10, 100}, {70, 300, 10, 200},
		},
		"says nothing when nothing happens": {
			{0, 100, 100, 0}, {10, 100, 100, 99}, {20, 100, 100, 0}, {300, 100, 100, 100}, {400, 100, 100, 0},
		},
		"before the relay knows": {{0, 100, 0, 0}, {10, 100, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			var p plan
			start := time.Unix(0, 0)
			for _, s := range steps {
				got := p.next(start.Add(time.Duration(s.minute)*time.Minute), s.newest, s.position, cfg)
				require.Equal(t, s.want, got, "minute %d", s.minute)
				if got > 0 {
					p.done = got
				}
			}
		})
	}
}
