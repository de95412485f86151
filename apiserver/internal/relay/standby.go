package relay

import (
	"context"
	"time"
)

// standBy watches another relay work, and returns when that one leaves a change
// lying. It costs one look at the stream for a burst of changes, and nothing
// while there are none.
func (r *Relay) standBy(ctx context.Context) error {
	r.log.Info().Int64("rev", r.Position()).Msg("another relay is at work, standing by")
	// Not from now on: what neither has stored yet must not be left to the other.
	stored := r.Position()
	cursor := r.feed.Follow(stored + 1)
	defer cursor.Close()
	for {
		batch, err := cursor.Next(ctx)
		if err != nil {
			return err
		}
		if len(batch.Entries) == 0 || batch.Rev <= stored {
			continue
		}
		select {
		case <-time.After(r.cfg.StandbyDelay):
		case <-ctx.Done():
			return ctx.Err()
		}
		if stored, err = r.lastWhole(ctx); err != nil {
			return err
		}
		if stored < batch.Rev {
			return nil
		}
		r.mu.Lock()
		r.moveTo(max(r.position, stored))
		r.mu.Unlock()
	}
}
