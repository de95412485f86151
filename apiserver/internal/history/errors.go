package history

import (
	"fmt"
	"strings"
)

// Kind says why an instant is refused.
type Kind uint8

// The kinds of refusal.
const (
	Invalid     Kind = iota + 1 // it can't be read
	Future                      // it has not come yet
	Expired                     // it is before the oldest held
	InGap                       // changes around it are lost
	Unavailable                 // the log can't be read now
)

// Gap is a part of the past that is lost: what changed after From and before To.
type Gap struct {
	From   Instant `json:"from"`
	To     Instant `json:"to"`
	Reason string  `json:"reason"`
	// behind is the first change that is held behind a gap that no resync closed, else 0.
	behind int64
}

// Error refuses an instant, and says what can be had.
type Error struct {
	Kind    Kind
	Instant string // as it was asked for
	Reason  string // what is wrong with it, for Invalid and Unavailable
	// Oldest and Newest are held; both zero for Invalid, and if nothing is held.
	Oldest, Newest Instant
	Gap            *Gap // for InGap
	Err            error
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "instant %q ", e.Instant)
	switch e.Kind {
	case Invalid:
		fmt.Fprintf(&b, "is not valid: %s", e.Reason)
	case Future:
		b.WriteString("has not come yet")
	case Expired:
		b.WriteString("is no longer held")
	case InGap:
		fmt.Fprintf(&b, "lies in a gap: changes after %s and before %s are lost (%s)", e.Gap.From, e.Gap.To, e.Gap.Reason)
	case Unavailable:
		fmt.Fprintf(&b, "can't be read now: %s", e.Reason)
	default:
		b.WriteString("can't be answered")
	}
	if e.Newest.Rev != 0 {
		fmt.Fprintf(&b, "; the oldest instant held is %s, the newest %s", e.Oldest, e.Newest)
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }
