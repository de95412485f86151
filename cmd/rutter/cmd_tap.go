package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

type tapFlags struct {
	namespace string
	since     string
	output    string
}

func newTap(cfg *standalone.Config) *cobra.Command {
	var f tapFlags
	c := &cobra.Command{
		Use:   "tap [RESOURCE[.GROUP][/NAME]]",
		Short: "Show changes as they happen",
		Long: `Tap shows every change of the cluster as it happens: what changed, at which revision,
by whom, and because of which revision.`,
		Example: `  rutter tap                        # everything
  rutter tap pods -n shop           # pods of a namespace
  rutter tap deployments.apps/web -n shop
  rutter tap --since 10m -o json    # the last ten minutes, then live, one JSON object a line`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := tapFilter(args, f.namespace)
			if err != nil {
				return err
			}
			opts := bus.TapOptions{Filter: filter}
			if err := parseSince(f.since, time.Now(), &opts); err != nil {
				return err
			}
			write, err := eventWriter(cmd.OutOrStdout(), f.output)
			if err != nil {
				return err
			}
			client, err := standalone.Operator(cmd.Context(), *cfg, zerolog.Nop())
			if err != nil {
				return err
			}
			defer client.Close()
			err = client.Tap(cmd.Context(), opts, write)
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
	c.Flags().Uint16Var(&cfg.BusPort, "bus-port", cfg.BusPort, "TCP port of the event bus (NATS)")
	c.Flags().StringVarP(&f.namespace, "namespace", "n", "", "only this namespace")
	c.Flags().StringVar(&f.since, "since", "", "begin in the past: a duration (10m), an RFC 3339 time, or rev-N")
	c.Flags().StringVarP(&f.output, "output", "o", "table", "table or json")
	return c
}

// tapFilter makes the subject filter of the arguments.
func tapFilter(args []string, namespace string) (string, error) {
	k := schemas.Key{Group: schemas.AnyToken, Resource: schemas.AnyToken, Namespace: schemas.AnyToken, Name: schemas.AnyToken}
	if namespace != "" {
		k.Namespace = namespace
	}
	if len(args) == 1 {
		resource, name, named := strings.Cut(args[0], "/")
		r, err := parseResource(resource)
		if err != nil {
			return "", err
		}
		k.Group, k.Resource = r.group, r.resource
		if named {
			k.Name = name
		}
	}
	return schemas.Filter(k), nil
}

// parseSince reads --since into the options.
func parseSince(since string, now time.Time, opts *bus.TapOptions) error {
	if since == "" {
		return nil
	}
	if text, ok := strings.CutPrefix(since, "rev-"); ok {
		rev, err := strconv.ParseInt(text, 10, 64)
		if err != nil || rev < 1 {
			return fmt.Errorf("--since %q: rev- wants a revision, such as rev-1234", since)
		}
		opts.SinceRev = rev
		return nil
	}
	if d, err := time.ParseDuration(strings.TrimPrefix(since, "-")); err == nil {
		opts.Since = now.Add(-d)
		return nil
	}
	at, err := time.Parse(time.RFC3339, since)
	if err != nil {
		return fmt.Errorf("--since %q is no duration (10m), no RFC 3339 time, and no rev-N", since)
	}
	opts.Since = at
	return nil
}

// eventWriter prints events in the chosen form.
func eventWriter(w io.Writer, form string) (func(schemas.Event) error, error) {
	switch form {
	case "table":
		first := true
		return func(e schemas.Event) error {
			if first {
				first = false
				if _, err := fmt.Fprintf(w, rowFormat, "TIME", "REVISION", "CHANGE", "OBJECT", "BY", "VERB", "CAUSE"); err != nil {
					return err
				}
			}
			return writeRow(w, e)
		}, nil
	case "json":
		encoder := json.NewEncoder(w)
		return func(e schemas.Event) error { return encoder.Encode(e) }, nil
	default:
		return nil, fmt.Errorf("--output %q: want table or json", form)
	}
}

const rowFormat = "%-15s %-9s %-9s %-58s %-32s %-7s %s\n"

// writeRow prints one event as a line of the table.
func writeRow(w io.Writer, e schemas.Event) error {
	var causes []string
	for _, c := range e.Header.Cause {
		causes = append(causes, fmt.Sprint(c))
	}
	by := e.Header.User
	if e.Header.Manager != "" && !strings.Contains(by, e.Header.Manager) {
		by += " (" + e.Header.Manager + ")"
	}
	_, err := fmt.Fprintf(w, rowFormat, e.Header.Time.Local().Format("15:04:05.000000"), fmt.Sprint(e.Rev), e.Type, objectName(e.Key), by, e.Header.Verb, strings.Join(causes, ","))
	return err
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
