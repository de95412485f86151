package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

func newMark(cfg *standalone.Config) *cobra.Command {
	o := operator{cluster: cfg}
	var at, output string
	var move bool
	c := &cobra.Command{
		Use:   "mark NAME [--at INSTANT]",
		Short: "Give an instant a name",
		Long: `Mark gives an instant a name that stands for its revision wherever an instant is asked for:
rutter diff --from before-upgrade, /at/before-upgrade/ in a path. A name begins with a
letter and has small letters, digits, and - . _ between them.

Marks are kept in the ConfigMap rutter-marks in kube-system: who may write that may set
marks, and rutter log says who has. A mark does not keep its instant from being dropped:
when retention has passed it, it is answered as no longer held.

Exit code 0: set. 2: it could not be done.`,
		Example: `  rutter mark before-upgrade
  rutter mark outage --at 2026-01-02T03:04:05Z
  rutter diff --from before-upgrade -n shop`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runMark(cmd, o, args[0], at, move, output) },
	}
	o.serverFlags(c)
	c.Flags().StringVar(&at, "at", "now", "the instant: "+past.Forms)
	c.Flags().BoolVar(&move, "move", false, "move a mark that is there")
	plainOutput(c, &output)
	c.AddCommand(newMarkList(cfg), newMarkDelete(cfg))
	return c
}

// mark is a mark in JSON and YAML.
type mark struct {
	Name string `json:"name"`
	Rev  int64  `json:"revision"`
	Held bool   `json:"held"`
	// Time is when that was, as long as it is held.
	Time string `json:"time,omitempty"`
}

func runMark(cmd *cobra.Command, o operator, name, at string, move bool, output string) error {
	if err := schemas.CheckMark(name); err != nil {
		return err
	}
	if err := checkPlain(output); err != nil {
		return err
	}
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close()
	found, err := resolve(cmd, s, "--at", at)
	if err != nil {
		return err
	}
	if found, err = s.Resolve(cmd.Context(), found.Text()); err != nil { // when that revision was
		return err
	}
	marks, err := s.Marks(cmd.Context())
	if err != nil {
		return err
	}
	if was, there := marks.Values[name]; there && was != found.Text() && !move {
		return fmt.Errorf("mark %q is there already, at %s; --move moves it", name, was)
	}
	value := schemas.MarkValue(found.Rev)
	if err := setMark(cmd, s, marks, name, &value); err != nil {
		return err
	}
	return writeMarks(cmd.OutOrStdout(), output, []mark{{name, found.Rev, true, pastClock.text(found.Time)}})
}

func setMark(cmd *cobra.Command, s *remote.Server, read remote.Marks, name string, value *string) error {
	err := s.SetMark(cmd.Context(), read, name, value)
	if remote.MarksChanged(err) {
		return fmt.Errorf("mark %q: somebody has set a mark meanwhile; try again", name)
	}
	return err
}

func newMarkList(cfg *standalone.Config) *cobra.Command {
	o := operator{cluster: cfg}
	var output string
	c := &cobra.Command{
		Use:   "list",
		Short: "List the marks",
		Long: `List shows the marks, what they stand for, and whether that is still held.

Exit code 0: all are held. 1: some are not. 2: they could not be read.`,
		Example: "  rutter mark list\n  rutter mark list -o json | jq -r '.[].name'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.ask(output, func(s *remote.Server) error { return listMarks(cmd, s, output) })
		},
	}
	o.serverFlags(c)
	plainOutput(c, &output)
	return c
}

func listMarks(cmd *cobra.Command, s *remote.Server, output string) error {
	read, err := s.Marks(cmd.Context())
	if err != nil {
		return err
	}
	all, lost := []mark{}, false
	for _, name := range slices.Sorted(maps.Keys(read.Values)) {
		m := mark{Name: name}
		if m.Rev, err = schemas.ParseMark(read.Values[name]); err != nil {
			return fmt.Errorf("mark %q: %w", name, err)
		}
		found, err := s.Resolve(cmd.Context(), remote.RevText(m.Rev))
		switch {
		case err == nil:
			m.Held, m.Time = true, pastClock.text(found.Time)
		case apierrors.IsResourceExpired(err), apierrors.IsBadRequest(err): // of an epoch that is gone, perhaps
			lost = true
		default:
			return err
		}
		all = append(all, m)
	}
	if err := writeMarks(cmd.OutOrStdout(), output, all); err != nil {
		return err
	}
	if lost {
		return errFound
	}
	return nil
}

func newMarkDelete(cfg *standalone.Config) *cobra.Command {
	o := operator{cluster: cfg}
	var output string
	c := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a mark",
		Long: `Delete forgets a name; its instant stays as long as it is held.

Exit code 0: deleted. 1: there is no such mark. 2: it could not be done.`,
		Example:           "  rutter mark delete before-upgrade",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completer{cfg}.mark,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.ask(output, func(s *remote.Server) error { return deleteMark(cmd, s, args[0], output) })
		},
	}
	o.serverFlags(c)
	plainOutput(c, &output)
	return c
}

func deleteMark(cmd *cobra.Command, s *remote.Server, name, output string) error {
	marks, err := s.Marks(cmd.Context())
	if err != nil {
		return err
	}
	was, there := marks.Values[name]
	if !there {
		fmt.Fprintf(cmd.ErrOrStderr(), "There is no mark %q.\n", name)
		return errors.Join(errFound, writeNothing(cmd.OutOrStdout(), output))
	}
	if err := setMark(cmd, s, marks, name, nil); err != nil {
		return err
	}
	if output != "table" {
		rev, _ := schemas.ParseMark(was) // 0 if it stood for none
		return writeMarks(cmd.OutOrStdout(), output, []mark{{Name: name, Rev: rev}})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s, which was %s, is deleted.\n", name, was)
	return err
}

func writeMarks(w io.Writer, form string, marks []mark) error {
	switch form {
	case "json":
		return writeJSON(w, marks)
	case "yaml":
		return writeYAML(w, marks)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tREVISION\tTIME")
	for _, m := range marks {
		when := "not held"
		if m.Held {
			when = m.Time
		}
		fmt.Fprintf(table, "%s\t%d\t%s\n", m.Name, m.Rev, when)
	}
	return table.Flush()
}
