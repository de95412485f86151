package feed

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rutter-project/rutter/schemas"
)

// historyProgress is how often a reader of the past asks etcd whether it has
// come to the end.
const historyProgress = 50 * time.Millisecond

// ReadChanges calls fn with every batch of revisions from one to another, both
// included, out of etcd's history. ErrTooOld if etcd no longer has them.
func ReadChanges(ctx context.Context, cli *clientv3.Client, from, to int64, fn func(Batch) error) error {
	if from > to {
		return nil
	}
	ctx, cancel := context.WithCancel(streamContext(ctx, fmt.Sprintf("changes-%p", &from)))
	defer cancel()
	responses := cli.Watch(ctx, schemas.Prefix, watchOptions(from)...)
	ticker := time.NewTicker(historyProgress)
	defer ticker.Stop()
	seen := from - 1
	for seen < to {
		select {
		case <-ticker.C:
			if err := cli.RequestProgress(ctx); err != nil {
				return fmt.Errorf("changes after revision %d: %w", seen, err)
			}
		case resp, ok := <-responses:
			if !ok {
				return errors.Join(errors.New("watch of the past closed"), ctx.Err())
			}
			if err := resp.Err(); err != nil {
				return fmt.Errorf("changes after revision %d: %w", seen, tooOld(err))
			}
			b, ok := batchOf(resp, seen)
			if !ok {
				continue
			}
			for n := len(b.Entries); n > 0 && b.Entries[n-1].Rev > to; n-- {
				b.Entries = b.Entries[:n-1]
			}
			seen, b.Rev = b.Rev, min(b.Rev, to)
			if err := fn(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// OldestRevision is the first revision whose changes etcd still has.
func OldestRevision(ctx context.Context, cli *clientv3.Client) (int64, error) {
	ctx, cancel := context.WithCancel(streamContext(ctx, "oldest"))
	defer cancel()
	for resp := range cli.Watch(ctx, schemas.Prefix, clientv3.WithPrefix(), clientv3.WithRev(1), clientv3.WithCreatedNotify()) {
		if resp.CompactRevision > 0 {
			return resp.CompactRevision + 1, nil
		}
		if err := resp.Err(); err != nil {
			return 0, fmt.Errorf("oldest revision: %w", err)
		}
		if !resp.Created || resp.Header.Revision <= 1 {
			return 1, nil
		}
	}
	return 1, ctx.Err()
}
