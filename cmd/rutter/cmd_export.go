package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/cmd/rutter/internal/otlp"
	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

// exportFlags say what is sent, from when, and where the position is noted.
type exportFlags struct {
	operator
	since   string
	state   string
	headers []string
}

func newExport(cfg *standalone.Config) *cobra.Command {
	f := exportFlags{operator: operator{cluster: cfg}}
	c := &cobra.Command{
		Use:   "export COLLECTOR [RESOURCE[.GROUP]]",
		Short: "Send changes to an OpenTelemetry collector",
		Long: `Export sends every change as a log record to an OpenTelemetry collector, by OTLP over
HTTP, until it is interrupted: what you may watch, from any machine. It notes in a file what
the collector has taken and goes on there when it is started again: every change arrives at
least once, in order, and one that arrives twice has the same ids. A collector or an API
server that is away is waited for.

Exit code 0: interrupted. 2: it could not be done.`,
		Example: `  rutter export http://localhost:4318
  rutter export http://localhost:4318 pods -n shop --state /var/lib/shop.position
  rutter export https://otlp.example.com --header "Authorization=Bearer $TOKEN" --since 1h`,
		Args: cobra.RangeArgs(1, 2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return []string{"http://localhost:4318"}, cobra.ShellCompDirectiveNoFileComp
			}
			return completer{cfg}.kind(cmd, args[1:], typed)
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runExport(cmd, f, args) },
	}
	f.serverFlags(c)
	c.Flags().StringVarP(&f.namespace, "namespace", "n", "", "only this namespace")
	c.Flags().StringVar(&f.since, "since", "", "begin in the past if there is no position yet: "+past.Forms)
	c.Flags().StringVar(&f.state, "state", "", "file for the position (default: otlp.position in the data directory)")
	c.Flags().StringArrayVar(&f.headers, "header", nil, "send with every request, NAME=VALUE")
	return c
}

func runExport(cmd *cobra.Command, f exportFlags, args []string) error {
	bridge := otlp.DefaultConfig()
	bridge.Endpoint, bridge.StateFile = args[0], f.state
	if f.state == "" {
		bridge.StateFile = filepath.Join(f.cluster.DataDir, "otlp.position")
	}
	var err error
	if bridge.Headers, err = parseHeaders(f.headers); err != nil {
		return err
	}
	choice, err := parseTap(args[1:], f.namespace)
	if err != nil {
		return err
	}
	if choice.name != "" {
		return fmt.Errorf("%q names an object; export sends all of a resource", args[1])
	}
	if err := bridge.Validate(); err != nil {
		return err
	}
	s, err := f.connect()
	if err != nil {
		return err
	}
	defer s.Close()
	q, err := choice.query(cmd, s)
	if err != nil {
		return err
	}
	bridge.Pass = passes(q)
	if err := tapSince(cmd.Context(), s, f.since, time.Now(), &bridge.Start); err != nil {
		return err
	}
	log := zerolog.New(zerolog.ConsoleWriter{Out: cmd.ErrOrStderr(), NoColor: true, TimeFormat: time.TimeOnly}).With().Timestamp().Logger()
	b, err := otlp.New(bridge, s, log)
	if err != nil {
		return err
	}
	return b.Run(cmd.Context())
}

// parseHeaders reads NAME=VALUE.
func parseHeaders(args []string) (map[string]string, error) {
	headers := make(map[string]string, len(args))
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		if !ok || name == "" || strings.ContainsAny(name, " :\r\n") || strings.ContainsAny(value, "\r\n") {
			return nil, fmt.Errorf("--header %q: want NAME=VALUE", name)
		}
		headers[name] = value
	}
	return headers, nil
}

// passes decides what is sent of everything that is read: only who reads everything knows
// that nothing before a place is left.
func passes(q remote.Query) func(schemas.Event) bool {
	fits := func(want *string, is string) bool { return want == nil || *want == is }
	return func(e schemas.Event) bool {
		return e.Type == schemas.Gap || fits(q.Group, e.Key.Group) && fits(q.Resource, e.Key.Resource) && fits(q.Namespace, e.Key.Namespace)
	}
}
