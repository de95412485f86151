package main

import (
	"fmt"
	"io"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
)

func newVerify(cfg *standalone.Config) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "verify",
		Short: "Compare the event stream with etcd",
		Long: `Verify compares the event stream with etcd's own history, change for change, over what
both still hold, and the stream's state with etcd's objects. Then it compares what the
past is read from: the archive with the stream, over what both hold, and the packed copy
of the archive with the archive.

Exit code 0: nothing is missing, doubled, out of order or different. 1: something is.
2: it could not be checked.`,
		Example: `  rutter verify
  rutter verify -o json | jq .missing`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkPlain(output); err != nil {
				return err
			}
			client, err := standalone.Operator(cmd.Context(), *cfg, zerolog.Nop())
			if err != nil {
				return err
			}
			defer client.Close()
			store, err := standalone.Etcd(*cfg)
			if err != nil {
				return err
			}
			defer store.Close()
			report, err := client.Verify(cmd.Context(), apiserver.Truth(store))
			if err != nil {
				return err
			}
			if err := writeReport(cmd.OutOrStdout(), output, report); err != nil {
				return err
			}
			if !report.OK() {
				return errFound
			}
			return nil
		},
	}
	c.Flags().Uint16Var(&cfg.BusPort, "bus-port", cfg.BusPort, "TCP port of the event bus (NATS)")
	plainOutput(c, &output)
	return c
}

func writeReport(w io.Writer, form string, r *bus.Report) error {
	switch form {
	case "json":
		return writeJSON(w, r)
	case "yaml":
		return writeYAML(w, r)
	}
	_, err := fmt.Fprintf(w, "Revisions %d to %d: %d changes in etcd.\n%d missing, %d doubled, %d out of order, %d different, %d unknown.\nState: %d objects in etcd; %d missing, %d stale, %d extra.\n",
		r.From, r.To, r.Changes, r.Missing, r.Doubled, r.Unordered, r.Different, r.Unknown, r.Objects, r.StateMissing, r.StateStale, r.StateExtra)
	if err != nil {
		return err
	}
	a, p := r.Archive, r.Packs
	_, err = fmt.Fprintf(w, "Archive: %d changes compared; %d missing, %d different, %d extra.\nPacks: %d changes compared; %d missing, %d different, %d extra, %d packs damaged.\n",
		a.Events, a.Missing, a.Different, a.Extra, p.Events, p.Missing, p.Different, p.Extra, p.Damaged)
	if err != nil {
		return err
	}
	for _, gap := range r.Gaps {
		if _, err := fmt.Fprintf(w, "Named gap: changes after revision %d up to %d were lost.\n", gap.PrevRev, gap.Rev); err != nil {
			return err
		}
	}
	for _, example := range r.Examples {
		if _, err := fmt.Fprintln(w, " ", example); err != nil {
			return err
		}
	}
	return nil
}
