package relay

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// resume is where a session goes on.
type resume struct {
	seq    uint64 // last message of the stream
	rev    int64  // first revision to relay
	skip   int    // messages of that revision that the stream has already
	epoch  string
	resync *gap // not nil if the stream can't be continued
}

// gap is what a resync will have to name.
type gap struct {
	after  int64 // last revision that history has
	reason string
}

// findEnd reads where the stream ends.
func (r *Relay) findEnd(ctx context.Context) (resume, error) {
	if err := r.feed.WaitFor(ctx, 1); err != nil {
		return resume{}, err
	}
	now, err := r.cli.Get(ctx, schemas.Prefix) // linearizable: the revision is etcd's newest
	if err != nil {
		return resume{}, fmt.Errorf("read revision of etcd: %w", err)
	}
	made, err := r.bus.MakeStreams(ctx, now.Header.ClusterId, now.Header.Revision)
	if err != nil {
		return resume{}, err
	}
	head, err := r.bus.Head(ctx, bus.StreamHistory)
	if err != nil {
		return resume{}, err
	}
	checkpoint, err := r.bus.LoadCheckpoint(ctx)
	if err != nil {
		return resume{}, err
	}
	at := resume{seq: head.Seq, epoch: made.Epoch}
	valid := checkpoint.Seq == head.Seq && checkpoint.Epoch == made.Epoch
	if head.Empty {
		if valid {
			at.rev = checkpoint.Rev + 1
		} else {
			at, err = r.resumeEmpty(ctx, at, made, now.Header.Revision)
		}
		if made.Partial && err == nil && at.resync == nil {
			at.resync = &gap{after: at.rev - 1, reason: "the last state of objects was lost"}
		}
		return at, err
	}
	last, err := r.bus.Message(ctx, bus.StreamHistory, head.Seq)
	if err != nil {
		return resume{}, err
	}
	// Read again: while the stream's end was looked up, another relay may have appended
	// what etcd has committed since.
	if now, err = r.cli.Get(ctx, schemas.Prefix); err != nil {
		return resume{}, fmt.Errorf("read revision of etcd: %w", err)
	}
	same, err := r.agrees(ctx, last)
	if err != nil {
		return resume{}, err
	}
	if last.Rev > now.Header.Revision || !same {
		r.log.Warn().Int64("rev", now.Header.Revision).Int64("history", last.Rev).Msg("etcd was set back, making new streams")
		_, err := r.bus.RemakeStreams(ctx, now.Header.ClusterId, now.Header.Revision)
		return resume{}, errors.Join(errors.New("etcd was set back"), err)
	}
	at = resumeAfter(at, last, checkpoint, valid)
	if made.Partial && at.resync == nil {
		at.resync = &gap{after: last.Rev, reason: "the last state of objects was lost"}
	}
	return at, nil
}

// agrees reports whether etcd knows the change that the stream ends with. It
// does not if etcd was restored from a backup and has gone another way since.
func (r *Relay) agrees(ctx context.Context, last schemas.Event) (bool, error) {
	if last.Type != schemas.Added && last.Type != schemas.Modified {
		return true, nil
	}
	resp, err := r.cli.Get(ctx, last.Key.Path(), clientv3.WithRev(last.Rev), clientv3.WithKeysOnly())
	switch {
	case errors.Is(err, rpctypes.ErrCompacted), errors.Is(err, rpctypes.ErrFutureRev):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("read %s at revision %d: %w", last.Key, last.Rev, err)
	default:
		return len(resp.Kvs) == 1 && resp.Kvs[0].ModRevision == last.Rev, nil
	}
}

// resumeAfter decides where to go on after the stream's last message.
func resumeAfter(at resume, last schemas.Event, checkpoint bus.Checkpoint, valid bool) resume {
	switch {
	case last.Type == schemas.Gap:
		at.rev = last.Rev + 1
	case last.Resync != 0:
		at.resync = &gap{after: last.Rev, reason: "a resync was interrupted"}
		return at
	case last.Last():
		at.rev = last.Rev + 1
	default:
		at.rev, at.skip = last.Rev, last.Ord+1
		return at
	}
	if valid {
		at.rev = max(at.rev, checkpoint.Rev+1)
	}
	return at
}

// resumeEmpty decides where to go on when the stream holds no message and no checkpoint
// says how far it went: from the beginning of time, from the end of the mirrors, or from a
// gap. newest is etcd's revision.
func (r *Relay) resumeEmpty(ctx context.Context, at resume, made bus.Streams, newest int64) (resume, error) {
	known, err := r.bus.LastEvent(ctx, bus.StreamArchive)
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		return resume{}, err
	}
	state, err := r.bus.LastEvent(ctx, bus.StreamState)
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		return resume{}, err
	}
	if known.Rev == 0 && state.Rev == 0 {
		at.rev = 1 // a new cluster: all of etcd's past is new to the stream
		return at, nil
	}
	if made.Cut && known.Seq == state.Seq && known.Rev <= newest {
		whole, err := r.endsWith(ctx, known)
		if err != nil {
			return resume{}, err
		}
		if whole {
			r.log.Info().Int64("rev", known.Rev).Msg("the mirrors have what the stream has lost, going on behind it")
			at.rev = known.Rev + 1
			return at, nil
		}
	}
	at.resync = &gap{after: known.Rev, reason: "the stream was lost"}
	return at, nil
}

// endsWith reports that the mirrors lack nothing up to their last event: STATE is what etcd
// was then. If etcd does not know any more, nobody does.
func (r *Relay) endsWith(ctx context.Context, last schemas.Event) (bool, error) {
	if !last.Last() || (last.Resync != 0 && last.Type != schemas.Gap) {
		return false, nil
	}
	_, entries, _, err := feed.ReadState(ctx, r.cli, last.Rev, feed.DefaultConfig().PageSize)
	if errors.Is(err, feed.ErrTooOld) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	held, err := r.held(ctx)
	if err != nil {
		return false, err
	}
	lacks, err := difference(held, entries, last.Rev, last.Epoch)
	return len(lacks) == 0, err
}

// lastWhole is the last revision of which the stream has every message, 0 if a
// resync has begun and not ended.
func (r *Relay) lastWhole(ctx context.Context) (int64, error) {
	last, err := r.bus.LastEvent(ctx, bus.StreamHistory)
	switch {
	case errors.Is(err, bus.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case last.Resync != 0 && last.Type != schemas.Gap:
		return 0, nil
	case !last.Last():
		return last.Rev - 1, nil
	default:
		return last.Rev, nil
	}
}
