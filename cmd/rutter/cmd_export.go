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
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

// exportFlags say what is sent, from when, and where the position is noted.
type exportFlags struct {
	namespace string
	since     string
	state     string
	headers   []string
}

func newExport(cfg *standalone.Config) *cobra.Command {
	var f exportFlags
	c := &cobra.Command{
		Use:   "export COLLECTOR [RESOURCE[.GROUP]]",
		Short: "Send changes to an OpenTelemetry collector",
		Long: `Export sends every change as a log record to an OpenTelemetry collector, by OTLP over
HTTP, until it is interrupted. It notes in a file what the collector has taken and goes on
there when it is started again: every change arrives at least once, in order, and one that
arrives twice has the same ids. A collector that is away is waited for.

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
		RunE: func(cmd *cobra.Command, args []string) error { return runExport(cmd, *cfg, f, args) },
	}
	c.Flags().Uint16Var(&cfg.BusPort, "bus-port", cfg.BusPort, "TCP port of the event bus (NATS)")
	c.Flags().StringVarP(&f.namespace, "namespace", "n", "", "only this namespace")
	c.Flags().StringVar(&f.since, "since", "", "begin in the past if there is no position yet: "+past.Forms)
	c.Flags().StringVar(&f.state, "state", "", "file for the position (default: otlp.position in the data directory)")
	c.Flags().StringArrayVar(&f.headers, "header", nil, "send with every request, NAME=VALUE")
	return c
}

func runExport(cmd *cobra.Command, cfg standalone.Config, f exportFlags, args []string) error {
	bridge := otlp.DefaultConfig()
	bridge.Endpoint, bridge.StateFile = args[0], f.state
	if f.state == "" {
		bridge.StateFile = filepath.Join(cfg.DataDir, "otlp.position")
	}
	var err error
	if bridge.Headers, err = parseHeaders(f.headers); err != nil {
		return err
	}
	if bridge.Pass, err = keyFilter(args[1:], f.namespace); err != nil {
		return err
	}
	if err := parseSince(cmd.Context(), cfg, f.since, time.Now(), &bridge.Start); err != nil {
		return err
	}
	if err := bridge.Validate(); err != nil {
		return err
	}
	client, err := standalone.Operator(cmd.Context(), cfg, zerolog.Nop())
	if err != nil {
		return err
	}
	defer client.Close()
	log := zerolog.New(zerolog.ConsoleWriter{Out: cmd.ErrOrStderr(), NoColor: true, TimeFormat: time.TimeOnly}).With().Timestamp().Logger()
	b, err := otlp.New(bridge, client, log)
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

// keyFilter decides by object what tapFilter decides by subject.
func keyFilter(args []string, namespace string) (func(schemas.Event) bool, error) {
	if _, err := tapFilter(args, namespace); err != nil { // refuses what no object can have
		return nil, err
	}
	if len(args) == 0 && namespace == "" {
		return nil, nil
	}
	var r resourceName
	if len(args) == 1 {
		var err error
		if r, err = parseResource(args[0]); err != nil {
			return nil, err
		}
	}
	return func(e schemas.Event) bool {
		return e.Type == schemas.Gap || (namespace == "" || e.Key.Namespace == namespace) &&
			(len(args) == 0 || r == resourceName{group: e.Key.Group, resource: e.Key.Resource})
	}, nil
}
