package bus

import (
	"context"

	"github.com/rutter-project/rutter/schemas"
)

// Before is the object's last event in ARCHIVE before e. ErrNotFound if there is none,
// or none any more.
func (c *Client) Before(ctx context.Context, e schemas.Event) (schemas.Event, error) {
	var before schemas.Event
	err := c.scan(ctx, scan{stream: StreamArchive, filter: e.Key.Subject()}, func(have schemas.Event) error {
		if have.Seq >= e.Seq {
			return errStop
		}
		before = have
		return nil
	})
	if err == nil && before.Seq == 0 {
		err = ErrNotFound
	}
	return before, err
}
