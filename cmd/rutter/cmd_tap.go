package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

// tapFlags choose what is shown, from when, and how.
type tapFlags struct {
	namespace string
	types     []string
	user      string
	manager   string
	since     string
	output    string
	limit     int
	timeout   time.Duration
}

func newTap(cfg *standalone.Config) *cobra.Command {
	var f tapFlags
	c := &cobra.Command{
		Use:   "tap [RESOURCE[.GROUP][/NAME]]",
		Short: "Show changes as they happen",
		Long: `Tap shows every change of the cluster as it happens: what changed, at which revision,
by whom, and because of which revision. Gaps, where changes are lost to the stream, are
shown whatever the filters.

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
		RunE:              func(cmd *cobra.Command, args []string) error { return runTap(cmd, *cfg, f, args) },
	}
	c.Flags().Uint16Var(&cfg.BusPort, "bus-port", cfg.BusPort, "TCP port of the event bus (NATS)")
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

func runTap(cmd *cobra.Command, cfg standalone.Config, f tapFlags, args []string) error {
	filter, err := tapFilter(args, f.namespace)
	if err != nil {
		return err
	}
	pass, err := f.filter()
	if err != nil {
		return err
	}
	opts := bus.TapOptions{Filter: filter}
	if err := parseSince(cmd.Context(), cfg, f.since, time.Now(), &opts); err != nil {
		return err
	}
	var client *bus.Client
	before := func(e schemas.Event) (schemas.Event, error) { return client.Before(cmd.Context(), e) }
	write, err := eventWriter(cmd.OutOrStdout(), f.output, before)
	if err != nil {
		return err
	}
	if client, err = standalone.Operator(cmd.Context(), cfg, zerolog.Nop()); err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := tapContext(cmd.Context(), f.timeout)
	defer cancel()
	return tapEnd(client.Tap(ctx, opts, f.limited(pass, write)))
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

// tapFilter makes the subject filter of the arguments. It refuses what no object can
// have, which would wait for ever.
func tapFilter(args []string, namespace string) (string, error) {
	k := schemas.Key{Group: schemas.AnyToken, Resource: schemas.AnyToken, Namespace: schemas.AnyToken, Name: schemas.AnyToken}
	if namespace != "" {
		if problems := validation.IsDNS1123Label(namespace); len(problems) > 0 {
			return "", fmt.Errorf("--namespace %q names no namespace: %s", namespace, problems[0])
		}
		k.Namespace = namespace
	}
	if len(args) == 0 {
		return schemas.Filter(k), nil
	}
	resource, name, named := strings.Cut(args[0], "/")
	r, err := parseResource(resource)
	if err != nil {
		return "", err
	}
	k.Group, k.Resource = r.group, r.resource
	if clusterScoped[r] {
		if namespace != "" {
			return "", fmt.Errorf("--namespace %q: %s have no namespace, no change would ever match; leave it out", namespace, r.resource)
		}
		k.Namespace = ""
	}
	if !named {
		return schemas.Filter(k), nil
	}
	if problems := content.IsPathSegmentName(name); name == "" || name == schemas.AnyToken || len(problems) > 0 {
		return "", fmt.Errorf("%q names no object; give RESOURCE/NAME, such as deploy/web, or RESOURCE alone for all", args[0])
	}
	k.Name = name
	return schemas.Filter(k), nil
}

// askNewest bounds how long a tap waits for an API server that it can do without.
const askNewest = 5 * time.Second

// checkCome refuses a revision that has not come yet, for which a tap would wait in
// silence; the next one may be asked for. Without an API server nobody knows.
func checkCome(ctx context.Context, cfg standalone.Config, rev int64) error {
	if rev == 0 {
		return nil
	}
	s, err := remote.Connect(remote.Config{Kubeconfig: cfg.Kubeconfig()})
	if err != nil {
		return nil //nolint:nilerr // a tap needs the bus only
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(ctx, askNewest)
	defer cancel()
	newest, err := s.Resolve(ctx, "now")
	if err != nil || rev <= newest.Rev+1 {
		return nil //nolint:nilerr // as above
	}
	return fmt.Errorf("--since rev-%d has not come yet; the newest is %s", rev, newest.Text())
}

// parseSince reads --since into the options. A mark is looked up on the cluster of this
// machine, whose bus is tapped.
func parseSince(ctx context.Context, cfg standalone.Config, since string, now time.Time, opts *bus.TapOptions) error {
	if since == "" {
		return nil
	}
	at, err := past.ParseInstant(since, now)
	if err != nil {
		return fmt.Errorf("--since %w", err)
	}
	if at.At.After(now) {
		return fmt.Errorf("--since %q lies in the future", since)
	}
	opts.SinceRev, opts.Since = at.Rev, at.At
	if !at.Mark {
		return checkCome(ctx, cfg, at.Rev)
	}
	s, err := remote.Connect(remote.Config{Kubeconfig: cfg.Kubeconfig()})
	if err != nil {
		return err
	}
	defer s.Close()
	found, err := s.Resolve(ctx, since)
	if err != nil {
		return fmt.Errorf("--since %s: %w", since, err)
	}
	opts.SinceRev = found.Rev + 1 // what was marked is the state, and what follows it is asked for
	return nil
}
