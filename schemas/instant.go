package schemas

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Instant is an instant as somebody wrote it, before a log is asked what it means. Clients
// and server read it alike.
type Instant struct {
	Text string
	// Rev is set if a revision was named, Mark if a mark was, else At, unless the present
	// was.
	Rev  int64
	Mark string
	At   time.Time
}

// Present reports that the instant is "now".
func (i Instant) Present() bool { return i.Rev == 0 && i.Mark == "" && i.At.IsZero() }

// ErrNoInstant says that a text has none of the forms of an instant.
var ErrNoInstant = errors.New("no instant")

const (
	day = 24 * time.Hour
	// maxAgo bounds relative instants, so that they can be computed with.
	maxAgo = 100 * 365 * day
)

// ParseInstant reads rev-N, a time of RFC 3339, now, a time ago such as -5m or -1d12h, or
// what may be the name of a mark. Times may lie ahead: who asks the log finds out.
func ParseInstant(text string, now time.Time) (Instant, error) {
	if text == "now" {
		return Instant{Text: text}, nil
	}
	if digits, ok := strings.CutPrefix(text, markPrefix); ok {
		rev, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || rev < 1 || digits[0] == '+' {
			return Instant{}, errors.New("rev- wants a positive revision number, such as rev-1234")
		}
		return Instant{Text: text, Rev: rev}, nil
	}
	if ago, ok := strings.CutPrefix(text, "-"); ok {
		d, err := parseAgo(ago)
		if err != nil {
			return Instant{}, err
		}
		return Instant{Text: text, At: now.Add(-d)}, nil
	}
	if CheckMark(text) == nil {
		return Instant{Text: text, Mark: text}, nil
	}
	at, err := time.Parse(time.RFC3339Nano, strings.ToUpper(text))
	if err != nil || at.Unix() <= 0 {
		return Instant{}, ErrNoInstant
	}
	return Instant{Text: text, At: at.UTC()}, nil
}

// parseAgo reads a duration, in which days may come first.
func parseAgo(text string) (time.Duration, error) {
	var total time.Duration
	head, rest, days := strings.Cut(text, "d")
	if days {
		n, err := strconv.ParseUint(head, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is no number of days", head)
		}
		total, text = time.Duration(n)*day, rest
	}
	if text != "" || !days {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 || strings.HasPrefix(text, "+") || strings.HasPrefix(text, "-") {
			return 0, fmt.Errorf("%q is no duration such as 5m, 1h30m or 2d", text)
		}
		total += d
	}
	if total < 0 || total > maxAgo {
		return 0, fmt.Errorf("a time ago may be up to %d days", maxAgo/day)
	}
	return total, nil
}
