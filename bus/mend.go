package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/rutter-project/rutter/schemas"
)

// Files of a stream may be lost or cut, by a broken disk or a hasty operator. The server
// goes on with what is left, under the old sequence numbers: a mirror never asks for what
// it once had. So whoever makes the streams looks for holes. STATE is made again; ARCHIVE,
// which is all there is of most of the past, names its holes and has what others still hold
// of them in MENDED.

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

// middleLost reports that HISTORY lacks changes that ARCHIVE has, between others. Whoever
// follows it would go over them in silence. Deletions that an older, shorter retention let
// expire are taken for lost too.
func (c *Client) middleLost(ctx context.Context, info *jetstream.StreamInfo) (bool, error) {
	if info.State.NumDeleted == 0 {
		return false, nil
	}
	archive, err := c.existing(ctx, StreamArchive)
	if err != nil || archive == nil {
		return false, err
	}
	from := max(info.State.FirstSeq, archive.State.FirstSeq)
	want, err := c.countAtLeast(ctx, StreamArchive, from, info.State.LastSeq)
	if err != nil {
		return false, err
	}
	have, err := c.countAtMost(ctx, StreamHistory, from, info.State.LastSeq)
	if err != nil || have < want {
		return have < want, err
	}
	// ARCHIVE may have lost as many, elsewhere.
	state, err := c.deleted(ctx, StreamHistory)
	if errors.Is(err, errManyDeleted) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, run := range longest(runs(state.Deleted), maxRuns) {
		if has, err := c.countAtLeast(ctx, StreamArchive, run.from, run.to-1); err != nil || has > 0 {
			return has > 0, err
		}
	}
	return false, nil
}

// maxRuns is how many ranges without a message middleLost looks at.
const maxRuns = 64

// mirrorHoled reports that a mirror that holds nothing but the present lacks messages that
// HISTORY has and that it has taken before.
func (c *Client) mirrorHoled(ctx context.Context, name string) (bool, error) {
	if name != StreamState {
		return false, nil // nodes find out that the last message of their route is another one
	}
	return c.stateHoled(ctx)
}

// mendArchive finds the holes of ARCHIVE that it does not name yet, and saves what others
// still have of them. It returns all, as metadata.
func (c *Client) mendArchive(ctx context.Context, archive *jetstream.StreamInfo) (string, error) {
	known, err := parseHoles(archive.Config.Metadata)
	if err != nil {
		c.log.Warn().Err(err).Msg("holes of the archive are looked for again")
		known = nil
	}
	known, gone, err := c.keptHoles(ctx, known)
	if err != nil {
		return "", err
	}
	found, err := c.findHoles(ctx, inOrder(known, gone))
	if err != nil {
		return "", err
	}
	for _, h := range gone {
		found = append(found, span{h.From, h.To})
	}
	for i := range known {
		if err := c.boundBehind(ctx, &known[i], known); err != nil {
			return "", err
		}
	}
	for _, r := range found {
		holes, err := c.rescue(ctx, r, known)
		if err != nil {
			return "", err
		}
		for _, h := range holes {
			c.log.Warn().Str("stream", StreamArchive).Uint64("from", h.From).Uint64("to", h.To).Int64("after", h.After).Int64("rev", h.Rev).
				Bool("mended", h.mended()).Msg("a stream has lost messages")
		}
		known = append(known, holes...)
	}
	return formatHoles(known, archive.State.FirstSeq)
}

// mendFirst saves what a HISTORY that is to be made anew still has of what ARCHIVE has lost.
func (c *Client) mendFirst(ctx context.Context) error {
	archive, err := c.existing(ctx, StreamArchive)
	if err != nil || archive == nil {
		return err
	}
	if err := c.makePacks(ctx); err != nil {
		return err
	}
	holes, err := c.mendArchive(ctx, archive)
	if err != nil || holes == archive.Config.Metadata[holesKey] {
		return err
	}
	cfg := archive.Config
	cfg.Metadata = maps.Clone(cfg.Metadata)
	cfg.Metadata[holesKey] = holes
	return c.makeStream(ctx, archive, cfg)
}

// keptHoles divides mended holes whose messages MENDED no longer has from the others.
func (c *Client) keptHoles(ctx context.Context, known []hole) (kept, gone []hole, err error) {
	for _, h := range known {
		if h.mended() {
			packs, err := c.openMended(ctx, h)
			if err != nil {
				return nil, nil, err
			}
			if packs.first != h.First || packs.last != h.Last {
				gone = append(gone, h)
				continue
			}
		}
		kept = append(kept, h)
	}
	return kept, gone, nil
}

// findHoles counts what ARCHIVE and its witnesses have, outside of the holes that are known,
// in order.
func (c *Client) findHoles(ctx context.Context, known []hole) ([]span, error) {
	archive, err := c.streamInfo(ctx, StreamArchive)
	if err != nil || archive.State.Msgs == 0 {
		return nil, err
	}
	witnessed, err := c.dense(ctx, span{archive.State.FirstSeq, archive.State.LastSeq + 1})
	if err != nil {
		return nil, err
	}
	var found []span
	for _, w := range witnessed {
		for _, part := range outside(w, known) {
			holes, err := c.divideHoles(ctx, part)
			if err != nil {
				return nil, err
			}
			found = append(found, holes...)
		}
	}
	older, err := c.findOldHoles(ctx, archive.State.FirstSeq, slices.Concat(known, asHoles(found)))
	if err != nil {
		return nil, err
	}
	found = append(found, older...)
	silent, err := c.findJumps(ctx, inOrder(known, asHoles(found)), witnessed)
	if err != nil {
		return nil, err
	}
	found = joined(append(found, silent...))
	now, err := c.streamInfo(ctx, StreamArchive)
	if err == nil && now.State.FirstSeq != archive.State.FirstSeq {
		found = nil // retention has been at it; what is lost is found at the next start
	}
	return found, err
}

// divideHoles are the ranges within one of which ARCHIVE has nothing and HISTORY something.
// Neither stands still: a relay elsewhere may publish, and ARCHIVE may be catching up,
// thousands of messages a second. What comes meanwhile speaks for ARCHIVE, so that at worst
// a small hole is found at the next start.
func (c *Client) divideHoles(ctx context.Context, r span) ([]span, error) {
	want, err := c.countAtLeast(ctx, StreamHistory, r.from, r.to-1)
	if err != nil || want == 0 {
		return nil, err
	}
	have, err := c.countAtMost(ctx, StreamArchive, r.from, r.to-1)
	switch {
	case err != nil || have >= want:
		return nil, err
	case have == 0:
		return []span{r}, nil
	}
	return halves(r, func(half span) ([]span, error) { return c.divideHoles(ctx, half) })
}

// halves looks for spans in both halves of a range, and joins what touches.
func halves(r span, find func(span) ([]span, error)) ([]span, error) {
	middle := r.from + (r.to-r.from)/2
	before, err := find(span{r.from, middle})
	if err != nil {
		return nil, err
	}
	behind, err := find(span{middle, r.to})
	if err != nil {
		return nil, err
	}
	if len(before) > 0 && len(behind) > 0 && before[len(before)-1].to == behind[0].from {
		behind[0].from = before[len(before)-1].from
		before = before[:len(before)-1]
	}
	return append(before, behind...), nil
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
	have, err := c.countFrom(ctx, StreamState, schemas.AllObjects, before.State.FirstSeq)
	if err != nil || have >= want {
		return false, err
	}
	after, err := c.streamInfo(ctx, StreamHistory)
	return err == nil && after.State.FirstSeq == before.State.FirstSeq && after.State.LastSeq == before.State.LastSeq, err
}

// objects is how many objects HISTORY has changes of: its subjects, without those of nodes.
// The server knows the number; a consumer of last messages would look for each of them.
func (c *Client) objects(ctx context.Context) (uint64, error) {
	fail := func(err error) (uint64, error) { return 0, fmt.Errorf("bus: stream %s: %w", StreamHistory, err) }
	answer, err := c.nc.RequestWithContext(ctx, apiCore+".STREAM.INFO."+StreamHistory, []byte(`{"subjects_filter":"`+schemas.AllRoutes+`"}`))
	if err != nil {
		return fail(err)
	}
	var info natsserver.JSApiStreamInfoResponse
	if err := json.Unmarshal(answer.Data, &info); err != nil {
		return fail(err)
	}
	if info.StreamInfo == nil {
		return fail(info.ToError())
	}
	state := info.State
	return uint64(state.NumSubjects - min(state.NumSubjects, len(state.Subjects))), nil
}

// countAtLeast is how many changes of objects a stream has between two sequences, both
// included, without those that came while it was counted.
func (c *Client) countAtLeast(ctx context.Context, stream string, from, to uint64) (uint64, error) {
	all, err := c.countFrom(ctx, stream, schemas.AllObjects, from)
	if err != nil {
		return 0, err
	}
	behind, err := c.countFrom(ctx, stream, schemas.AllObjects, to+1)
	return all - min(all, behind), err
}

// countAtMost is the same, and those that came meanwhile.
func (c *Client) countAtMost(ctx context.Context, stream string, from, to uint64) (uint64, error) {
	behind, err := c.countFrom(ctx, stream, schemas.AllObjects, to+1)
	if err != nil {
		return 0, err
	}
	all, err := c.countFrom(ctx, stream, schemas.AllObjects, from)
	return all - min(all, behind), err
}

// countFrom is how many messages a consumer with a filter would get that begins at a sequence.
func (c *Client) countFrom(ctx context.Context, stream, filter string, from uint64) (uint64, error) {
	cfg := jetstream.ConsumerConfig{
		Name: "count-" + nuid.Next(), FilterSubject: filter, AckPolicy: jetstream.AckNonePolicy, MaxDeliver: 1,
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
