package history

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rutter-project/rutter/schemas"
)

// Instant is a place in the log: a revision, and when it was.
type Instant struct {
	Rev  int64     `json:"revision"`
	Time time.Time `json:"time"`
}

// String is the form for people.
func (i Instant) String() string {
	return fmt.Sprintf("rev-%d (%s)", i.Rev, i.Time.UTC().Format(time.RFC3339Nano))
}

// Point is an instant as somebody wrote it, before the log is asked.
type Point struct {
	Text string
	// Rev is set if a revision was named, Mark if a mark was, else At, unless the present
	// was.
	Rev  int64
	Mark string
	At   time.Time
}

// Present reports that the point is "now".
func (p Point) Present() bool { return p.Rev == 0 && p.Mark == "" && p.At.IsZero() }

const (
	revisionPrefix = "rev-"
	day            = 24 * time.Hour
	// maxAgo bounds relative instants, so that they can be computed with.
	maxAgo = 100 * 365 * day
)

// Forms is what an instant may look like, for messages.
const Forms = "rev-N, an RFC 3339 time such as 2026-01-02T03:04:05Z, now, a time ago such as -5m, or the name of a mark"

// ParsePoint reads an instant: rev-N, RFC 3339, now, a duration ago ("-5m", "-1d12h"), or
// what may be the name of a mark.
func ParsePoint(text string, now time.Time) (Point, error) {
	bad := func(why string) (Point, error) {
		return Point{}, &Error{Kind: Invalid, Instant: text, Reason: why}
	}
	if text == "now" {
		return Point{Text: text}, nil
	}
	if digits, ok := strings.CutPrefix(text, revisionPrefix); ok {
		rev, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || rev < 1 || digits[0] == '+' {
			return bad("rev- wants a positive revision number, such as rev-1234")
		}
		return Point{Text: text, Rev: rev}, nil
	}
	if ago, ok := strings.CutPrefix(text, "-"); ok {
		d, err := parseAgo(ago)
		if err != nil {
			return bad(err.Error())
		}
		return Point{Text: text, At: now.Add(-d)}, nil
	}
	if schemas.CheckMark(text) == nil {
		return Point{Text: text, Mark: text}, nil
	}
	at, err := time.Parse(time.RFC3339Nano, strings.ToUpper(text))
	if err != nil || at.Unix() <= 0 {
		return bad("it is none of: " + Forms)
	}
	return Point{Text: text, At: at.UTC()}, nil
}

// parseAgo reads a duration, in which days may come first.
func parseAgo(text string) (time.Duration, error) {
	var total time.Duration
	if head, rest, ok := strings.Cut(text, "d"); ok {
		days, err := strconv.ParseUint(head, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is no number of days", head)
		}
		total, text = time.Duration(days)*day, rest
	}
	if text != "" {
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

// Span is what a path names: an instant, or the time from one to another at a speed.
type Span struct {
	From Point
	// To is set if the span is played, with Speed: how much faster than it was, 0 for as
	// fast as possible.
	To    *Point
	Speed float64
}

// DefaultSpeed plays in real time.
const DefaultSpeed = 1

// ParseSpan reads "<instant>" or "<from>..<to>", the latter with ",speed=<n>" behind it
// if need be.
func ParseSpan(text string, now time.Time) (Span, error) {
	span := Span{Speed: DefaultSpeed}
	text, option, sped := strings.Cut(text, ",")
	from, to, played := strings.Cut(text, "..")
	var err error
	if span.From, err = ParsePoint(from, now); err != nil {
		return Span{}, err
	}
	if played {
		end, err := ParsePoint(to, now)
		if err != nil {
			return Span{}, err
		}
		span.To = &end
	}
	if sped {
		value, ok := strings.CutPrefix(option, "speed=")
		if !ok || !played {
			return Span{}, &Error{Kind: Invalid, Instant: text + "," + option, Reason: "only <from>..<to>,speed=<n> may follow a comma"}
		}
		span.Speed, err = ParseSpeed(value)
	}
	return span, err
}

// maxSpeed is so fast that it is a mistake; max is faster.
const maxSpeed = 1e6

// ParseSpeed reads how fast a span is played: a positive number or "max".
func ParseSpeed(text string) (float64, error) {
	if text == "max" {
		return 0, nil
	}
	speed, err := strconv.ParseFloat(text, 64)
	if err != nil || !(speed > 0) || speed > maxSpeed {
		return 0, &Error{Kind: Invalid, Instant: text, Reason: "speed wants a number above 0 and up to 1000000, or max"}
	}
	return speed, nil
}
