package history

import (
	"errors"
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
type Point = schemas.Instant

// Forms is what an instant may look like, for messages.
const Forms = "rev-N, an RFC 3339 time such as 2026-01-02T03:04:05Z, now, a time ago such as -5m, or the name of a mark"

// ParsePoint reads an instant. What it refuses is an *Error.
func ParsePoint(text string, now time.Time) (Point, error) {
	point, err := schemas.ParseInstant(text, now)
	switch {
	case errors.Is(err, schemas.ErrNoInstant):
		return Point{}, &Error{Kind: Invalid, Instant: text, Reason: "it is none of: " + Forms}
	case err != nil:
		return Point{}, &Error{Kind: Invalid, Instant: text, Reason: err.Error()}
	default:
		return point, nil
	}
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
