package view

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

const (
	// formsAge is for how long a form is kept that nobody asks for.
	formsAge = 5 * time.Minute
	// formOverhead is about what a form takes besides its value.
	formOverhead = 256
	// formsTried is how many old forms are looked at to make room for a new one.
	formsTried = 4
	// sweepEvery is how often old forms are looked for that nothing has to make room for,
	// and sweepAtOnce how many are looked at before readers get their turn.
	sweepEvery  = time.Minute
	sweepAtOnce = 1024
)

// Forms keeps what was made of items for readers of other forms than the stored bytes,
// such as encodings: within a limit, as long as the item is the newest of its key and as
// the form is asked for every now and then. When it is full of what is wanted, new ones
// are made each time they are asked for: a list that is too long to be kept still finds a
// part of itself.
type Forms struct {
	mu    sync.Mutex
	limit int      // guarded by mu
	bytes int      // of all forms that are kept; guarded by mu
	queue []*place // the oldest first, some of them empty already; guarded by mu
}

// form is one value kept with an item.
type form struct {
	kind  any
	value any
	used  atomic.Int64 // unix seconds
	place *place
}

// place is where Forms finds a form, without keeping it or its item alive.
type place struct {
	item  weak.Pointer[Item]
	form  weak.Pointer[form]
	size  int
	empty bool // guarded by the lock of Forms
}

// NewForms keeps up to limit bytes.
func NewForms(limit int) *Forms { return &Forms{limit: limit} }

// Allow sets how many bytes are kept. What is kept already stays while it is wanted.
func (f *Forms) Allow(limit int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limit = limit
}

// Run drops what nobody asks for any more, until ctx ends.
func (f *Forms) Run(ctx context.Context) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			f.sweep(now)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sweep looks at all forms that were there when it began.
func (f *Forms) sweep(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for left := len(f.queue); left > 0; left -= sweepAtOnce {
		f.dropOld(min(left, sweepAtOnce), now)
		f.mu.Unlock()
		f.mu.Lock()
	}
}

// Get returns what was put for an item. kind is any comparable value.
func (f *Forms) Get(i *Item, kind any, now time.Time) (any, bool) {
	k := f.find(i, kind)
	if k == nil {
		return nil, false
	}
	if seconds := now.Unix(); k.used.Load() != seconds {
		k.used.Store(seconds)
	}
	return k.value, true
}

func (f *Forms) find(i *Item, kind any) *form {
	kept := i.forms.Load()
	if kept == nil {
		return nil
	}
	for _, k := range *kept {
		if k.kind == kind {
			return k
		}
	}
	return nil
}

// Put keeps a value of about size bytes instead of an earlier one, if there is room.
func (f *Forms) Put(i *Item, kind, value any, size int, now time.Time) {
	size += formOverhead
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.find(i, kind); old != nil {
		f.drop(i, old)
	}
	if !f.makeRoom(size, now) {
		return
	}
	k := &form{kind: kind, value: value}
	k.used.Store(now.Unix())
	k.place = &place{item: weak.Make(i), form: weak.Make(k), size: size}
	var kept []*form
	if old := i.forms.Load(); old != nil {
		kept = slices.Clone(*old)
	}
	kept = append(kept, k)
	i.forms.Store(&kept)
	f.bytes += size
	f.queue = append(f.queue, k.place)
}

// makeRoom drops forms that nobody asks for any more, and tells whether there is room.
func (f *Forms) makeRoom(size int, now time.Time) bool {
	f.dropOld(formsTried, now)
	return f.bytes+size <= f.limit
}

// dropOld looks at some forms and drops those that nobody asks for any more.
func (f *Forms) dropOld(most int, now time.Time) {
	for range min(most, len(f.queue)) {
		p := f.queue[0]
		f.queue = f.queue[1:]
		if p.empty {
			continue
		}
		i, k := p.item.Value(), p.form.Value()
		switch {
		case i == nil || k == nil: // the item was no longer needed
			f.vacate(p)
		case now.Sub(time.Unix(k.used.Load(), 0)) > formsAge:
			f.drop(i, k)
		default:
			f.queue = append(f.queue, p)
		}
	}
}

func (f *Forms) vacate(p *place) {
	f.bytes -= p.size
	p.empty = true
}

func (f *Forms) drop(i *Item, k *form) {
	f.vacate(k.place)
	rest := slices.DeleteFunc(slices.Clone(*i.forms.Load()), func(other *form) bool { return other == k })
	if len(rest) == 0 {
		i.forms.Store(nil)
		return
	}
	i.forms.Store(&rest)
}

// forget drops all forms of an item that is no longer the newest of its key.
func (f *Forms) forget(i *Item) {
	if i == nil || i.forms.Load() == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for kept := i.forms.Load(); kept != nil; kept = i.forms.Load() {
		f.drop(i, (*kept)[0])
	}
}

// Bytes is about how much is kept.
func (f *Forms) Bytes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bytes
}
