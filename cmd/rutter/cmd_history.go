package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/cmd/rutter/internal/health"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
)

func newHistory(cfg *standalone.Config) *cobra.Command {
	c := &cobra.Command{
		Use:   "history",
		Short: "Say what is held of the past",
		Args:  cobra.NoArgs,
	}
	c.AddCommand(newHistoryStatus(cfg))
	return c
}

func newHistoryStatus(cfg *standalone.Config) *cobra.Command {
	o := operator{cluster: cfg}
	var output string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the oldest and newest instant, what they need, and gaps",
		Long: `Status shows which instants are held, how much room they take and may take, and gaps,
where changes are lost.

Exit code 0: nothing is missing between the oldest and the newest instant. 1: there are
gaps. 2: it could not be asked.`,
		Example: "  rutter history status\n  rutter history status -o json | jq .oldest.time",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.ask(output, func(s *remote.Server) error {
				status, text, err := s.Status(cmd.Context())
				if err != nil {
					return err
				}
				if err := writeStatus(cmd.OutOrStdout(), output, status, text); err != nil {
					return err
				}
				if len(status.Gaps) > 0 {
					return errFound
				}
				return nil
			})
		},
	}
	o.serverFlags(c)
	plainOutput(c, &output)
	return c
}

func writeStatus(w io.Writer, form string, s remote.Status, text json.RawMessage) error {
	switch form {
	case "json":
		return writeJSON(w, text)
	case "yaml":
		return writeYAML(w, text)
	}
	oldest := "none yet"
	if s.Oldest != nil {
		oldest = instantText(*s.Oldest)
	}
	kept := int64(0)
	for _, k := range s.Keyframes {
		kept += k.Bytes
	}
	age := time.Duration(s.Retention.MaxAgeSeconds) * time.Second
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "Oldest\t%s\n", oldest)
	fmt.Fprintf(table, "Newest\t%s\n", instantText(s.Newest))
	if s.Retention.MaxBytes == 0 { // a bundle keeps what it has
		fmt.Fprintf(table, "Events\t%d, %s\nKeyframes\t%d, %s\n", s.Events, size(int64(s.Bytes)), len(s.Keyframes), size(kept))
	} else {
		fmt.Fprintf(table, "Events\t%d, %s of %s, kept for %.4g days\n", s.Events, size(int64(s.Bytes)), size(s.Retention.MaxBytes), age.Hours()/24)
		fmt.Fprintf(table, "Keyframes\t%d, %s of %s\n", len(s.Keyframes), size(kept), size(s.Retention.MaxKeyframeBytes))
	}
	if s.Packs != nil {
		fmt.Fprintf(table, "Packs\t%d, %s of %s\n", s.Packs.Messages, size(int64(s.Packs.Bytes)), size(s.Retention.MaxPackBytes))
	}
	if s.Mended != nil {
		fmt.Fprintf(table, "Mended\t%d of the events, %s\n", s.Mended.Events, size(int64(s.Mended.Bytes)))
	}
	if len(s.Gaps) == 0 {
		fmt.Fprintln(table, "Gaps\tnone")
	}
	for _, g := range s.Gaps {
		fmt.Fprintf(table, "Gap\tbehind %s, before %s: %s\n", instantText(g.From), instantText(g.To), g.Reason)
	}
	return table.Flush()
}

func instantText(i remote.Instant) string {
	return fmt.Sprintf("%s (%s)", i.Text(), pastClock.text(i.Time))
}

// size is a number of bytes for people.
func size(bytes int64) string { return health.Bytes(uint64(max(bytes, 0))) }
