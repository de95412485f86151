package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

// tapFlags choose what is shown, from when, and how.
type tapFlags struct {
	operator
	types   []string
	user    string
	manager string
	since   string
	output  string
	limit   int
	timeout time.Duration
}

func newTap(cfg *standalone.Config) *cobra.Command {
	f := tapFlags{operator: operator{cluster: cfg}}
	c := &cobra.Command{
		Use:   "tap [RESOURCE[.GROUP][/NAME]]",
		Short: "Show changes as they happen",
		Long: `Tap shows every change of the cluster as it happens: what changed, at which revision,
by whom, and because of which revision: what you may watch, from any machine. Gaps, where
changes are lost to the stream, are shown whatever the filters. When the server goes away,
tap waits for it and goes on behind the last change.

Exit code 0: interrupted, or --limit reached. 1: --timeout ended first. 2: it could not be
done.`,
		Example: `  rutter tap                                   # everything
  rutter tap pods -n shop                      # pods of a namespace
  rutter tap deployments.apps/web -n shop -o diff
  rutter tap --type DELETED --user jane        # what jane removes
  rutter tap --since 10m -o ndjson             # the last ten minutes, then live, one JSON object a line
  rutter tap pods --limit 1 --timeout 30s      # wait for a change`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completer{cfg}.object,
		RunE:              func(cmd *cobra.Command, args []string) error { return runTap(cmd, f, args) },
	}
	f.serverFlags(c)
	c.Flags().StringVarP(&f.namespace, "namespace", "n", "", "only this namespace")
	c.Flags().StringSliceVar(&f.types, "type", nil, "only changes of these types: ADDED, MODIFIED, DELETED")
	c.Flags().StringVar(&f.user, "user", "", "only changes by this user")
	c.Flags().StringVar(&f.manager, "manager", "", "only changes by this field manager")
	c.Flags().StringVar(&f.since, "since", "", "begin in the past: "+past.Forms)
	c.Flags().IntVar(&f.limit, "limit", 0, "end after so many changes; 0 for none")
	c.Flags().DurationVar(&f.timeout, "timeout", 0, "end after this time; 0 for never")
	outputFlag(c, &f.output)
	complete(c, "type", tapTypes)
	return c
}

// errLimit ends a tap that has shown enough.
var errLimit = errors.New("limit reached")

func runTap(cmd *cobra.Command, f tapFlags, args []string) error {
	pass, err := f.filter()
	if err != nil {
		return err
	}
	choice, err := parseTap(args, f.namespace)
	if err != nil {
		return err
	}
	if err := checkForm(f.output); err != nil {
		return err
	}
	s, err := f.connect()
	if err != nil {
		return err
	}
	defer s.Close()
	ctx, cancel := tapContext(cmd.Context(), f.timeout)
	defer cancel()
	q, err := choice.query(cmd, s)
	if err != nil {
		return err
	}
	if err := tapSince(ctx, s, f.since, time.Now(), &q); err != nil {
		return tapEnd(err)
	}
	write, err := eventWriter(cmd.OutOrStdout(), f.output, beforeOf(ctx, s))
	if err != nil {
		return err
	}
	away := func(err error) {
		if ctx.Err() == nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "interrupted, going on: %s\n", err)
		}
	}
	return tapEnd(s.Follow(ctx, q, away, f.limited(pass, write)))
}

func tapContext(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, timeout)
}

// tapEnd is how a tap's end is reported.
func tapEnd(err error) error {
	switch {
	case errors.Is(err, errLimit), errors.Is(err, context.Canceled):
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return errFound
	default:
		return err
	}
}

// limited writes what passes, until there is enough of it.
func (f tapFlags) limited(pass func(schemas.Event) bool, write func(schemas.Event) error) func(schemas.Event) error {
	shown := 0
	return func(e schemas.Event) error {
		if !pass(e) {
			return nil
		}
		if err := write(e); err != nil {
			return err
		}
		if e.Type == schemas.Gap {
			return nil
		}
		if shown++; shown == f.limit {
			return errLimit
		}
		return nil
	}
}

var tapTypes = []string{string(schemas.Added), string(schemas.Modified), string(schemas.Deleted)}

// filter decides by what is not in the subject.
func (f tapFlags) filter() (func(schemas.Event) bool, error) {
	if f.limit < 0 {
		return nil, fmt.Errorf("--limit %d: want a number of changes, or 0 for no limit", f.limit)
	}
	if f.timeout < 0 {
		return nil, fmt.Errorf("--timeout %s: want a time, or 0 for never", f.timeout)
	}
	types := make([]string, len(f.types))
	for i, t := range f.types {
		types[i] = strings.ToUpper(t)
		if !slices.Contains(tapTypes, types[i]) {
			return nil, fmt.Errorf("--type %q: want %s", t, strings.Join(tapTypes, ", "))
		}
	}
	return func(e schemas.Event) bool {
		if e.Type == schemas.Gap {
			return true
		}
		return (len(types) == 0 || slices.Contains(types, string(e.Type))) &&
			(f.user == "" || f.user == e.Header.User) && (f.manager == "" || f.manager == e.Header.Manager)
	}, nil
}

// tapChoice is what is followed: resource and name are empty for all.
type tapChoice struct{ resource, name, namespace string }

// parseTap reads the arguments. It refuses what no object can have, which would wait for ever.
func parseTap(args []string, namespace string) (tapChoice, error) {
	choice := tapChoice{namespace: namespace}
	if namespace != "" {
		if problems := validation.IsDNS1123Label(namespace); len(problems) > 0 {
			return choice, fmt.Errorf("--namespace %q names no namespace: %s", namespace, problems[0])
		}
	}
	if len(args) == 0 {
		return choice, nil
	}
	var named bool
	choice.resource, choice.name, named = strings.Cut(args[0], "/")
	if choice.resource == "" {
		return choice, fmt.Errorf("%q names no resource; give one such as pods or deployments.apps", args[0])
	}
	if problems := content.IsPathSegmentName(choice.name); named && (choice.name == "" || choice.name == schemas.AnyToken || len(problems) > 0) {
		return choice, fmt.Errorf("%q names no object; give RESOURCE/NAME, such as deploy/web, or RESOURCE alone for all", args[0])
	}
	return choice, nil
}

// query looks the resource up. One that is given with its group may be served later.
func (t tapChoice) query(cmd *cobra.Command, s *remote.Server) (remote.Query, error) {
	var q remote.Query
	if t.namespace != "" {
		q.Namespace = &t.namespace
	}
	if t.name != "" {
		q.Name = &t.name
	}
	if t.resource == "" {
		return q, nil
	}
	r, err := s.Find(t.resource)
	if unserved := schema.ParseGroupResource(strings.ToLower(t.resource)); remote.Unknown(err) && unserved.Resource != "" && unserved.Group != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s is not served at present; it may have been, or come\n", t.resource)
		q.Group, q.Resource = &unserved.Group, &unserved.Resource
		return q, nil
	}
	if err != nil {
		return q, err
	}
	q.Group, q.Resource = &r.Group, &r.Resource
	if r.Namespaced {
		return q, nil
	}
	if t.namespace != "" {
		return q, fmt.Errorf("--namespace %q: %s have no namespace, no change would ever match; leave it out", t.namespace, r.Resource)
	}
	none := ""
	q.Namespace = &none
	return q, nil
}

// tapSince makes a query begin at --since, or now. What lies before all that is held, or in
// a gap, is told as a gap. Only a revision can be asked for that has not come yet: the next
// one.
func tapSince(ctx context.Context, s *remote.Server, since string, now time.Time, q *remote.Query) error {
	if since == "" {
		since = "now"
	}
	at, err := past.ParseInstant(since, now)
	if err != nil {
		return fmt.Errorf("--since %w", err)
	}
	asked := at.Text
	if at.Rev != 0 {
		asked = "now"
	}
	found, err := s.Resolve(ctx, asked)
	switch {
	case remote.NotHeld(err) && !at.Mark:
		q.Since = at.At.UTC().Format(time.RFC3339Nano)
		return nil
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("--since %s: %w", since, err)
	case at.Rev > found.Rev+1:
		return fmt.Errorf("--since rev-%d has not come yet; the newest is %s", at.Rev, found.Text())
	case at.Rev != 0: // a revision is inclusive
		q.Behind = remote.BehindRev(at.Rev - 1)
	default: // others are the state, and what follows it is asked for
		q.Behind = remote.BehindRev(found.Rev)
	}
	return nil
}
