package health

import (
	"fmt"
	"strings"
	"time"
)

// State is how a finding turned out.
type State string

// The states. Only Failed makes a check fail.
const (
	OK      State = "ok"
	Warning State = "warning"
	Failed  State = "failed"
	Skipped State = "skipped" // could not be seen from here, or is not wanted
)

// Finding is what one check says.
type Finding struct {
	Check string `json:"check"`
	State State  `json:"state"`
	// Seen is what there is.
	Seen string `json:"seen"`
	// Fix is what to do about it.
	Fix string `json:"fix,omitempty"`
}

// Count tells how many findings are in a state.
func Count(all []Finding, state State) int {
	n := 0
	for _, f := range all {
		if f.State == state {
			n++
		}
	}
	return n
}

func fine(check, format string, args ...any) Finding {
	return Finding{Check: check, State: OK, Seen: fmt.Sprintf(format, args...)}
}

// examples are how many names a finding lists.
const examples = 3

// listed names the first of them, and how many there are.
func listed(names []string) string {
	if len(names) <= examples {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:examples], ", "), len(names)-examples)
}

// plural says "1 object", "2 objects".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// found is fine without names, else in a state with them.
func found(check string, state State, names []string, good, bad, fix string) Finding {
	if len(names) == 0 {
		return fine(check, "%s", good)
	}
	return Finding{Check: check, State: state, Seen: bad + ": " + listed(names), Fix: fix}
}

// Bytes is a number of bytes for people.
func Bytes(n uint64) string {
	value, unit := float64(n), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if value < 1024 {
			break
		}
		value, unit = value/1024, next
	}
	return fmt.Sprintf("%.4g %s", value, unit)
}

const day = 24 * time.Hour
