package view

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
)

func TestFormsKeepWhatIsWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1000 - formOverhead
		f := NewForms(3000)
		items := make([]*Item, 5)
		for i := range items {
			items[i] = &Item{Rev: int64(i)}
			f.Put(items[i], "proto", i, size, time.Now())
		}
		kept := func() (n int) {
			for i := range items {
				if v, ok := f.Get(items[i], "proto", time.Now()); ok && v == i {
					n++
				}
			}
			return n
		}
		if n := kept(); n != 3 || f.Bytes() != 3000 {
			t.Errorf("%d forms of %d bytes are kept, want 3 of 3000", n, f.Bytes())
		}
		if _, ok := f.Get(items[0], "rows", time.Now()); ok {
			t.Error("a form was found that nobody made")
		}
		f.forget(items[1])
		if n := kept(); n != 2 || f.Bytes() != 2000 {
			t.Errorf("%d forms of %d bytes after one was forgotten, want 2 of 2000", n, f.Bytes())
		}
		f.Put(items[1], "rows", 1, 1000-formOverhead, time.Now())
		time.Sleep(formsAge / 2)
		f.Get(items[2], "proto", time.Now())
		time.Sleep(formsAge/2 + 2*time.Second)
		f.Put(items[4], "proto", 4, size, time.Now())
		if n := kept(); n != 2 || f.Bytes() != 2000 { // the one asked for, and the new one
			t.Errorf("%d forms of %d bytes are left when others got old, want 2 of 2000", n, f.Bytes())
		}
	})
}

func TestFormsOfOldVersionsAreForgotten(t *testing.T) {
	v := New(nil)
	apply(v, entry(1, feed.Created, "a"))
	item, _ := v.Table(prefix).Get(prefix + "/n/a")
	v.Forms.Put(item, "proto", "x", 1, time.Now())
	apply(v, entry(2, feed.Modified, "a"))
	if _, ok := v.Forms.Get(item, "proto", time.Now()); ok || v.Forms.Bytes() != 0 {
		t.Errorf("%d bytes are kept of an object that has changed", v.Forms.Bytes())
	}
}

func TestFormsAreSweptWhenNobodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f := NewForms(1 << 20)
		go func() { _ = f.Run(ctx) }()
		old, asked := &Item{Rev: 1}, &Item{Rev: 2}
		f.Put(old, "proto", 1, 10, time.Now())
		f.Put(asked, "proto", 2, 10, time.Now())
		for range 3 {
			time.Sleep(formsAge / 2)
			f.Get(asked, "proto", time.Now())
		}
		synctest.Wait()
		if _, ok := f.Get(old, "proto", time.Now()); ok {
			t.Error("a form is kept that nobody has asked for")
		}
		if _, ok := f.Get(asked, "proto", time.Now()); !ok || f.Bytes() != 10+formOverhead {
			t.Errorf("a form that is asked for: found %t, %d bytes kept", ok, f.Bytes())
		}
		cancel()
	})
}

func TestFormsMayTakeAsMuchAsIsStored(t *testing.T) {
	v := New(nil)
	big := entry(1, feed.Created, "a")
	big.Object = make([]byte, formsLeast+1000)
	changed := entry(2, feed.Modified, "a")
	changed.Object = make([]byte, formsLeast+3000)
	for n, step := range []struct {
		entry feed.Entry
		want  int
	}{{big, formsLeast + 1000}, {changed, formsLeast + 3000}, {entry(3, feed.Deleted, "a"), formsLeast}} {
		apply(v, step.entry)
		if v.Forms.limit != step.want {
			t.Errorf("after change %d, %d bytes may be kept, want %d", n, v.Forms.limit, step.want)
		}
	}
}
