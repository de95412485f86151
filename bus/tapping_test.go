package bus

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rutter-project/rutter/schemas"
)

// TapOptions say what to follow, and from when.
type TapOptions struct {
	// Filter is a subject filter, as schemas.Filter and schemas.SubjectPrefix make
	// them; "" is everything.
	Filter string
	// SinceRev begins with the first change at or after a revision, Since with the
	// first one that the stream took at or after a time. Neither begins with what
	// happens from now on.
	SinceRev int64
	Since    time.Time
	// Ready, if not nil, is called once nothing that happens from then on will be
	// missed.
	Ready func()
}

// Tap calls fn for every change, in order and each once, until ctx ends or fn
// fails. Where changes are lost, because a resync had to step over them or
// because the stream no longer keeps them, fn gets an event of type GAP. fn may
// take its time: that holds up nobody else.
func (c *Client) Tap(ctx context.Context, opts TapOptions, fn func(schemas.Event) error) error {
	filters := c.tapFilters(opts.Filter)
	start := scan{stream: StreamArchive, follow: true, fresh: true}
	switch {
	case opts.SinceRev > 0:
		start.fresh = false
		if err := c.startAt(ctx, &start, opts.SinceRev); err != nil {
			return err
		}
	case !opts.Since.IsZero():
		start.fresh, start.since = false, opts.Since
	}
	ctx, cancel := context.WithCancel(ctx)
	events := make(chan schemas.Event)
	failed := make(chan error, len(filters))
	var tails sync.WaitGroup
	defer tails.Wait()
	defer cancel()
	var begun atomic.Int32
	follow := func(subjects []string) {
		s := start
		if s.filter = subjects[0]; len(subjects) > 1 {
			s.filter, s.filters = "", subjects
		}
		s.ready = sync.OnceFunc(func() {
			if int(begun.Add(1)) == len(filters) && opts.Ready != nil {
				opts.Ready()
			}
		})
		tails.Go(func() { failed <- c.tail(ctx, s, opts.SinceRev, events) })
	}
	for _, filter := range filters {
		follow(filter)
	}
	return deliver(ctx, events, failed, fn)
}

// tapFilters are the consumers that a tap needs, by what each filters for. Gaps are told
// whatever the filter, in their place among the changes; clients of the account EDGE may
// ask for one subject at a time, so that theirs come when they come.
func (c *Client) tapFilters(filter string) [][]string {
	switch {
	case filter == "" || filter == schemas.AllObjects:
		return [][]string{{schemas.AllObjects}}
	case c.cfg.edge():
		return [][]string{{filter}, {schemas.ResyncSubject}}
	default:
		return [][]string{{filter, schemas.ResyncSubject}}
	}
}

// deliver calls fn from one goroutine for what the tails find.
func deliver(ctx context.Context, events <-chan schemas.Event, failed <-chan error, fn func(schemas.Event) error) error {
	for {
		select {
		case e := <-events:
			if err := fn(e); err != nil {
				return err
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tail sends the events of one filter.
func (c *Client) tail(ctx context.Context, s scan, sinceRev int64, to chan<- schemas.Event) error {
	send := func(e schemas.Event) error {
		select {
		case to <- e:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.lost = func(last, next schemas.Event) error {
		if last.Rev == 0 && next.Rev <= sinceRev {
			return nil // nothing that was asked for
		}
		return send(trimmedGap(max(last.Rev, sinceRev-1), next))
	}
	return c.scan(ctx, s, func(e schemas.Event) error {
		if e.Rev < sinceRev && e.Type != schemas.Gap {
			return nil
		}
		return send(e)
	})
}

// startAt makes a scan begin with the first message of ARCHIVE at or after a
// revision. Clients of the account EDGE may not look at single messages; they read
// from the start and skip.
func (c *Client) startAt(ctx context.Context, s *scan, rev int64) error {
	if c.cfg.edge() {
		return nil
	}
	head, err := c.Head(ctx, StreamArchive)
	if err != nil {
		return err
	}
	if head.Empty {
		s.from = head.Seq + 1
		return nil
	}
	_, behind, err := c.Divide(ctx, func(e schemas.Event) bool { return e.Rev >= rev })
	if s.from = behind.Seq; s.from == 0 {
		s.from = head.Seq + 1
	}
	s.trimmed = head.Trimmed && s.from <= head.First
	return err
}

// Log calls fn for every change of one object that ARCHIVE holds, oldest first,
// with the gaps that lie between them. ErrNotFound if there is none.
func (c *Client) Log(ctx context.Context, key schemas.Key, fn func(schemas.Event) error) error {
	var gaps []schemas.Event
	err := c.scan(ctx, scan{stream: StreamArchive, filter: schemas.ResyncSubject}, func(e schemas.Event) error {
		gaps = append(gaps, e)
		return nil
	})
	if err != nil {
		return err
	}
	found := false
	err = c.scan(ctx, scan{stream: StreamArchive, filter: key.Subject()}, func(e schemas.Event) error {
		for len(gaps) > 0 && gaps[0].Seq < e.Seq {
			if found {
				if err := fn(gaps[0]); err != nil {
					return err
				}
			}
			gaps = gaps[1:]
		}
		found = true
		return fn(e)
	})
	if err == nil && !found {
		return fmt.Errorf("bus: %s: %w", key, ErrNotFound)
	}
	return err
}
