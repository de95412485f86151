package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

func newWhy(cfg *standalone.Config) *cobra.Command {
	f := blameFlags{operator: operator{cluster: cfg}}
	c := &cobra.Command{
		Use:   "why RESOURCE[.GROUP]/NAME",
		Short: "Explain an object by the chain of causes that led to it",
		Long: `Why follows the causes that are recorded with every change from the object back to
somebody's request: a pod's node, the ReplicaSet and the Deployment that wanted it, who
asked for those. An object that is gone explains its end too. Steps of the object itself
have a star.

Where no cause was recorded for a new object, its owner's last change stands for it and is
marked "by owner"; where nothing is known, it says "cause unknown". Where changes of the
object are lost, a line says which, and what was found behind them has no author.

Exit code 0: found. 1: nothing is held of the object. 2: it could not be done.`,
		Example: `  rutter why pod/web-5d9c7b-x2x1 -n shop
  rutter why deploy/web -n shop --at -10m
  rutter why node/worker-1 -o json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completer{cfg}.object,
		RunE:              func(cmd *cobra.Command, args []string) error { return runWhy(cmd, f, args[0]) },
	}
	f.flags(c)
	c.Flags().StringVar(&f.at, "at", "now", "the object as it was at this instant: "+past.Forms)
	plainOutput(c, &f.output)
	return c
}

func runWhy(cmd *cobra.Command, f blameFlags, arg string) error {
	s, err := f.open(arg)
	if err != nil {
		return err
	}
	defer s.Close()
	key, at, err := f.find(cmd, s, arg)
	if err != nil {
		return err
	}
	steps, err := past.Why(cmd.Context(), s, key, at.Rev)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(steps, func(s past.Step) bool { return s.Type != schemas.Gap }) {
		fmt.Fprintf(cmd.ErrOrStderr(), "No changes of %s are held up to %s.\n", objectName(key), at.Text())
		for _, s := range steps {
			fmt.Fprintln(cmd.ErrOrStderr(), lostText(s.Event))
		}
		return errors.Join(errFound, writeNothing(cmd.OutOrStdout(), f.output))
	}
	return writeWhy(cmd.OutOrStdout(), f.output, steps)
}

// whyStep is a step in JSON and YAML.
type whyStep struct {
	Revision int64             `json:"revision"`
	Time     time.Time         `json:"time,omitzero"`
	Object   *schemas.Key      `json:"object,omitempty"` // not of a gap
	Change   schemas.EventType `json:"change"`
	What     string            `json:"what"`
	User     string            `json:"user,omitempty"`
	Manager  string            `json:"manager,omitempty"`
	Verb     string            `json:"verb,omitempty"`
	Causes   []int64           `json:"causes,omitempty"`
	ByOwner  bool              `json:"byOwner,omitempty"`
	Missing  []int64           `json:"missingCauses,omitempty"`
	Unknown  bool              `json:"causeUnknown,omitempty"`
	Fields   []string          `json:"fields,omitempty"`
}

func writeWhy(w io.Writer, form string, steps []past.Step) error {
	if form == "table" {
		return writeWhyTable(w, steps)
	}
	out := make([]whyStep, len(steps))
	for i, s := range steps {
		out[i] = whyStep{
			Revision: s.Rev, Time: s.Header.Time.UTC(), Change: s.Type, What: s.Note,
			User: s.Header.User, Manager: s.Header.Manager, Verb: s.Header.Verb,
			Causes: s.Cause, ByOwner: s.ByOwner, Missing: s.Missing, Unknown: s.Unknown, Fields: s.Changes,
		}
		if s.Type != schemas.Gap {
			out[i].Object = &s.Key
		}
	}
	if form == "yaml" {
		return writeYAML(w, out)
	}
	return writeJSON(w, out)
}

// writeWhyTable prints a step on a line, and below it what it changed.
func writeWhyTable(w io.Writer, steps []past.Step) error {
	for _, s := range steps {
		mark := " "
		if s.Asked {
			mark = "*"
		}
		if s.Type == schemas.Gap {
			if _, err := fmt.Fprintf(w, "  %-8d %s\n", s.Rev, s.Note); err != nil {
				return err
			}
			continue
		}
		_, err := fmt.Fprintf(w, "%s %-8d %s  %s: %s\n    by %s%s\n", mark, s.Rev, pastClock.text(s.Header.Time), objectName(s.Key), s.Note,
			cmp.Or(actor(s.Event), "somebody unknown"), because(s))
		if err != nil {
			return err
		}
		for _, line := range s.Changes {
			if _, err := fmt.Fprintln(w, "    "+line); err != nil {
				return err
			}
		}
	}
	return nil
}

// because names a step's causes.
func because(s past.Step) string {
	var parts []string
	if len(s.Cause) > 0 {
		text := "because of " + revisions(s.Cause)
		if s.ByOwner {
			text += " (by owner, no cause was recorded)"
		}
		parts = append(parts, text)
	}
	if len(s.Missing) > 0 {
		parts = append(parts, "because of "+revisions(s.Missing)+", not held or not yours to see")
	}
	if s.Unknown {
		parts = append(parts, "cause unknown")
	}
	if len(parts) == 0 {
		return ""
	}
	return ", " + strings.Join(parts, "; ")
}

func revisions(revs []int64) string {
	parts := make([]string, len(revs))
	for i, rev := range revs {
		parts[i] = fmt.Sprint(rev)
	}
	return strings.Join(parts, ", ")
}
