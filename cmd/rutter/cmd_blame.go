package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

// blameFlags say which state of an object is explained.
type blameFlags struct {
	operator
	at     string
	output string
}

var plainForms = []string{"table", "json", "yaml"}

func newBlame(cfg *standalone.Config) *cobra.Command {
	f := blameFlags{operator: operator{cluster: cfg}}
	c := &cobra.Command{
		Use:   "blame RESOURCE[.GROUP]/NAME",
		Short: "Say who last set each field of an object",
		Long: `Blame lists the fields of an object with the change that gave each its value: revision,
time, user and field manager. A field that is older than all changes that are held has a
"before" in front of the oldest of them; one that a change set which is lost, or the next
one behind it, has "up to" in front of that. Of an object that is gone, the last state is
explained. The values of Secrets are not in the log, so their fields are not listed.

Exit code 0: found. 1: nothing is held of the object. 2: it could not be done.`,
		Example: `  rutter blame deploy/web -n shop
  rutter blame deploy/web -n shop --at -1h | grep image
  rutter blame cm/settings -o json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completer{cfg}.object,
		RunE:              func(cmd *cobra.Command, args []string) error { return runBlame(cmd, f, args[0]) },
	}
	f.flags(c)
	c.Flags().StringVar(&f.at, "at", "now", "the object as it was at this instant: "+past.Forms)
	plainOutput(c, &f.output)
	return c
}

func plainOutput(c *cobra.Command, output *string) {
	c.Flags().StringVarP(output, "output", "o", "table", strings.Join(plainForms, ", "))
	complete(c, "output", plainForms)
}

func checkPlain(output string) error {
	if !slices.Contains(plainForms, output) {
		return fmt.Errorf("--output %q: want %s", output, strings.Join(plainForms, ", "))
	}
	return nil
}

// open connects, once the arguments that need no server are right.
func (f blameFlags) open(arg string) (*remote.Server, error) {
	if _, _, err := splitObject(arg); err != nil {
		return nil, err
	}
	if err := checkPlain(f.output); err != nil {
		return nil, err
	}
	return f.connect()
}

// find resolves the object and the instant.
func (f blameFlags) find(cmd *cobra.Command, s *remote.Server, arg string) (schemas.Key, remote.Instant, error) {
	_, key, err := f.object(s, arg)
	if err != nil {
		return key, remote.Instant{}, err
	}
	at, err := resolve(cmd, s, "--at", f.at)
	return key, at, err
}

func runBlame(cmd *cobra.Command, f blameFlags, arg string) error {
	s, err := f.open(arg)
	if err != nil {
		return err
	}
	defer s.Close()
	key, at, err := f.find(cmd, s, arg)
	if err != nil {
		return err
	}
	events, err := s.Of(cmd.Context(), key, at.Rev)
	if err != nil {
		return err
	}
	lost, last := gapsIn(events)
	if last == nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "No changes of %s are held up to %s.\n", objectName(key), at.Text())
		tellLost(cmd, lost)
		return errors.Join(errFound, writeNothing(cmd.OutOrStdout(), f.output))
	}
	tellLost(cmd, lost)
	if last.Resync != 0 && last.Type == schemas.Deleted {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s is gone since; its last state is lost, and this is the last one held.\n", objectName(key))
	}
	var base []byte
	if first := events[0]; first.Type != schemas.Gap && first.PrevRev > 0 && !sealed(key) {
		before, err := s.Before(cmd.Context(), first)
		if err != nil {
			return err
		}
		base = before.Object
	}
	origins, err := past.Blame(base, events)
	if err != nil {
		return err
	}
	return writeBlame(cmd.OutOrStdout(), f.output, origins)
}

// gapsIn are the gaps among events, and the last event that is none, nil without one.
func gapsIn(events []schemas.Event) (gaps []schemas.Event, last *schemas.Event) {
	for i, e := range events {
		if e.Type == schemas.Gap {
			gaps = append(gaps, e)
		} else {
			last = &events[i]
		}
	}
	return gaps, last
}

// tellLost names gaps beside what is printed.
func tellLost(cmd *cobra.Command, gaps []schemas.Event) {
	for _, g := range gaps {
		fmt.Fprintln(cmd.ErrOrStderr(), lostText(g))
	}
}

func lostText(gap schemas.Event) string {
	text := gapText(gap)
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// sealed objects are in the log without what they hold.
func sealed(key schemas.Key) bool { return key.Group == "" && key.Resource == "secrets" }

// blameRow is a field in JSON and YAML.
type blameRow struct {
	Field    string    `json:"field"`
	Value    string    `json:"value"`
	Revision int64     `json:"revision"`
	Known    bool      `json:"known"`
	Lost     bool      `json:"lost,omitempty"` // it, or a change before it that is lost
	Time     time.Time `json:"time,omitzero"`
	User     string    `json:"user,omitempty"`
	Manager  string    `json:"manager,omitempty"`
}

func writeBlame(w io.Writer, form string, origins []past.Origin) error {
	rows := make([]blameRow, len(origins))
	for i, o := range origins {
		rows[i] = blameRow{Field: o.Path, Value: o.Value, Revision: o.By.Rev, Known: o.Known, Lost: o.Lost, Time: o.By.Header.Time.UTC()}
		if o.Known {
			rows[i].User, rows[i].Manager = o.By.Header.User, o.By.Header.Manager
		}
	}
	switch form {
	case "json":
		return writeJSON(w, rows)
	case "yaml":
		return writeYAML(w, rows)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "REVISION\tTIME\tUSER\tMANAGER\tFIELD\tVALUE")
	for _, r := range rows {
		revision := fmt.Sprint(r.Revision)
		switch {
		case r.Lost:
			revision = "up to " + revision
		case !r.Known:
			revision = "before " + revision
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", revision, pastClock.text(r.Time), r.User, r.Manager, r.Field, shorten(r.Value))
	}
	return table.Flush()
}

// maxCell keeps a long value from breaking a table; JSON has it whole.
const maxCell = 80

func shorten(value string) string {
	runes := []rune(value)
	if len(runes) <= maxCell {
		return value
	}
	return string(runes[:maxCell-1]) + "…"
}
