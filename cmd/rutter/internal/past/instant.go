package past

import (
	"fmt"
	"strconv"
	"strings"
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

const (
	revPrefix = "rev-"
	day       = 24 * time.Hour
)

// ParseInstant reads "-5m" or "5m", "-1d12h", "now", RFC 3339, "rev-N", or what may be a
// mark.
func ParseInstant(text string, now time.Time) (Instant, error) {
	if text == "now" {
		return Instant{Text: text, Relative: true}, nil
	}
	if digits, ok := strings.CutPrefix(text, revPrefix); ok {
		rev, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || rev < 1 || digits[0] == '+' {
			return Instant{}, fmt.Errorf("%q: rev- wants a revision, such as rev-1234", text)
		}
		return Instant{Text: text, Rev: rev}, nil
	}
	if ago, ok := parseAgo(strings.TrimPrefix(text, "-")); ok {
		return Instant{Text: "-" + strings.TrimPrefix(text, "-"), At: now.Add(-ago), Relative: true}, nil
	}
	if schemas.CheckMark(text) == nil {
		return Instant{Text: text, Mark: true}, nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return Instant{}, fmt.Errorf("%q is no instant; want %s", text, Forms)
	}
	if at.After(now) {
		return Instant{}, fmt.Errorf("%q lies in the future", text)
	}
	return Instant{Text: text, At: at}, nil
}

// parseAgo reads a duration, in which days may come first.
func parseAgo(text string) (time.Duration, bool) {
	var total time.Duration
	if head, rest, ok := strings.Cut(text, "d"); ok {
		days, err := strconv.ParseUint(head, 10, 15)
		if err != nil {
			return 0, false
		}
		if total, text = time.Duration(days)*day, rest; text == "" {
			return total, true
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || strings.HasPrefix(text, "+") || total+d < 0 {
		return 0, false
	}
	return total + d, true
}
