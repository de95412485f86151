package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/cmd/rutter/internal/delta"
	"github.com/rutter-project/rutter/schemas"
)

// The forms in which events are printed. json is an older name of ndjson.
var eventForms = []string{"table", "ndjson", "json", "cloudevents", "diff"}

func outputFlag(c *cobra.Command, output *string) {
	c.Flags().StringVarP(output, "output", "o", "table", "table, ndjson (or json), cloudevents, or diff")
	complete(c, "output", eventForms)
}

// complete offers values of a flag to the shell.
func complete(c *cobra.Command, flag string, values []string) {
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic("completion of a flag that is not there: " + flag)
	}
}

// eventWriter prints events in the chosen form. before finds the event of the same object
// before another one; only diffs need it.
func eventWriter(w io.Writer, form string, before func(schemas.Event) (schemas.Event, error)) (func(schemas.Event) error, error) {
	switch form {
	case "table":
		return tableWriter(w, liveClock), nil
	case "json", "ndjson":
		encoder := json.NewEncoder(w)
		return func(e schemas.Event) error { return encoder.Encode(e) }, nil
	case "cloudevents":
		return func(e schemas.Event) error {
			text, err := e.CloudEvent()
			if err != nil {
				return err
			}
			_, err = w.Write(append(text, '\n'))
			return err
		}, nil
	case "diff":
		return diffEvents(w, liveClock, before), nil
	default:
		return nil, checkForm(form)
	}
}

// checkForm refuses what eventWriter does not know.
func checkForm(form string) error {
	if slices.Contains(eventForms, form) {
		return nil
	}
	return fmt.Errorf("--output %q: want %s", form, strings.Join(eventForms, ", "))
}

const rowFormat = "%-*s %-9s %-9s %-58s %-32s %-7s %s\n"

// clock is how times are shown: by the watch on the wall for what happens now, whole and
// in UTC for what was.
type clock struct {
	format string
	utc    bool
}

var (
	liveClock = clock{format: "15:04:05.000000"}
	pastClock = clock{format: "2006-01-02T15:04:05.000Z", utc: true}
)

func (c clock) text(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	if c.utc {
		t = t.UTC()
	} else {
		t = t.Local()
	}
	return t.Format(c.format)
}

func tableWriter(w io.Writer, c clock) func(schemas.Event) error {
	first := true
	return func(e schemas.Event) error {
		if first {
			first = false
			if _, err := fmt.Fprintf(w, rowFormat, len(c.format), "TIME", "REVISION", "CHANGE", "OBJECT", "BY", "VERB", "CAUSE"); err != nil {
				return err
			}
		}
		return writeRow(w, c, e)
	}
}

// writeRow prints one event as a line of the table.
func writeRow(w io.Writer, clock clock, e schemas.Event) error {
	if e.Type == schemas.Gap {
		_, err := fmt.Fprintf(w, rowFormat, len(clock.format), "", fmt.Sprint(e.Rev), e.Type, gapText(e), "", "", "")
		return err
	}
	var causes []string
	for _, c := range e.Header.Cause {
		causes = append(causes, fmt.Sprint(c))
	}
	_, err := fmt.Fprintf(w, rowFormat, len(clock.format), clock.text(e.Header.Time), fmt.Sprint(e.Rev), e.Type, objectName(e.Key), actor(e), e.Header.Verb, strings.Join(causes, ","))
	return err
}

// actor is who made a change, with the field manager unless that says the same.
func actor(e schemas.Event) string {
	by := e.Header.User
	if e.Header.Manager != "" && !strings.Contains(by, e.Header.Manager) {
		by += " (" + e.Header.Manager + ")"
	}
	return by
}

// gapText says what a gap has lost, and why.
func gapText(e schemas.Event) string {
	var body struct{ Reason string }
	_ = json.Unmarshal(e.Object, &body) // a gap without a reason is a gap
	return strings.TrimSuffix(fmt.Sprintf("changes after revision %d and before %d are lost: %s", e.PrevRev, e.Rev, body.Reason), ": ")
}

// objectName is the object as kubectl would name it.
func objectName(k schemas.Key) string {
	resource := k.Resource
	if k.Group != "" {
		resource += "." + k.Group
	}
	if k.Namespace == "" {
		return resource + "/" + k.Name
	}
	return k.Namespace + " " + resource + "/" + k.Name
}

// maxKnown bounds how many objects a diffWriter remembers; of others it reads the state
// before from the stream.
const maxKnown = 1000

// diffWriter prints what changed in an object.
type diffWriter struct {
	w      io.Writer
	clock  clock
	before func(schemas.Event) (schemas.Event, error)
	known  map[schemas.Key]schemas.Event // last events, by object
}

func diffEvents(w io.Writer, c clock, before func(schemas.Event) (schemas.Event, error)) func(schemas.Event) error {
	d := &diffWriter{w: w, clock: c, before: before, known: map[schemas.Key]schemas.Event{}}
	return d.write
}

func (d *diffWriter) write(e schemas.Event) error {
	if e.Type == schemas.Gap {
		clear(d.known)
		_, err := fmt.Fprintf(d.w, "%d %s %s\n", e.Rev, e.Type, gapText(e))
		return err
	}
	_, err := fmt.Fprintf(d.w, "%s %d %s %s by %s\n", d.clock.text(e.Header.Time), e.Rev, e.Type, objectName(e.Key), actor(e))
	if err != nil {
		return err
	}
	lines, err := d.lines(e)
	if err != nil {
		return err
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(d.w, "   ", line); err != nil {
			return err
		}
	}
	return nil
}

func (d *diffWriter) lines(e schemas.Event) ([]string, error) {
	if e.Type != schemas.Modified {
		d.remember(e)
		return nil, nil // the line above says it all
	}
	if e.DataRef != "" {
		return []string{"too large for the bus, see " + e.DataRef}, nil
	}
	old, known := d.known[e.Key]
	if !known || old.Rev != e.PrevRev {
		var err error
		old, err = d.before(e)
		if err != nil && !errors.Is(err, bus.ErrNotFound) {
			return nil, err
		}
	}
	d.remember(e)
	if old.Rev != e.PrevRev || len(old.Object) == 0 {
		return []string{fmt.Sprintf("the stream no longer has the state before, revision %d", e.PrevRev)}, nil
	}
	changes, err := delta.Of(old.Object, e.Object)
	if err != nil {
		return nil, fmt.Errorf("%s at revision %d: %w", e.Key, e.Rev, err)
	}
	lines := make([]string, len(changes))
	for i, c := range changes {
		lines[i] = c.String()
	}
	return lines, nil
}

func (d *diffWriter) remember(e schemas.Event) {
	if e.Type == schemas.Deleted {
		delete(d.known, e.Key)
		return
	}
	if len(d.known) >= maxKnown {
		clear(d.known)
	}
	d.known[e.Key] = e
}

// isTerminal reports that somebody looks at what is written.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
