package tally

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rutter-project/rutter/schemas"
)

func change(rev int64, user, resource, namespace, name, body string) schemas.Event {
	return schemas.Event{Rev: rev, Type: schemas.Modified, Key: schemas.Key{Resource: resource, Namespace: namespace, Name: name},
		Header: schemas.Header{User: user, Verb: "patch"}, Object: []byte(body)}
}

func TestTop(t *testing.T) {
	at := time.Unix(100, 0)
	events := []schemas.Event{
		change(1, "alice", "pods", "shop", "a", "1234"), change(2, "bob", "pods", "shop", "a", "12"),
		change(3, "bob", "nodes", "", "n", "1"), change(4, "", "pods", "shop", "b", "123456789"),
	}
	for name, tc := range map[string]struct {
		by    []string
		n     int
		bytes bool
		want  []Row
	}{
		"actor":          {[]string{"actor"}, 0, false, []Row{{[]string{"bob"}, 2, 3, 3}, {[]string{"somebody unknown"}, 1, 9, 4}, {[]string{"alice"}, 1, 4, 1}}},
		"by bytes":       {[]string{"actor"}, 2, true, []Row{{[]string{"somebody unknown"}, 1, 9, 4}, {[]string{"alice"}, 1, 4, 1}}},
		"two dimensions": {[]string{"kind", "namespace"}, 0, false, []Row{{[]string{"pods", "shop"}, 3, 15, 4}, {[]string{"nodes", "-"}, 1, 1, 3}}},
		"object":         {[]string{"object"}, 1, false, []Row{{[]string{"shop pods/a"}, 2, 6, 2}}},
		"change":         {[]string{"change", "verb", "manager"}, 0, false, []Row{{[]string{"MODIFIED", "patch", "-"}, 4, 16, 4}}},
	} {
		t.Run(name, func(t *testing.T) {
			tally, err := New(tc.by, 0)
			require.NoError(t, err)
			for _, e := range events {
				tally.Add(e, at)
			}
			require.Equal(t, tc.want, tally.Top(tc.n, tc.bytes))
			require.Equal(t, int64(4), tally.Total().Events)
		})
	}
}

func TestNewRefuses(t *testing.T) {
	for name, by := range map[string][]string{"nothing": {}, "unknown": {"actor", "colour"}, "twice": {"kind", "kind"}} {
		_, err := New(by, 0)
		require.Error(t, err, name)
	}
}

// TestWindowThatMoves: what is left after forgetting is what a tally of only that would be.
func TestWindowThatMoves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		moving, err := New([]string{"actor", "kind"}, time.Second)
		require.NoError(t, err)
		n := rapid.IntRange(0, 200).Draw(t, "changes")
		var events []schemas.Event
		var times []time.Time
		now := time.Unix(1000, 0)
		for i := range n {
			now = now.Add(time.Duration(rapid.IntRange(0, 1500).Draw(t, "after")) * time.Millisecond)
			e := change(int64(i+1), rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "who"), rapid.SampledFrom([]string{"pods", "nodes"}).Draw(t, "kind"), "x", "y", "12345"[:i%5])
			events, times = append(events, e), append(times, now)
			moving.Add(e, now)
		}
		from := time.Unix(1000+rapid.Int64Range(0, 200).Draw(t, "from"), 0)
		moving.Forget(from)
		want, err := New([]string{"actor", "kind"}, 0)
		require.NoError(t, err)
		for i, e := range events {
			if !times[i].Before(from) {
				want.Add(e, times[i])
			}
		}
		got := moving.Top(0, false)
		wanted := want.Top(0, false)
		require.Equal(t, len(wanted), len(got))
		for i := range got {
			require.Equal(t, wanted[i].Names, got[i].Names)
			require.Equal(t, wanted[i].Events, got[i].Events)
			require.Equal(t, wanted[i].Bytes, got[i].Bytes)
		}
		require.Equal(t, want.Total().Events, moving.Total().Events)
	})
}
