package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/rutter-project/rutter/schemas"
)

// Files of a stream may be lost or cut, by a broken disk or a hasty operator. The server
// goes on with what is left, under the old sequence numbers: a mirror never asks for what
// it once had. So whoever makes the streams looks for holes, and has what lost something
// made again.

// endLost reports that HISTORY no longer has its last message, while it has others. Only
// retention takes messages out of it, the oldest first.
func (c *Client) endLost(ctx context.Context, info *jetstream.StreamInfo) (bool, error) {
	if info.State.Msgs == 0 {
		return false, nil
	}
	_, err := c.Message(ctx, StreamHistory, info.State.LastSeq)
	if errors.Is(err, ErrNotFound) {
		return true, nil
	}
	return false, err
}

// mirrorHoled reports that a mirror lacks messages that HISTORY has and that it has taken
// before.
func (c *Client) mirrorHoled(ctx context.Context, name string) (bool, error) {
	switch name {
	case StreamArchive:
		return c.archiveHoled(ctx)
	case StreamState:
		return c.stateHoled(ctx)
	default:
		return false, nil // nodes find out that the last message of their route is another one
	}
}

// archiveHoled counts what both have from where both begin to where ARCHIVE ends. Neither
// stands still: a relay elsewhere may publish, and ARCHIVE may be catching up, thousands of
// messages a second. What comes meanwhile speaks for ARCHIVE, so that at worst a small hole
// is found at the next start.
func (c *Client) archiveHoled(ctx context.Context) (bool, error) {
	history, err := c.streamInfo(ctx, StreamHistory)
	if err != nil {
		return false, err
	}
	archive, err := c.streamInfo(ctx, StreamArchive)
	if err != nil {
		return false, err
	}
	to := min(archive.State.LastSeq, history.State.LastSeq)
	from := history.State.FirstSeq
	if archive.State.Msgs > 0 {
		from = max(from, archive.State.FirstSeq)
	}
	if history.State.Msgs == 0 || from > to {
		return false, nil
	}
	want, err := c.countAtLeast(ctx, StreamHistory, from, to)
	if err != nil {
		return false, err
	}
	have, err := c.countAtMost(ctx, StreamArchive, from, to)
	if err != nil || have >= want {
		return false, err
	}
	now, err := c.streamInfo(ctx, StreamArchive) // retention may have been at it
	return err == nil && now.State.FirstSeq == archive.State.FirstSeq, err
}

// stateHoled counts the objects that both have the last change of since HISTORY begins. It
// judges only a mirror that has come to the end of a HISTORY that stands still.
func (c *Client) stateHoled(ctx context.Context) (bool, error) {
	before, err := c.streamInfo(ctx, StreamHistory)
	if err != nil || before.State.Msgs == 0 {
		return false, err
	}
	last, err := c.lastSeq(ctx, StreamHistory, schemas.AllObjects)
	if err != nil {
		return false, err
	}
	state, err := c.streamInfo(ctx, StreamState)
	if err != nil || state.State.LastSeq < last {
		return false, err
	}
	want, err := c.objects(ctx)
	if err != nil {
		return false, err
	}
	have, err := c.countFrom(ctx, StreamState, before.State.FirstSeq)
	if err != nil || have >= want {
		return false, err
	}
	after, err := c.streamInfo(ctx, StreamHistory)
	return err == nil && after.State.FirstSeq == before.State.FirstSeq && after.State.LastSeq == before.State.LastSeq, err
}

// objects is how many objects HISTORY has changes of: its subjects, without those of nodes.
// The server knows the number; a consumer of last messages would look for each of them.
func (c *Client) objects(ctx context.Context) (uint64, error) {
	stream, err := c.js.Stream(ctx, StreamHistory)
	if err != nil {
		return 0, fmt.Errorf("bus: stream %s: %w", StreamHistory, explain(err))
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(schemas.AllRoutes))
	if err != nil {
		return 0, fmt.Errorf("bus: stream %s: %w", StreamHistory, explain(err))
	}
	return info.State.NumSubjects - min(info.State.NumSubjects, uint64(len(info.State.Subjects))), nil
}

// countAtLeast is how many changes of objects a stream has between two sequences, both
// included, without those that came while it was counted.
func (c *Client) countAtLeast(ctx context.Context, stream string, from, to uint64) (uint64, error) {
	all, err := c.countFrom(ctx, stream, from)
	if err != nil {
		return 0, err
	}
	behind, err := c.countFrom(ctx, stream, to+1)
	return all - min(all, behind), err
}

// countAtMost is the same, and those that came meanwhile.
func (c *Client) countAtMost(ctx context.Context, stream string, from, to uint64) (uint64, error) {
	behind, err := c.countFrom(ctx, stream, to+1)
	if err != nil {
		return 0, err
	}
	all, err := c.countFrom(ctx, stream, from)
	return all - min(all, behind), err
}

// countFrom is how many changes of objects a consumer would get that begins at a sequence.
func (c *Client) countFrom(ctx context.Context, stream string, from uint64) (uint64, error) {
	cfg := jetstream.ConsumerConfig{
		Name: "count-" + nuid.Next(), FilterSubject: schemas.AllObjects, AckPolicy: jetstream.AckNonePolicy, MaxDeliver: 1,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: scanIdle,
	}
	consumer, err := c.js.CreateOrUpdateConsumer(ctx, stream, cfg)
	if err != nil {
		return 0, fmt.Errorf("bus: count %s: %w", stream, explain(err))
	}
	defer c.deleteConsumer(ctx, stream, cfg.Name)
	return consumer.CachedInfo().NumPending, nil
}
