package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rutter-project/rutter/schemas"
)

const (
	// headerRoom is what the headers of a message may take of its size.
	headerRoom    = 64 << 10
	fetchAttempts = 5
)

// errNoFetch says that a client can't read what is too large for the bus.
var errNoFetch = errors.New("too large for the bus, and no way to fetch it is configured")

// fit is the event as the bus can carry it: one whose object is too large refers to it
// instead. The revision is published in any case; history does not stop for an object.
func (c *Client) fit(e schemas.Event) schemas.Event {
	if int64(len(e.Object)) <= max(c.nc.MaxPayload()-headerRoom, 0) {
		return e
	}
	referring, err := e.Referring()
	if err != nil {
		c.log.Error().Err(err).Int64("rev", e.Rev).Int("bytes", len(e.Object)).Msg("object too large for the bus, published without it")
		e.Object = nil
		return e
	}
	c.log.Debug().Int64("rev", e.Rev).Int("bytes", len(e.Object)).Msg("object too large for the bus, published as a reference")
	return referring
}

// whole is the event with its object, which is fetched if the event only refers to it.
func (c *Client) whole(ctx context.Context, e schemas.Event) (schemas.Event, error) {
	if e.DataRef == "" || len(e.Object) > 0 {
		return e, nil
	}
	if c.cfg.Fetch == nil {
		return e, fmt.Errorf("%s at revision %d (%s): %w", e.Key, e.Rev, e.DataRef, errNoFetch)
	}
	backoff := minResubscribe
	for attempt := 1; ; attempt++ {
		object, err := c.cfg.Fetch(ctx, e.DataRef)
		if err == nil {
			e.Object = object
			return e, nil
		}
		if attempt == fetchAttempts || ctx.Err() != nil {
			return e, fmt.Errorf("%s at revision %d: fetch %s: %w", e.Key, e.Rev, e.DataRef, err)
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
		}
		backoff = min(2*backoff, maxResubscribe)
	}
}
