package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rutter-project/rutter/schemas"
)

// trimmedGap is what a reader is told who has seen everything up to a revision when the
// stream's next change comes after some that it no longer has.
func trimmedGap(after int64, next schemas.Event) schemas.Event {
	return schemas.Event{
		Rev: next.Rev, Cnt: 1, Type: schemas.Gap, PrevRev: after, Epoch: next.Epoch,
		Object: []byte(`{"reason":"the stream no longer keeps these changes"}`),
	}
}

// Gaps calls fn with the gaps that ARCHIVE knows of, oldest first. One that the archive has
// lost itself has no Resync: no state follows it, and its Rev is the first change behind it.
func (c *Client) Gaps(ctx context.Context, fn func(schemas.Event) error) error {
	return c.scanArchive(ctx, scan{stream: StreamArchive, filters: []string{schemas.ResyncSubject}}, fn)
}

// Divide finds the place in ARCHIVE where after begins to hold, which must hold for all
// messages from there on and for none before. It returns the last message before the
// place and the first one behind it, each with Seq 0 if there is none.
func (c *Client) Divide(ctx context.Context, after func(schemas.Event) bool) (before, behind schemas.Event, err error) {
	head, err := c.Head(ctx, StreamArchive)
	if err != nil {
		return schemas.Event{}, schemas.Event{}, err
	}
	return c.divideArchive(ctx, head, head.holes, after)
}

// divideArchive is Divide, of an ARCHIVE with this head and the holes that are to be filled.
func (c *Client) divideArchive(ctx context.Context, head Position, holes []hole, after func(schemas.Event) bool) (before, behind schemas.Event, err error) {
	if head.Empty {
		return schemas.Event{}, schemas.Event{}, nil
	}
	stream, err := c.js.Stream(ctx, StreamArchive)
	if err != nil {
		return schemas.Event{}, schemas.Event{}, fmt.Errorf("bus: stream %s: %w", StreamArchive, explain(err))
	}
	low, high := head.First, head.Seq+1
	for low < high {
		middle := low + (high-low)/2
		e, err := c.archiveAt(ctx, stream, holes, middle)
		switch {
		case errors.Is(err, ErrNotFound):
			high = middle
		case err != nil:
			return schemas.Event{}, schemas.Event{}, err
		case after(e):
			high, behind = middle, e
		default:
			low, before = e.Seq+1, e
		}
	}
	return before, behind, nil
}

// nextIn reads the first object message at or behind a sequence. It is ErrNotFound behind the
// last one.
func (c *Client) nextIn(ctx context.Context, stream jetstream.Stream, seq uint64) (schemas.Event, error) {
	msg, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(schemas.AllObjects))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		if err := c.readable(ctx, stream, seq); err != nil {
			return schemas.Event{}, err
		}
		return schemas.Event{}, ErrNotFound
	}
	if err != nil {
		return schemas.Event{}, fmt.Errorf("bus: message %d of %s: %w", seq, StreamArchive, explain(err))
	}
	return parseStored(msg)
}

// FirstEvent is the first change that ARCHIVE holds. ErrNotFound if there is none.
func (c *Client) FirstEvent(ctx context.Context) (schemas.Event, error) {
	head, err := c.Head(ctx, StreamArchive)
	if err != nil {
		return schemas.Event{}, err
	}
	if head.Empty {
		return schemas.Event{}, fmt.Errorf("bus: first message of %s: %w", StreamArchive, ErrNotFound)
	}
	stream, err := c.js.Stream(ctx, StreamArchive)
	if err != nil {
		return schemas.Event{}, fmt.Errorf("bus: stream %s: %w", StreamArchive, explain(err))
	}
	return c.archiveAt(ctx, stream, head.holes, head.First)
}

// Size is how many messages a stream holds and how many bytes they take.
func (c *Client) Size(ctx context.Context, stream string) (messages, bytes uint64, err error) {
	info, err := c.streamInfo(ctx, stream)
	if err != nil {
		return 0, 0, err
	}
	return info.State.Msgs, info.State.Bytes, nil
}

// Retention is what the streams are bounded by.
func (c *Client) Retention() StreamsConfig { return c.cfg.Streams }

// readable is an error if there is a message at or behind a sequence of ARCHIVE, of which the
// server has said that there is none: it says so too of what it can't read.
func (c *Client) readable(ctx context.Context, stream jetstream.Stream, seq uint64) error {
	info, err := stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("bus: stream %s: %w", StreamArchive, explain(err))
	}
	if seq > info.State.LastSeq {
		return nil
	}
	_, err = stream.GetMsg(ctx, info.State.LastSeq)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("bus: stream %s: %w", StreamArchive, explain(err))
	}
	c.reportUnreadable(StreamArchive)
	return fmt.Errorf("bus: message at or behind %d of %s: %w", seq, StreamArchive, ErrDamaged)
}
