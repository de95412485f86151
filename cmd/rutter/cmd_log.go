package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

// logFlags say which changes of an object are listed, and how.
type logFlags struct {
	operator
	since, until string
	tree, diff   bool
	output       string
}

func newLog(cfg *standalone.Config) *cobra.Command {
	f := logFlags{operator: operator{cluster: cfg}}
	c := &cobra.Command{
		Use:   "log RESOURCE[.GROUP]/NAME",
		Short: "List the changes of one object",
		Long: `Log lists every change of one object that is held, oldest first: when, at which
revision, by whom, and because of which revisions. Objects that were deleted are found as
well. With --tree it lists what the object owns too, by owner references.

Exit code 0: found. 1: nothing is held of the object. 2: it could not be done.`,
		Example: `  rutter log deploy/web -n shop
  rutter log deploy/web -n shop --tree --since -1h    # with ReplicaSets and pods, deleted ones included
  rutter log node/worker-1 --diff                     # what each change changed
  rutter log deploy/web -o ndjson | jq .header.user`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completer{cfg}.object,
		RunE:              func(cmd *cobra.Command, args []string) error { return runLog(cmd, f, args[0]) },
	}
	f.flags(c)
	c.Flags().StringVar(&f.since, "since", "", "only changes after this instant: "+past.Forms)
	c.Flags().StringVar(&f.until, "until", "", "only changes up to this instant (default: now)")
	c.Flags().BoolVar(&f.tree, "tree", false, "with what the object owns")
	c.Flags().BoolVar(&f.diff, "diff", false, "show what each change changed (the same as -o diff)")
	outputFlag(c, &f.output)
	return c
}

func runLog(cmd *cobra.Command, f logFlags, arg string) error {
	if f.diff {
		f.output = "diff"
	}
	if _, _, err := splitObject(arg); err != nil {
		return err
	}
	if _, err := eventWriter(io.Discard, f.output, nil); err != nil {
		return err
	}
	s, err := f.connect()
	if err != nil {
		return err
	}
	defer s.Close()
	_, key, err := f.object(s, arg)
	if err != nil {
		return err
	}
	q, err := f.query(cmd, s, key)
	if err != nil {
		return err
	}
	write, shown := f.writer(cmd, s)
	if f.tree {
		err = logTree(cmd.Context(), s, q, key, write)
	} else {
		err = s.Events(cmd.Context(), q, write)
	}
	if err == nil && *shown == 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "No changes of %s are held.\n", objectName(key))
		return errFound
	}
	return err
}

func (f logFlags) query(cmd *cobra.Command, s *remote.Server, key schemas.Key) (remote.Query, error) {
	q := remote.QueryOf(key)
	if f.since != "" {
		at, err := resolve(cmd, s, "--since", f.since)
		switch {
		case apierrors.IsResourceExpired(err) && remote.Lost(err): // the server tells the gap first
			fmt.Fprintf(cmd.ErrOrStderr(), "--since %s lies in a gap; beginning behind it\n", f.since)
			from, err := past.ParseInstant(f.since, time.Now())
			if err != nil {
				return q, err
			}
			q.Since = from.Text
		case apierrors.IsResourceExpired(err):
			fmt.Fprintf(cmd.ErrOrStderr(), "--since %s is before everything that is held; beginning with the oldest\n", f.since)
		case err != nil:
			return q, err
		case f.since == at.Text():
			q.Since = at.Text()
		default: // a time begins behind the state at that time
			q.Since = at.Time.UTC().Format(time.RFC3339Nano)
		}
	}
	if f.until != "" {
		at, err := resolve(cmd, s, "--until", f.until)
		if err != nil {
			return q, err
		}
		q.Until = at.Text()
	}
	return q, nil
}

// writer prints events and counts those that are of an object.
func (f logFlags) writer(cmd *cobra.Command, s *remote.Server) (write func(schemas.Event) error, shown *int) {
	before := beforeOf(cmd.Context(), s)
	var print func(schemas.Event) error
	switch f.output {
	case "table":
		print = tableWriter(cmd.OutOrStdout(), pastClock)
	case "diff":
		print = diffEvents(cmd.OutOrStdout(), pastClock, before)
	default:
		print, _ = eventWriter(cmd.OutOrStdout(), f.output, before) // was made once before
	}
	shown = new(int)
	return func(e schemas.Event) error {
		if e.Type != schemas.Gap {
			*shown++
		}
		return print(e)
	}, shown
}

// beforeOf finds the event of the same object before another one, as diffs want it.
func beforeOf(ctx context.Context, s *remote.Server) func(schemas.Event) (schemas.Event, error) {
	return func(e schemas.Event) (schemas.Event, error) {
		old, err := s.Before(ctx, e)
		if err == nil && old.Rev == 0 {
			err = bus.ErrNotFound
		}
		return old, err
	}
}

// logTree lists the events of an object and of all it owns. Owned objects are found by a
// first reading, since one may be adopted after it was made.
func logTree(ctx context.Context, s *remote.Server, q remote.Query, key schemas.Key, write func(schemas.Event) error) error {
	whole := remote.Query{Until: q.Until}
	if key.Namespace != "" {
		whole.Namespace = &key.Namespace
	}
	family := past.Family{}
	err := s.Events(ctx, remote.QueryOf(key), func(e schemas.Event) error {
		family.Add(e.Object)
		return nil
	})
	if err != nil {
		return err
	}
	if len(family) == 0 {
		return nil
	}
	err = s.Events(ctx, whole, func(e schemas.Event) error {
		family.Adopt(e.Object)
		return nil
	})
	if err != nil {
		return err
	}
	whole.Since = q.Since
	return s.Events(ctx, whole, func(e schemas.Event) error {
		if e.Type == schemas.Gap || family.Has(e.Object) {
			return write(e)
		}
		return nil
	})
}
