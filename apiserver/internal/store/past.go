package store

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/storage"

	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// errPast is for writes that get here although they should have been refused before.
var errPast = errors.New("the past can't be changed")

// tableOf is what a request reads: the view's table, or that of the past which its
// context names.
func (s *Store) tableOf(ctx context.Context) *view.Table {
	if past := view.PastOf(ctx); past != nil {
		return past.Table(s.cfg.Prefix)
	}
	return s.table
}

// otherRevision refuses an exact revision that is not the one of the past being read.
func otherRevision(rev, past int64) error {
	if rev > past {
		return storage.NewTooLargeResourceVersionError(uint64(rev), uint64(past), 0)
	}
	return apierrors.NewResourceExpired(fmt.Sprintf("this is the past at revision %d, not at %d: put /at/rev-%d in front of the path", past, rev, rev))
}

// Follow returns what tells a watch of the resource about changes after a revision, and
// what to call when it has ended.
func (s *Store) Follow(ctx context.Context, rev int64) (view.Follower, func(), error) {
	past := view.PastOf(ctx)
	if past != nil && past.Replay != nil {
		return past.Replay(ctx, s.cfg.Prefix, rev)
	}
	cursor, err := s.tableOf(ctx).Cursor(rev)
	return cursor, func() {}, err
}

// SnapshotAndFollow returns the state of the resource and what tells about later changes.
func (s *Store) SnapshotAndFollow(ctx context.Context) (view.Snapshot, view.Follower, func(), error) {
	table := s.tableOf(ctx)
	past := view.PastOf(ctx)
	if past == nil || past.Replay == nil {
		snap, cursor := table.SnapshotAndCursor()
		return snap, cursor, func() {}, nil
	}
	snap := table.Snapshot()
	follower, stop, err := past.Replay(ctx, s.cfg.Prefix, snap.Rev)
	return snap, follower, stop, err
}

// Newest is the revision up to which a watcher that is not behind knows everything. In
// the replay of a past only the replay knows.
func (s *Store) Newest(ctx context.Context) int64 {
	if past := view.PastOf(ctx); past != nil && past.Replay != nil {
		return 0
	}
	return s.tableOf(ctx).Rev()
}
