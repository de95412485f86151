package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rutter-project/rutter/schemas"
)

// Position is a place in HISTORY, or in a mirror of it.
type Position struct {
	Seq   uint64 // sequence of the last message
	First uint64 // sequence of the first message held
	Epoch string
	Empty bool // holds no message, though Seq may not be 0
	// Trimmed says that the stream no longer holds all that was put into it.
	Trimmed bool
	holes   []hole // of ARCHIVE, in order
	// Mended is how many changes that ARCHIVE has lost are read from MENDED instead.
	Mended uint64
	// After, if it is known, is the revision after which nothing is missing although the
	// stream is trimmed; else 0.
	After int64
}

// Head reads where a stream ends.
func (c *Client) Head(ctx context.Context, stream string) (Position, error) {
	if c.mendable(stream) {
		if err := c.sound(ctx, stream); err != nil {
			return Position{}, err
		}
	}
	return c.head(ctx, stream)
}

// head is Head, of an ARCHIVE whose holes are being named too.
func (c *Client) head(ctx context.Context, stream string) (Position, error) {
	info, err := c.streamInfo(ctx, stream)
	if err != nil {
		return Position{}, err
	}
	first := max(info.Config.FirstSeq, 1)
	if n, err := strconv.ParseUint(info.Config.Metadata[firstKey], 10, 64); err == nil {
		first = n
	}
	holes, err := parseHoles(info.Config.Metadata)
	if err != nil {
		return Position{}, err
	}
	mended := uint64(0)
	for _, h := range holes {
		mended += h.Events
	}
	return Position{
		holes: holes, Mended: mended,
		Seq: info.State.LastSeq, First: info.State.FirstSeq, Epoch: info.Config.Metadata[epochKey],
		Empty: info.State.Msgs == 0, Trimmed: info.State.FirstSeq > first || info.Config.Metadata[cutKey] != "",
	}, nil
}

func (c *Client) streamInfo(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	stream, err := c.js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("bus: stream %s: %w", name, explain(err))
	}
	return stream.CachedInfo(), nil
}

// Message reads one message of a stream by its sequence. ErrNotFound if it is
// not held.
func (c *Client) Message(ctx context.Context, stream string, seq uint64) (schemas.Event, error) {
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return schemas.Event{}, fmt.Errorf("bus: stream %s: %w", stream, explain(err))
	}
	msg, err := s.GetMsg(ctx, seq)
	if err != nil {
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return schemas.Event{}, fmt.Errorf("bus: message %d of %s: %w", seq, stream, ErrNotFound)
		}
		return schemas.Event{}, fmt.Errorf("bus: message %d of %s: %w", seq, stream, explain(err))
	}
	return parseStored(msg)
}

func parseStored(msg *jetstream.RawStreamMsg) (schemas.Event, error) {
	e, err := schemas.ParseEvent(map[string][]string(msg.Header), msg.Data)
	if err != nil {
		return schemas.Event{}, fmt.Errorf("bus: message %d on %s: %w", msg.Sequence, msg.Subject, err)
	}
	e.Seq, e.Recorded = msg.Sequence, msg.Time
	return e, nil
}

// mirrorPoll is how often WaitMirror looks; a server tells nobody when a mirror
// has caught up.
const mirrorPoll = 10 * time.Millisecond

// Mirror is how far a mirror has followed HISTORY.
type Mirror struct {
	Stream string
	Want   uint64 // last message of HISTORY that belongs into it, 0 if there is none
	Have   uint64 // last message that it has
}

// Mirrors says how far all mirrors are.
func (c *Client) Mirrors(ctx context.Context) ([]Mirror, error) {
	objects, err := c.lastSeq(ctx, StreamHistory, schemas.AllObjects)
	if err != nil {
		return nil, err
	}
	routes, err := c.lastSeq(ctx, StreamHistory, schemas.AllRoutes)
	if err != nil {
		return nil, err
	}
	mirrors := []Mirror{{Stream: StreamState, Want: objects}, {Stream: StreamArchive, Want: objects}, {Stream: StreamLastN, Want: routes}}
	for i := range mirrors {
		head, err := c.head(ctx, mirrors[i].Stream)
		if err != nil {
			return nil, err
		}
		mirrors[i].Have = head.Seq
	}
	return mirrors, nil
}

// WaitMirror waits until a mirror has all that HISTORY had when it was called.
func (c *Client) WaitMirror(ctx context.Context, mirror string) error {
	filter := schemas.AllObjects
	if mirror == StreamLastN {
		filter = schemas.AllRoutes
	}
	want, err := c.lastSeq(ctx, StreamHistory, filter)
	if err != nil {
		return err
	}
	for {
		head, err := c.head(ctx, mirror)
		if err != nil {
			return err
		}
		if head.Seq >= want {
			return nil
		}
		select {
		case <-time.After(mirrorPoll):
		case <-ctx.Done():
			return fmt.Errorf("bus: %s is at %d, not yet at %d: %w", mirror, head.Seq, want, ctx.Err())
		}
	}
}
