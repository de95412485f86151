package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/cmd/rutter/internal/health"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
)

func newStatus(cfg *standalone.Config) *cobra.Command {
	o := operator{cluster: cfg}
	var output string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how the parts of the cluster are",
		Long: `Status asks every part of a cluster how it is, and shows it on one screen: API server,
etcd, how far the event stream is behind etcd, what the streams and the past hold, nodes,
and whether controllers and scheduler act on what is asked of them.

etcd and the streams are asked on the cluster's own machine only; elsewhere they are left
out. Whether the cluster is well set up is for rutter check, whether the stream tells the
truth for rutter verify.

Exit code 0: healthy. 1: a part has failed. 2: the API server could not be asked.`,
		Example: `  rutter status
  rutter status --context prod
  rutter status -o json | jq '.relay.committed - .relay.published'
  until rutter status; do sleep 5; done`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.ask(output, func(s *remote.Server) error {
				report, err := newObserver(s, *cfg).status(cmd.Context())
				if err != nil {
					return err
				}
				if err := writeReportOfStatus(cmd.OutOrStdout(), output, report); err != nil {
					return err
				}
				if !report.Healthy {
					return errFound
				}
				return nil
			})
		},
	}
	o.serverFlags(c)
	c.Flags().Uint16Var(&cfg.BusPort, "bus-port", cfg.BusPort, "TCP port of the event bus (NATS)")
	plainOutput(c, &output)
	return c
}

// statusReport is a status in JSON and YAML. What could not be seen is left out.
type statusReport struct {
	Healthy bool             `json:"healthy"`
	Cluster string           `json:"cluster"`
	Server  string           `json:"server"`
	Version string           `json:"version"`
	Parts   []health.Finding `json:"parts"`
	Relay   *health.Relay    `json:"relay,omitempty"`
	Etcd    *health.Etcd     `json:"etcd,omitempty"`
	Streams []stream         `json:"streams,omitempty"`
	Past    *pastReport      `json:"past,omitempty"`
	Nodes   []health.Node    `json:"nodes"`
}

// pastReport is what is held of the past.
type pastReport struct {
	Oldest *remote.Instant `json:"oldest"`
	Newest remote.Instant  `json:"newest"`
	Events uint64          `json:"events"`
	Bytes  uint64          `json:"bytes"`
	Gaps   int             `json:"gaps"`
}

// status asks all parts. It fails if the API server does not answer at all.
func (o observer) status(ctx context.Context) (statusReport, error) {
	r := statusReport{Cluster: o.server.Cluster(), Server: o.server.URL()}
	var err error
	if r.Version, _, err = o.server.Version(ctx); err != nil {
		return r, err
	}
	add := func(all ...health.Finding) { r.Parts = append(r.Parts, all...) }
	if failing, err := o.server.Unready(ctx); err != nil {
		add(unseen("api-server", err))
	} else {
		add(health.CheckReady(r.Version, failing))
	}
	if relay, err := o.relay(ctx); err != nil {
		add(unseen("relay", err), unseen("mirrors", err))
	} else {
		r.Relay = &relay
		add(health.CheckRelay(relay), health.CheckMirrors(relay))
	}
	o.addLocal(ctx, &r)
	if held, _, err := o.server.Status(ctx); err != nil {
		add(health.Finding{Check: "past", State: health.Failed, Seen: err.Error(), Fix: "see that the bus runs"})
	} else {
		r.Past = &pastReport{held.Oldest, held.Newest, held.Events, held.Bytes, len(held.Gaps)}
		add(historyFindings(held)...)
	}
	if r.Nodes, err = o.nodes(ctx); err != nil {
		add(unseen("nodes", err))
	} else {
		add(health.CheckNodes(r.Nodes, o.now))
	}
	controllers, scheduler := o.actors(ctx)
	add(controllers, scheduler)
	r.Healthy = health.Count(r.Parts, health.Failed) == 0
	return r, nil
}

// addLocal asks etcd and the streams, if they are here.
func (o observer) addLocal(ctx context.Context, r *statusReport) {
	if !o.local {
		r.Parts = append(r.Parts, health.Finding{Check: "etcd", State: health.Skipped, Seen: notLocal}, health.Finding{Check: "streams", State: health.Skipped, Seen: notLocal})
		return
	}
	if etcd, err := standalone.EtcdState(ctx, o.cfg); err != nil {
		r.Parts = append(r.Parts, unseen("etcd", err))
	} else {
		r.Etcd = &etcd
		r.Parts = append(r.Parts, health.CheckEtcd(etcd)...)
	}
	var err error
	if r.Streams, err = o.streams(ctx); err != nil {
		r.Parts = append(r.Parts, health.Finding{Check: "streams", State: health.Failed, Seen: err.Error(), Fix: "give --bus-port if it is not the default; else look for the component bus in rutter.log"})
		return
	}
	r.Parts = append(r.Parts, health.Finding{Check: "streams", State: health.OK, Seen: fmt.Sprintf("%d, listed below", len(r.Streams))})
}

func writeReportOfStatus(w io.Writer, form string, r statusReport) error {
	switch form {
	case "json":
		return writeJSON(w, r)
	case "yaml":
		return writeYAML(w, r)
	}
	verdict := "healthy"
	if n := health.Count(r.Parts, health.Failed); n > 0 {
		verdict = fmt.Sprintf("degraded, %d failed", n)
	}
	if n := health.Count(r.Parts, health.Warning); n > 0 {
		verdict += ", " + count(n, "warning")
	}
	fmt.Fprintf(w, "Cluster %s at %s: %s\n\n", r.Cluster, r.Server, verdict)
	if err := writeFindings(w, r.Parts); err != nil {
		return err
	}
	if len(r.Streams) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "STREAM\tMESSAGES\tBYTES\tOF\tFIRST\tLAST\tSINCE")
	for _, s := range r.Streams {
		bound, since := "-", "-"
		if s.MaxBytes > 0 {
			bound = size(s.MaxBytes)
		}
		if s.Messages > 0 {
			since = pastClock.text(s.First.Time)
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Messages, size(int64(s.Bytes)), bound, revisionText(s.First.Rev), revisionText(s.Last.Rev), since)
	}
	return table.Flush()
}

// revisionText is a revision that may not be known.
func revisionText(rev int64) string {
	if rev == 0 {
		return "-"
	}
	return remote.RevText(rev)
}
