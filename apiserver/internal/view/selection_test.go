package view

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/schemas"
)

var podShape = NewShape(true,
	Field{Name: "spec.nodeName", Paths: []schemas.Path{{"spec", "nodeName"}}, Indexed: true},
	Field{Name: "spec.hostNetwork", Paths: []schemas.Path{{"spec", "hostNetwork"}}, Default: "false"},
	Field{Name: "source", Paths: []schemas.Path{{"source", "component"}, {"reporter"}}},
)

func TestSelectorMatches(t *testing.T) {
	item := func(object string) *Item { return &Item{Key: "k", Rev: 1, Object: []byte(object)} }
	pod := item(`{"metadata":{"name":"p","namespace":"n","labels":{"app":"web","e":""}},"spec":{"nodeName":"n1","hostNetwork":true},"source":{},"reporter":"r"}`)
	bare := item(`{"metadata":{"name":"b","namespace":"n"},"spec":{},"source":{"component":"c"},"reporter":"r"}`)
	for selector, want := range map[string][2]bool{
		"app=web":                          {true, false},
		"app!=web":                         {false, true},
		"app in (api,web),e":               {true, false},
		"!app":                             {false, true},
		"e=":                               {true, false},
		"fields metadata.name=p":           {true, false},
		"fields spec.nodeName=":            {false, true},
		"fields spec.nodeName!=n1":         {false, true},
		"fields spec.hostNetwork=false":    {false, true},
		"fields source=r":                  {true, false},
		"fields source=c":                  {false, true},
		"fields metadata.namespace=n":      {true, true},
		"fields metadata.namespace!=n":     {false, false},
		"fields metadata.name!=p,source=c": {false, true},
	} {
		s := parse(t, selector)
		if got := [2]bool{s.Matches(pod), s.Matches(bare)}; got != want {
			t.Errorf("%q: %v, want %v", selector, got, want)
		}
	}
	if podShape.Knows(fields.OneTermEqualSelector("status.phase", "x")) {
		t.Error("the shape knows a field that it does not have")
	}
}

func parse(t interface{ Fatal(...any) }, text string) Selector {
	s := Selector{Shape: podShape}
	var err error
	if list, ok := strings.CutPrefix(text, "fields "); ok {
		s.Fields, err = fields.ParseSelector(list)
	} else {
		s.Labels, err = labels.Parse(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Whatever happens and however one selects, the index finds what going through all
// objects finds, now and in snapshots from before.
func TestSelectFindsWhatMatches(t *testing.T) {
	values := rapid.SampledFrom([]string{"", "a", "ab", "b", "c"})
	rapid.Check(t, func(t *rapid.T) {
		v := New(nil)
		table := v.Table(prefix)
		filler := make([]feed.Entry, indexedFrom)
		for i := range filler {
			filler[i] = labelled(1, feed.Created, fmt.Sprintf("z%03d", i), `"filler":"yes"`, "")
		}
		apply(v, filler...)
		old, rev := table.Selective(podShape), int64(2)
		if old.index == nil {
			t.Fatal("no index was built")
		}
		oldNames := names(old)
		alive := map[string]bool{}
		for range rapid.IntRange(1, 40).Draw(t, "changes") {
			name := rapid.SampledFrom([]string{"a", "aa", "b", "c", "d"}).Draw(t, "name")
			kind := feed.Modified
			if !alive[name] {
				kind = feed.Created
			} else if rapid.Bool().Draw(t, "delete") {
				kind = feed.Deleted
			}
			alive[name] = kind != feed.Deleted
			apply(v, labelled(rev, kind, name, fmt.Sprintf(`"x":%q,"xy":%q`, values.Draw(t, "x"), values.Draw(t, "xy")), values.Draw(t, "node")))
			rev++
		}
		s := table.Selective(podShape)
		for range 20 {
			text := rapid.SampledFrom([]string{"x=%s", "x in (%s,c)", "x>1", "x!=%s", "x=%s,xy", "xy", "!xy", "x,filler", "filler,x=%s", "fields spec.nodeName=%s", "fields spec.nodeName=%s,metadata.name=a"}).Draw(t, "selector")
			selector := parse(t, strings.ReplaceAll(text, "%s", values.Draw(t, "value")))
			from := rapid.SampledFrom([]string{"", prefix + "/n/aa", prefix + "/n/b\x00", prefix + "/n/zz"}).Draw(t, "from")
			var want, got []string
			s.Ascend(prefix+"/", from, func(i *Item) bool {
				if selector.Matches(i) {
					want = append(want, i.Key)
				}
				return true
			})
			s.Select(prefix+"/", from, selector, func(i *Item) bool { got = append(got, i.Key); return true })
			if !slices.Equal(got, want) {
				t.Fatalf("%s: %v, want %v", text, got, want)
			}
		}
		if got := names(old); !slices.Equal(got, oldNames) {
			t.Fatalf("an older snapshot changed: %v, was %v", got, oldNames)
		}
		x := newIndex(podShape)
		table.Snapshot().tree.Ascend(func(i *Item) bool { x.replace(nil, i); return true })
		if x.tree.Len() != s.index.tree.Len() {
			t.Fatalf("the index has %d postings, made anew %d", s.index.tree.Len(), x.tree.Len())
		}
	})
}

func labelled(rev int64, kind feed.Type, name, labels, node string) feed.Entry {
	e := entry(rev, kind, name)
	e.Object = []byte(fmt.Sprintf(`{"metadata":{"name":%q,"namespace":"n","labels":{%s}},"spec":{"nodeName":%q}}`, name, labels, node))
	return e
}

// A list that has begun goes on in the state it began in, for a while.
func TestStatesAreRetained(t *testing.T) {
	v := New(nil)
	table := v.Table(prefix)
	apply(v, entry(1, feed.Created, "a"), entry(2, feed.Created, "b"))
	v.Apply(feed.Batch{Rev: 5})
	for rev, want := range map[int64]bool{1: false, 2: true, 5: true, 6: false} {
		if s, ok := table.At(rev); ok != want || ok && s.Rev != rev {
			t.Errorf("state at %d: %v at %d, want %v", rev, ok, s.Rev, want)
		}
	}
	first := table.Snapshot()
	apply(v, entry(6, feed.Deleted, "a"))
	if _, ok := table.At(5); ok {
		t.Error("a state that nobody retained is there")
	}
	table.Retain(first, Place{}, 0)
	apply(v, entry(7, feed.Created, "c"))
	s, ok := table.At(5)
	if got, want := names(s), []string{"a@1", "b@2"}; !ok || !slices.Equal(got, want) {
		t.Errorf("retained state: %v, want %v", got, want)
	}
	for rev := int64(8); rev < 8+rootsKept; rev++ {
		table.Retain(table.Snapshot(), Place{}, 0)
		apply(v, entry(rev, feed.Modified, "c"))
	}
	if _, ok := table.At(5); ok {
		t.Error("more states are kept than should be")
	}
	if s, ok := table.At(7); !ok || len(names(s)) != 2 {
		t.Errorf("state at 7: %v, %v", ok, s)
	}
}

// Lists that are read page by page, of all and of namespaces, while the table changes, are
// told how much is left of the state they began in.
func TestPlacesKnowHowManyFollow(t *testing.T) {
	type list struct {
		rev   int64
		at    Place
		limit int
	}
	rapid.Check(t, func(t *rapid.T) {
		v := New(nil)
		table := v.Table(prefix)
		rev, states, remembered := int64(0), map[int64][]string{}, 0
		change := func() {
			rev++
			key := rapid.SampledFrom([]string{"n1/", "n2/"}).Draw(t, "namespace") + rapid.StringMatching("[a-e]{1,2}").Draw(t, "name")
			op := feed.Modified
			if _, ok := table.Get(prefix + "/" + key); ok && rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
				op = feed.Deleted
			}
			apply(v, entry(rev, op, key))
			table.Snapshot().Ascend("", "", func(i *Item) bool { states[rev] = append(states[rev], i.Key); return true })
		}
		for range 20 {
			change()
		}
		var lists []list
		for range 60 {
			if rapid.IntRange(0, 3).Draw(t, "change") == 0 {
				change()
			}
			l := list{rev: table.Rev(), at: Place{Prefix: prefix + rapid.SampledFrom([]string{"/", "/n1/", "/n2/"}).Draw(t, "of")}, limit: rapid.IntRange(1, 4).Draw(t, "limit")}
			if len(lists) > 0 && rapid.Bool().Draw(t, "go on") {
				l = rapid.SampledFrom(lists).Draw(t, "list")
			}
			s, ok := table.At(l.rev)
			if !ok {
				continue
			}
			var follow []string
			for _, key := range states[l.rev] {
				if strings.HasPrefix(key, l.at.Prefix) && key >= l.at.From {
					follow = append(follow, key)
				}
			}
			if l.at.From != "" {
				if _, ok := table.rest(s, l.at); ok {
					remembered++
				}
			}
			count := table.CountFrom(s, l.at)
			if count != int64(len(follow)) {
				t.Fatalf("%d follow %+v, want %d", count, l, len(follow))
			}
			if len(follow) > l.limit {
				l.at.From = follow[l.limit-1] + "\x00"
				table.Retain(s, l.at, count-int64(l.limit))
				lists = append(lists, l)
			}
		}
		if len(lists) > 10 && remembered == 0 {
			t.Fatal("no page knew from the one before: the test tests nothing")
		}
	})
}

// heap is how many bytes are in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkSelect(b *testing.B) {
	const pods = 10_000
	v := New(nil)
	table := v.Table(prefix)
	entries := make([]feed.Entry, pods)
	for i := range entries {
		entries[i] = labelled(1, feed.Created, fmt.Sprintf("pod-%05d", i), fmt.Sprintf(`"app":"app-%d","tier":"web"`, i%100), fmt.Sprintf("node-%d", i%100))
	}
	v.Apply(feed.Batch{Rev: 1, Entries: entries})
	for _, bench := range []struct{ name, selector string }{{"label", "app=app-7"}, {"field", "fields spec.nodeName=node-7"}, {"set", "app in (app-7,app-8),tier=web"}, {"not-narrow", "tier=web"}} {
		for _, indexed := range []bool{true, false} {
			s := table.Snapshot()
			if indexed {
				s = table.Selective(podShape)
			}
			b.Run(fmt.Sprintf("%s/indexed=%v", bench.name, indexed), func(b *testing.B) {
				selector := parse(b, bench.selector)
				for b.Loop() {
					n := 0
					s.Select(prefix+"/", "", selector, func(*Item) bool { n++; return true })
				}
			})
		}
	}
}

// BenchmarkIndex is what the index costs: to build it, and with each change.
func BenchmarkIndex(b *testing.B) {
	const pods = 10_000
	items := make([]*Item, pods)
	for i := range items {
		e := labelled(1, feed.Created, fmt.Sprintf("pod-%05d", i), fmt.Sprintf(`"app":"app-%d","tier":"web","pod-template-hash":"x"`, i%100), fmt.Sprintf("node-%d", i%100))
		items[i] = itemOf(&e)
	}
	b.Run("build", func(b *testing.B) {
		before := heap()
		var x *index
		for b.Loop() {
			x = newIndex(podShape)
			for _, i := range items {
				x.replace(nil, i)
			}
		}
		b.ReportMetric(float64(heap()-before)/pods, "B/object")
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*pods), "ns/object")
		x.tree.Clear(false)
	})
	x := newIndex(podShape)
	for _, i := range items {
		x.replace(nil, i)
	}
	for _, same := range []bool{true, false} {
		b.Run(fmt.Sprintf("change/same-labels=%v", same), func(b *testing.B) {
			is := &Item{Key: items[0].Key, Rev: 2, Object: items[0].Object}
			if !same {
				is.Object = []byte(strings.ReplaceAll(string(is.Object), "app-0", "app-x"))
			}
			for b.Loop() {
				held := x.clone()
				x.replace(items[0], is)
				x.replace(is, items[0])
				held.tree.Len()
			}
		})
	}
}
