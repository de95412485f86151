package view

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/schemas"
)

const prefix = schemas.RegistryPrefix + "core/pods"

func entry(rev int64, kind feed.Type, name string) feed.Entry {
	return feed.Entry{Rev: rev, Cnt: 1, Type: kind, Key: schemas.Key{Resource: "pods", Namespace: "n", Name: name},
		Object: []byte(fmt.Sprintf(`{"metadata":{"name":%q},"rev":%d}`, name, rev))}
}

func apply(v *View, entries ...feed.Entry) {
	v.Apply(feed.Batch{Rev: entries[len(entries)-1].Rev, Entries: entries})
}

func names(s Snapshot) []string {
	var out []string
	s.Ascend(prefix+"/", "", func(i *Item) bool {
		out = append(out, fmt.Sprintf("%s@%d", i.Key[len(prefix)+3:], i.Rev))
		return true
	})
	return out
}

func TestSnapshotsDoNotChange(t *testing.T) {
	v := New(nil)
	table := v.Table(prefix)
	apply(v, entry(1, feed.Created, "a"), entry(2, feed.Created, "b"))
	before := table.Snapshot()
	apply(v, entry(3, feed.Modified, "a"), entry(4, feed.Deleted, "b"), entry(5, feed.Created, "c"))
	if got, want := names(before), []string{"a@1", "b@2"}; !slices.Equal(got, want) || before.Rev != 2 {
		t.Errorf("old snapshot at %d: %v, want %v at 2", before.Rev, got, want)
	}
	if got, want := names(table.Snapshot()), []string{"a@3", "c@5"}; !slices.Equal(got, want) {
		t.Errorf("new snapshot: %v, want %v", got, want)
	}
}

func TestEventsOfOneBatchSeeEachOther(t *testing.T) {
	v := New(nil)
	table := v.Table(prefix)
	_, cursor := table.SnapshotAndCursor()
	apply(v, entry(1, feed.Created, "a"), entry(2, feed.Modified, "a"), entry(3, feed.Deleted, "a"), entry(4, feed.Created, "a"))
	events, _, _, err := cursor.Poll(10)
	if err != nil || len(events) != 4 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	for i, want := range []struct {
		kind EventType
		prev int64
	}{{Created, 0}, {Modified, 1}, {Deleted, 2}, {Created, 0}} {
		prev := int64(0)
		if events[i].Prev != nil {
			prev = events[i].Prev.Rev
		}
		if events[i].Type != want.kind || prev != want.prev {
			t.Errorf("event %d: type %d after revision %d, want %d after %d", i, events[i].Type, prev, want.kind, want.prev)
		}
	}
}

func TestCursorBeginsAfterItsRevision(t *testing.T) {
	v := New(nil)
	table := v.Table(prefix)
	for rev := int64(1); rev <= 5; rev++ {
		apply(v, entry(rev, feed.Created, fmt.Sprint(rev)))
	}
	for from, want := range map[int64]int{0: 5, 3: 2, 5: 0, 99: 0} {
		cursor, err := table.Cursor(from)
		if err != nil {
			t.Fatal(err)
		}
		events, _, _, err := cursor.Poll(100)
		if err != nil || len(events) != want {
			t.Errorf("cursor from %d: %d events, %v; want %d", from, len(events), err, want)
		}
	}
}

// A slow reader hurts only itself: the log is trimmed under it and it is told so.
func TestSlowCursorIsGone(t *testing.T) {
	v := New(nil)
	table := v.Table(prefix)
	slow, err := table.Cursor(0)
	if err != nil {
		t.Fatal(err)
	}
	for rev := int64(1); rev <= logCap+1; rev++ {
		apply(v, entry(rev, feed.Modified, "a"))
	}
	if _, _, _, err := slow.Poll(1); !errors.Is(err, ErrGone) {
		t.Errorf("slow cursor: %v, want ErrGone", err)
	}
	if _, err := table.Cursor(1); !errors.Is(err, ErrGone) {
		t.Errorf("cursor from a trimmed revision: %v, want ErrGone", err)
	}
	if _, err := table.Cursor(logCap); err != nil {
		t.Errorf("cursor from a recent revision: %v", err)
	}
}

func TestResetEndsCursors(t *testing.T) {
	v := New(nil)
	table := v.Table(prefix)
	apply(v, entry(1, feed.Created, "a"))
	cursor, err := table.Cursor(1)
	if err != nil {
		t.Fatal(err)
	}
	_, _, more, _ := cursor.Poll(1)
	if err := v.Reset(9, []feed.Entry{entry(7, feed.Created, "b")}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-more:
	default:
		t.Error("a waiting cursor is not woken by a reset")
	}
	if _, _, _, err := cursor.Poll(1); !errors.Is(err, ErrGone) {
		t.Errorf("cursor after a reset: %v, want ErrGone", err)
	}
	if got := names(table.Snapshot()); !slices.Equal(got, []string{"b@7"}) || table.Rev() != 9 {
		t.Errorf("after reset: %v at %d", got, table.Rev())
	}
}

func TestQuietTablesMoveOnWithoutWaking(t *testing.T) {
	v := New(nil)
	quiet := v.Table(schemas.RegistryPrefix + "apps/deployments")
	_, cursor := quiet.SnapshotAndCursor()
	_, _, more, _ := cursor.Poll(1)
	apply(v, entry(8, feed.Created, "a"))
	select {
	case <-more:
		t.Error("a watcher of another resource was woken")
	default:
	}
	if quiet.Rev() != 8 {
		t.Errorf("revision %d, want 8", quiet.Rev())
	}
}

func TestWhatIsDerivedIsMadeOnceWhileUsed(t *testing.T) {
	i := &Item{Object: []byte("x")}
	kind := FrameKind{Form: "json", Event: "ADDED"}
	if _, ok := i.Frame(kind); ok {
		t.Error("a frame that nobody made")
	}
	a := []byte("frame")
	i.KeepFrame(kind, a)
	i.KeepFrame(FrameKind{Form: "json", Event: "MODIFIED"}, []byte("other"))
	if b, ok := i.Frame(kind); !ok || &a[0] != &b[0] {
		t.Errorf("got %q, %v", b, ok)
	}
	if _, ok := i.Frame(FrameKind{Form: "protobuf", Event: "ADDED"}); ok {
		t.Error("a frame of another form")
	}
	if first, again := i.Record(podShape), i.Record(podShape); first != again {
		t.Error("a record was read twice")
	}
}

// TestViewEqualsModel compares the tree and what a cursor tells with a map.
func TestViewEqualsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := New(nil)
		table := v.Table(prefix)
		_, cursor := table.SnapshotAndCursor()
		model, told := map[string]int64{}, map[string]int64{}
		rev := int64(0)
		for range rapid.IntRange(1, 30).Draw(t, "batches") {
			var batch []feed.Entry
			for range rapid.IntRange(1, 4).Draw(t, "changes") {
				rev++
				name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "name")
				kind := feed.Modified
				if _, ok := model[name]; !ok {
					kind = feed.Created
				} else if rapid.Bool().Draw(t, "delete") {
					kind = feed.Deleted
				}
				model[name] = rev
				if kind == feed.Deleted {
					delete(model, name)
				}
				batch = append(batch, entry(rev, kind, name))
			}
			apply(v, batch...)
		}
		for {
			events, _, _, err := cursor.Poll(3)
			if err != nil {
				t.Fatal(err)
			}
			if len(events) == 0 {
				break
			}
			for _, e := range events {
				name := e.Item.Key[len(prefix)+3:]
				told[name] = e.Rev
				if e.Type == Deleted {
					delete(told, name)
				}
			}
		}
		seen := map[string]int64{}
		table.Snapshot().Ascend(prefix+"/", "", func(i *Item) bool { seen[i.Key[len(prefix)+3:]] = i.Rev; return true })
		for _, got := range []map[string]int64{seen, told} {
			if fmt.Sprint(got) != fmt.Sprint(model) {
				t.Fatalf("got %v, want %v", got, model)
			}
		}
	})
}

func BenchmarkApply(b *testing.B) {
	v := New(nil)
	v.Table(prefix)
	for i := range 10000 {
		apply(v, entry(int64(i+1), feed.Created, fmt.Sprintf("pod-%d", i)))
	}
	rev := int64(10001)
	for b.Loop() {
		apply(v, entry(rev, feed.Modified, fmt.Sprintf("pod-%d", rev%10000)))
		rev++
	}
}

func BenchmarkListSnapshot(b *testing.B) {
	v := New(nil)
	table := v.Table(prefix)
	for i := range 10000 {
		apply(v, entry(int64(i+1), feed.Created, fmt.Sprintf("pod-%d", i)))
	}
	for b.Loop() {
		table.Snapshot().Ascend(prefix+"/", "", func(*Item) bool { return true })
	}
}
