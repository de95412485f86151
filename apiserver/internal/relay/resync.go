package relay

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// resync brings the stream's last state to etcd's and closes with an event that
// names the gap. Every message of it is marked, so that a crash is noticed and
// the work repeated.
func (r *Relay) resync(ctx context.Context, at resume) (resume, error) {
	r.metrics.resyncs.Inc()
	r.log.Warn().Int64("rev", at.resync.after).Str("reason", at.resync.reason).Msg("changes are lost to history, resyncing")
	if err := r.bus.WaitMirror(ctx, bus.StreamState); err != nil {
		return resume{}, err
	}
	held, err := r.held(ctx)
	if err != nil {
		return resume{}, err
	}
	rev, entries, _, err := feed.ReadState(ctx, r.cli, 0, feed.DefaultConfig().PageSize)
	if err != nil {
		return resume{}, err
	}
	messages, err := difference(held, entries, rev, at.epoch)
	if err != nil {
		return resume{}, err
	}
	closing, err := closingMessage(*at.resync, rev, at.epoch)
	if err != nil {
		return resume{}, err
	}
	if err := r.append(ctx, at.seq, append(messages, closing)); err != nil {
		return resume{}, err
	}
	if err := r.bus.StateComplete(ctx); err != nil {
		return resume{}, err
	}
	if err := r.bus.AnnounceResync(); err != nil {
		return resume{}, err
	}
	r.log.Info().Int64("rev", rev).Int("messages", len(messages)).Msg("resync closed")
	if r.cfg.Resynced != nil {
		r.cfg.Resynced()
	}
	return resume{seq: at.seq + uint64(len(messages)) + 1, rev: rev + 1, epoch: at.epoch}, nil
}

// held are the last events of objects, as STATE has them.
func (r *Relay) held(ctx context.Context) (map[schemas.Key]schemas.Event, error) {
	held := map[schemas.Key]schemas.Event{}
	err := r.bus.ReadState(ctx, schemas.AllObjects, func(e schemas.Event) error {
		if e.Type != schemas.Gap {
			held[e.Key] = e
		}
		return nil
	})
	return held, err
}

// append stores messages after seq and waits until they are.
func (r *Relay) append(ctx context.Context, seq uint64, messages []message) error {
	window, err := r.bus.OpenWindow(seq, r.cfg.Window, nil)
	if err != nil {
		return err
	}
	defer window.Close()
	for _, m := range messages {
		if err := window.Publish(ctx, m.subject, m.event, r.ttl(m.event)); err != nil {
			return err
		}
	}
	return window.Flush(ctx)
}

// difference is what has to be told to readers who know held, so that they know
// entries, which are etcd's objects at rev. Messages are ordered by revision.
func difference(held map[schemas.Key]schemas.Event, entries []feed.Entry, rev int64, epoch string) ([]message, error) {
	changed := make([]feed.Entry, 0)
	exists := make(map[schemas.Key]bool, len(entries))
	for _, entry := range entries {
		exists[entry.Key] = true
		old, known := held[entry.Key]
		known = known && old.Type != schemas.Deleted
		if known && old.Rev == entry.Rev {
			continue
		}
		entry.Type = feed.Created
		if known {
			entry.Type, entry.Prev, entry.PrevRev = feed.Modified, bareValue(old.Object), old.Rev
		}
		changed = append(changed, entry)
	}
	for key, old := range held {
		if exists[key] || old.Type == schemas.Deleted {
			continue
		}
		changed = append(changed, feed.Entry{
			Rev: rev, Key: key, Type: feed.Deleted, Object: old.Object, Prev: bareValue(old.Object), PrevRev: old.Rev,
		})
	}
	slices.SortFunc(changed, func(a, b feed.Entry) int {
		return cmp.Or(cmp.Compare(a.Rev, b.Rev), cmp.Compare(a.Key.Path(), b.Key.Path()))
	})
	var messages []message
	for i := range changed {
		changed[i].Cnt = 1
		group, err := project(changed[i:i+1], epoch)
		if err != nil {
			return nil, err
		}
		for j := range group {
			group[j].event.Resync = rev
		}
		messages = append(messages, group...)
	}
	return messages, nil
}

// bareValue is an envelope around an object whose header nobody needs.
func bareValue(object []byte) []byte { return append([]byte("{}\n"), object...) }

func closingMessage(g gap, rev int64, epoch string) (message, error) {
	body, err := json.Marshal(map[string]string{"reason": g.reason})
	if err != nil {
		return message{}, fmt.Errorf("encode gap: %w", err)
	}
	return message{subject: schemas.ResyncSubject, event: schemas.Event{
		Rev: rev, Cnt: 1, Type: schemas.Gap, PrevRev: g.after, Resync: rev, Epoch: epoch, Object: body,
	}}, nil
}
