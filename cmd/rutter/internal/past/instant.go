package past

import (
	"errors"
	"fmt"
	"time"

	"github.com/rutter-project/rutter/schemas"
)

// Forms is what an instant may look like, for messages.
const Forms = "a time ago such as -5m, an RFC 3339 time such as 2026-01-02T03:04:05Z, now, rev-N, or a mark"

// Instant is an instant as somebody wrote it. Text is the form that the server reads.
type Instant struct {
	Text string
	// Rev is set if a revision was named, At if a time was; neither is of "now".
	Rev int64
	At  time.Time
	// Mark tells that it can only be the name of a mark.
	Mark bool
	// Relative instants move with the clock.
	Relative bool
}

// ParseInstant reads what schemas.ParseInstant does, and "5m" as "-5m". Times may lie ahead:
// the server, whose clock counts, says so.
func ParseInstant(text string, now time.Time) (Instant, error) {
	asked := text
	if text != "" && text[0] >= '0' && text[0] <= '9' {
		if _, err := schemas.ParseInstant("-"+text, now); err == nil {
			asked = "-" + text
		}
	}
	found, err := schemas.ParseInstant(asked, now)
	switch {
	case errors.Is(err, schemas.ErrNoInstant):
		return Instant{}, fmt.Errorf("%q is no instant; want %s", text, Forms)
	case err != nil:
		return Instant{}, fmt.Errorf("%q: %w", text, err)
	}
	return Instant{Text: asked, Rev: found.Rev, At: found.At, Mark: found.Mark != "", Relative: asked[0] == '-' || found.Present()}, nil
}
