package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Checkpoint says that, when HISTORY ended with sequence Seq, everything up to
// revision Rev was in it. The relay keeps it for the time when HISTORY holds no
// message from which that could be read.
type Checkpoint struct {
	Seq   uint64 `json:"seq"`
	Rev   int64  `json:"rev"`
	Epoch string `json:"epoch"`
}

// SaveCheckpoint replaces the checkpoint.
func (c *Client) SaveCheckpoint(ctx context.Context, p Checkpoint) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("bus: checkpoint: %w", err)
	}
	if _, err := c.js.Publish(ctx, checkpointSubject, data); err != nil {
		return fmt.Errorf("bus: checkpoint: %w", explain(err))
	}
	return nil
}

// LoadCheckpoint reads the checkpoint, the zero one if there is none.
func (c *Client) LoadCheckpoint(ctx context.Context) (Checkpoint, error) {
	stream, err := c.js.Stream(ctx, StreamRelay)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("bus: checkpoint: %w", explain(err))
	}
	msg, err := stream.GetLastMsgForSubject(ctx, checkpointSubject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Checkpoint{}, nil
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("bus: checkpoint: %w", explain(err))
	}
	var p Checkpoint
	if err := json.Unmarshal(msg.Data, &p); err != nil {
		return Checkpoint{}, fmt.Errorf("bus: checkpoint: %w", err)
	}
	return p, nil
}

// AnnounceResync tells everybody who follows live subjects that a gap was closed
// and that they should list again.
func (c *Client) AnnounceResync() error {
	if err := c.nc.Publish(LiveResync, nil); err != nil {
		return fmt.Errorf("bus: announce resync: %w", err)
	}
	return nil
}

// TombstoneTTL is how long deletions must stay in STATE.
func (c *Client) TombstoneTTL() time.Duration { return c.cfg.Streams.TombstoneTTL() }
