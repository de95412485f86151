package soak

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

func podKey(name string) schemas.Key {
	return schemas.Key{Resource: "pods", Namespace: "shop", Name: name}
}

// example is a history and the stream that it must have.
func example() ([]Change, []Record) {
	who := &schemas.Header{V: 1, Verb: "update", User: "jane"}
	a, b := podKey("a"), podKey("b")
	history := []Change{
		{Rev: 2, Key: a, Header: who, Object: []byte(`{"a":1}`)},
		{Rev: 3, Key: a, PrevRev: 2, Header: who, Object: []byte(`{"a":2}`), To: "n1"},
		{Rev: 3, Key: b, Header: who, Object: []byte(`{"b":1}`)},
		{Rev: 5, Key: a, PrevRev: 3, Header: who, Object: []byte(`{"a":3}`), From: "n1", To: "n2"},
		{Rev: 6, Key: a, PrevRev: 5, Deleted: true, Object: []byte(`{"a":3}`), From: "n2"},
	}
	gone := schemas.Header{V: 1, Verb: "expire"}
	stream := []Record{
		{11, a.Subject(), schemas.Event{Rev: 2, Cnt: 1, Type: schemas.Added, Key: a, Header: *who, Object: history[0].Object}},
		{12, "n.n1", schemas.Event{Rev: 3, Ord: 0, Cnt: 3, Type: schemas.Added, Key: a, PrevRev: 2, Header: *who, Object: history[1].Object}},
		{13, a.Subject(), schemas.Event{Rev: 3, Ord: 1, Cnt: 3, Type: schemas.Modified, Key: a, PrevRev: 2, Header: *who, Object: history[1].Object}},
		{14, b.Subject(), schemas.Event{Rev: 3, Ord: 2, Cnt: 3, Type: schemas.Added, Key: b, Header: *who, Object: history[2].Object}},
		{15, "n.n1", schemas.Event{Rev: 5, Ord: 0, Cnt: 3, Type: schemas.Left, Key: a, PrevRev: 3, Header: *who, Object: history[1].Object}},
		{16, "n.n2", schemas.Event{Rev: 5, Ord: 1, Cnt: 3, Type: schemas.Added, Key: a, PrevRev: 3, Header: *who, Object: history[3].Object}},
		{17, a.Subject(), schemas.Event{Rev: 5, Ord: 2, Cnt: 3, Type: schemas.Modified, Key: a, PrevRev: 3, Header: *who, Object: history[3].Object}},
		{18, "n.n2", schemas.Event{Rev: 6, Ord: 0, Cnt: 2, Type: schemas.Deleted, Key: a, PrevRev: 5, Header: gone, Object: history[3].Object}},
		{19, a.Subject(), schemas.Event{Rev: 6, Ord: 1, Cnt: 2, Type: schemas.Deleted, Key: a, PrevRev: 5, Header: gone, Object: history[3].Object}},
	}
	return history, stream
}

func TestGuaranteesHoldOnAGoodStream(t *testing.T) {
	history, stream := example()
	for name, rule := range Guarantees() {
		require.NoError(t, rule(history, stream), name)
	}
}

func TestGuaranteesTellEachFault(t *testing.T) {
	for name, tc := range map[string]struct {
		rule  string
		fault func([]Record) []Record
	}{
		"a change is missing":    {"complete", func(s []Record) []Record { return slices.Delete(s, 0, 1) }},
		"a route is missing":     {"complete", func(s []Record) []Record { return slices.Delete(s, 5, 6) }},
		"a change twice":         {"unique", func(s []Record) []Record { return append(s, s[0]) }},
		"two swapped":            {"ordered", func(s []Record) []Record { s[0], s[6] = s[6], s[0]; return s }},
		"a hole in the numbers":  {"ordered", func(s []Record) []Record { s[8].Seq++; return s }},
		"ordinals run backwards": {"ordered", func(s []Record) []Record { s[7].Event.Ord = 1; s[8].Event.Ord = 0; return s }},
		"half a revision":        {"atomic revisions", func(s []Record) []Record { return s[:8] }},
		"wrong count":            {"atomic revisions", func(s []Record) []Record { s[0].Event.Cnt = 2; return s }},
		"ends on a route":        {"atomic revisions", func(s []Record) []Record { s[8].Subject = "n.n3"; return s }},
		"another body":           {"faithful bodies", func(s []Record) []Record { s[0].Event.Object = []byte(`{}`); return s }},
		"another user":           {"faithful bodies", func(s []Record) []Record { s[0].Event.Header.User = "bob"; return s }},
		"another type":           {"faithful bodies", func(s []Record) []Record { s[4].Event.Type = schemas.Deleted; return s }},
		"another past":           {"faithful bodies", func(s []Record) []Record { s[6].Event.PrevRev = 2; return s }},
		"a user for an expiry":   {"faithful bodies", func(s []Record) []Record { s[8].Event.Header.User = "jane"; return s }},
		"never happened":         {"nothing invented", func(s []Record) []Record { s[3].Subject = podKey("c").Subject(); return s }},
		"made anew":              {"one epoch", func(s []Record) []Record { s[8].Event.Epoch = "other"; return s }},
		"a gap":                  {"no gaps", func(s []Record) []Record { s[3].Event.Type = schemas.Gap; return s }},
		"a resync":               {"no gaps", func(s []Record) []Record { s[3].Event.Resync = 3; return s }},
	} {
		t.Run(name, func(t *testing.T) {
			history, stream := example()
			require.Error(t, Guarantees()[tc.rule](history, tc.fault(stream)))
		})
	}
}

func TestContinuedTellsEachFault(t *testing.T) {
	_, stream := example()
	require.NoError(t, Continued(stream[3], stream[4:]))
	require.NoError(t, Continued(stream[3], nil))
	require.Error(t, Continued(stream[3], stream[5:]), "a message is missing between")
	stream[4].Event.Epoch = "other"
	require.Error(t, Continued(stream[3], stream[4:]), "made anew between")
}

func TestMirroredTellsEachFault(t *testing.T) {
	_, stream := example()
	objects := func() []Record { return []Record{stream[0], stream[2], stream[3], stream[6], stream[8]} }
	require.NoError(t, Mirrored(stream, objects()))
	require.Error(t, Mirrored(stream, objects()[1:]), "one missing at the start")
	require.Error(t, Mirrored(stream, objects()[:4]), "one missing at the end")
	moved := objects()
	moved[2].Seq++
	require.Error(t, Mirrored(stream, moved), "another sequence number")
	require.Error(t, Mirrored(stream[:8], objects()), "one too many")
}
