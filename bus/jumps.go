package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rutter-project/rutter/schemas"
)

// What HISTORY and PACKS have lost too shows in ARCHIVE alone: sequences are those of
// HISTORY, where nothing is left out, and each message says which of its revision it is.

const (
	// minJump is the least number of sequences, one after the other, that are looked at:
	// most single ones are messages to nodes' routes, which ARCHIVE never has.
	minJump = 2
	// maxJumps is how many are looked at, the longest first.
	maxJumps = 1024
	// maxDeleted is of how many sequences without a message the server is asked for a list. It
	// takes half a microsecond and 150 bytes for each, at every start. In an archive with more
	// messages to nodes than that, what no other stream knows of is not looked for.
	maxDeleted = 1 << 18
)

// dense are the parts of a range of which HISTORY has every message.
func (c *Client) dense(ctx context.Context, r span) ([]span, error) {
	state, err := c.deleted(ctx, StreamHistory)
	if errors.Is(err, errManyDeleted) {
		return nil, nil
	}
	if err != nil || state.Msgs == 0 {
		return nil, err
	}
	r = span{max(r.from, state.FirstSeq), min(r.to, state.LastSeq+1)}
	return outside(r, asHoles(runs(state.Deleted))), nil
}

var errManyDeleted = errors.New("too many sequences have no message to list them")

// deleted is the state of a stream with the sequences between its ends that it does not have.
// errManyDeleted if those are more than maxDeleted.
func (c *Client) deleted(ctx context.Context, name string) (jetstream.StreamState, error) {
	stream, err := c.js.Stream(ctx, name)
	if err != nil {
		return jetstream.StreamState{}, fmt.Errorf("bus: stream %s: %w", name, explain(err))
	}
	if state := stream.CachedInfo().State; state.NumDeleted > maxDeleted {
		return jetstream.StreamState{}, fmt.Errorf("bus: stream %s: %w: %d", name, errManyDeleted, state.NumDeleted)
	}
	info, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return jetstream.StreamState{}, fmt.Errorf("bus: stream %s: %w", name, explain(err))
	}
	return info.State, nil
}

// findJumps are the ranges without a message in ARCHIVE that must have had some, outside of
// the holes that are known and of what HISTORY was asked about. Both are in order.
func (c *Client) findJumps(ctx context.Context, known []hole, witnessed []span) ([]span, error) {
	state, err := c.deleted(ctx, StreamArchive)
	if errors.Is(err, errManyDeleted) {
		c.log.Debug().Err(err).Msg("holes of the archive are looked for by what other streams have")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	settled := inOrder(known, asHoles(witnessed))
	var found []span
	for _, run := range longest(runs(state.Deleted), maxJumps) {
		parts := slices.DeleteFunc(outside(run, settled), func(s span) bool { return s.to-s.from < minJump })
		if len(parts) == 0 || run.to > state.LastSeq {
			continue
		}
		before, behind, err := c.around(ctx, run)
		if errors.Is(err, ErrNotFound) || before.Epoch != behind.Epoch {
			continue // retention has been at it, or HISTORY was made anew and begins higher
		}
		if err != nil {
			return nil, err
		}
		found = append(found, slices.DeleteFunc(parts, func(part span) bool {
			whole := part.from != run.from || before.Last()
			return part.to == run.to && whole && !lostBefore(behind, part.from)
		})...)
	}
	return found, nil
}

// around are the messages on both sides of a range that ARCHIVE has nothing of.
func (c *Client) around(ctx context.Context, r span) (before, behind schemas.Event, err error) {
	if before, err = c.Message(ctx, StreamArchive, r.from-1); err != nil {
		return before, behind, err
	}
	behind, err = c.Message(ctx, StreamArchive, r.to)
	return before, behind, err
}

// lostBefore reports that between a sequence and a message that ARCHIVE has, with nothing of
// its own between them, HISTORY had a message of another revision. The last message of every
// revision is one that ARCHIVE should have.
func lostBefore(behind schemas.Event, from uint64) bool {
	return behind.Seq-min(behind.Seq, uint64(behind.Ord)) > from
}

// runs are the ranges of sequences that follow each other. The sequences are in order.
func runs(sequences []uint64) []span {
	var all []span
	for _, seq := range sequences {
		if n := len(all); n > 0 && all[n-1].to == seq {
			all[n-1].to++
			continue
		}
		all = append(all, span{seq, seq + 1})
	}
	return all
}

// longest are those of a bounded number that are looked at.
func longest(all []span, limit int) []span {
	all = slices.DeleteFunc(all, func(s span) bool { return s.to-s.from < minJump })
	slices.SortStableFunc(all, func(a, b span) int { return cmp.Compare(b.to-b.from, a.to-a.from) })
	return all[:min(len(all), limit)]
}
