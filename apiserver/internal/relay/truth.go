package relay

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/schemas"
)

// Truth reads from etcd what the stream should hold. It is what bus.Verify
// compares with.
type Truth struct{ cli *clientv3.Client }

// NewTruth makes a reader.
func NewTruth(cli *clientv3.Client) Truth { return Truth{cli: cli} }

// Bounds are the first revision whose changes etcd still has, and the newest.
func (t Truth) Bounds(ctx context.Context) (oldest, newest int64, err error) {
	resp, err := t.cli.Get(ctx, schemas.Prefix)
	if err != nil {
		return 0, 0, fmt.Errorf("read revision of etcd: %w", err)
	}
	oldest, err = feed.OldestRevision(ctx, t.cli)
	return oldest, resp.Header.Revision, err
}

// Changes calls fn with every message that revisions from one to another, both
// included, have in the stream, in order.
func (t Truth) Changes(ctx context.Context, from, to int64, fn func(schemas.Event) error) error {
	return feed.ReadChanges(ctx, t.cli, from, to, func(b feed.Batch) error {
		for entries := b.Entries; len(entries) > 0; {
			n := revision(entries)
			messages, err := project(entries[:n], "")
			if err != nil {
				return err
			}
			for _, m := range messages {
				if err := fn(m.event); err != nil {
					return err
				}
			}
			entries = entries[n:]
		}
		return nil
	})
}

// State calls fn with every object as of rev.
func (t Truth) State(ctx context.Context, rev int64, fn func(schemas.Event) error) error {
	_, entries, _, err := feed.ReadState(ctx, t.cli, rev, feed.DefaultConfig().PageSize)
	if err != nil {
		return err
	}
	for i := range entries {
		if err := fn(schemas.Event{Rev: entries[i].Rev, Key: entries[i].Key, Type: entries[i].Type.EventType(), Object: entries[i].Object}); err != nil {
			return err
		}
	}
	return nil
}
