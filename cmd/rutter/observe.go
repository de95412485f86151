package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"

	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/cmd/rutter/internal/health"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

// observer asks the parts of a cluster how they are.
type observer struct {
	server *remote.Server
	cfg    standalone.Config
	// local says that the server belongs to the cluster of this machine's data directory.
	local bool
	now   time.Time
}

func newObserver(s *remote.Server, cfg standalone.Config) observer {
	ca, err := os.ReadFile(cfg.CAFile())
	return observer{server: s, cfg: cfg, local: err == nil && s.Trusts(bytes.TrimSpace(ca)), now: time.Now()}
}

// notLocal is why etcd and streams were not asked.
const notLocal = "seen on the cluster's own machine only"

// unseen is a finding of what could not be seen.
func unseen(check string, err error) health.Finding {
	return health.Finding{Check: check, State: health.Skipped, Seen: "could not be seen: " + err.Error()}
}

// relayPatience is how long the stream may take to reach the revision that etcd had when it
// was asked.
const (
	relayPatience = 3 * time.Second
	relayPoll     = 50 * time.Millisecond
)

// relay sees how far the stream is behind etcd, and waits a little for it to catch up.
func (o observer) relay(ctx context.Context) (health.Relay, error) {
	var r health.Relay
	var err error
	if r.Committed, err = o.server.Committed(ctx); err != nil {
		return r, err
	}
	began := time.Now()
	for {
		text, err := o.server.Metrics(ctx)
		if err != nil {
			return r, err
		}
		published, ok := health.Gauge(text, "rutter_relay_position_revision")
		if !ok {
			return r, fmt.Errorf("the server has no relay")
		}
		r.Published, r.Waited = int64(published), time.Since(began)
		r.Resyncs, _ = health.Gauge(text, "rutter_relay_resyncs_total")
		r.MirrorLag = map[string]float64{}
		for _, s := range health.Samples(text, "rutter_bus_mirror_lag_seconds") {
			r.MirrorLag[s.Label] = s.Value
		}
		if r.Published >= r.Committed || r.Waited > relayPatience {
			return r, nil
		}
		select {
		case <-time.After(relayPoll):
		case <-ctx.Done():
			return r, ctx.Err()
		}
	}
}

// resources that are looked at.
var (
	nodeResource  = remote.Resource{Version: "v1", Resource: "nodes"}
	podResource   = remote.Resource{Version: "v1", Resource: "pods", Namespaced: true}
	leaseResource = remote.Resource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases", Namespaced: true}
	workloads     = []remote.Resource{
		{Group: "apps", Version: "v1", Resource: "deployments", Namespaced: true},
		{Group: "apps", Version: "v1", Resource: "replicasets", Namespaced: true},
		{Group: "apps", Version: "v1", Resource: "daemonsets", Namespaced: true},
		{Group: "apps", Version: "v1", Resource: "statefulsets", Namespaced: true},
	}
)

// nodeLeases is the namespace in which nodes say that they are there.
const nodeLeases = "kube-node-lease"

func (o observer) nodes(ctx context.Context) ([]health.Node, error) {
	found, err := o.server.List(ctx, "", nodeResource, "")
	if err != nil {
		return nil, err
	}
	leases, err := o.server.List(ctx, "", leaseResource, nodeLeases)
	if err != nil {
		return nil, err
	}
	out := []health.Node{}
	for key, text := range found {
		var is struct {
			Status struct {
				Conditions []struct{ Type, Status, Reason string }
			}
		}
		if err := json.Unmarshal(text, &is); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		n := health.Node{Name: key.Name, Why: "says nothing"}
		for _, c := range is.Status.Conditions {
			if c.Type == "Ready" {
				if n.Ready, n.Why = c.Status == "True", c.Reason; n.Ready {
					n.Why = ""
				}
			}
		}
		var lease struct {
			Spec struct{ RenewTime time.Time }
		}
		if text := leases[leaseResource.Key(nodeLeases, key.Name)]; len(text) > 0 {
			if err := json.Unmarshal(text, &lease); err != nil {
				return nil, fmt.Errorf("lease of %s: %w", key, err)
			}
			n.Heard = lease.Spec.RenewTime
		}
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b health.Node) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// actors tells whether controllers and scheduler act.
func (o observer) actors(ctx context.Context) (controllers, scheduler health.Finding) {
	all := map[schemas.Key]json.RawMessage{}
	for _, r := range workloads {
		found, err := o.server.List(ctx, "", r, "")
		if err != nil {
			controllers = unseen("controllers", err)
			break
		}
		for key, text := range found {
			all[key] = text
		}
	}
	if controllers.Check == "" {
		if waiting, err := health.Waiting(all, o.now); err != nil {
			controllers = unseen("controllers", err)
		} else {
			controllers = health.CheckControllers(waiting)
		}
	}
	pods, err := o.server.Select(ctx, "", podResource, "", "spec.nodeName=,status.phase=Pending")
	if err != nil {
		return controllers, unseen("scheduler", err)
	}
	waiting, err := health.Unscheduled(pods, o.now)
	if err != nil {
		return controllers, unseen("scheduler", err)
	}
	return controllers, health.CheckScheduler(waiting, len(pods)-len(waiting))
}

// streams looks into the bus of this machine's cluster.
func (o observer) streams(ctx context.Context) ([]stream, error) {
	client, err := standalone.Operator(ctx, o.cfg, zerolog.Nop())
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var out []stream
	for _, name := range []string{bus.StreamHistory, bus.StreamState, bus.StreamArchive, bus.StreamPacks, bus.StreamMended, bus.StreamLastN} {
		held, err := client.HeldBy(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, streamOf(held))
	}
	return out, nil
}

// stream is what a stream holds, in JSON and YAML.
type stream struct {
	Name     string    `json:"name"`
	Messages uint64    `json:"messages"`
	Bytes    uint64    `json:"bytes"`
	MaxBytes int64     `json:"maxBytes,omitempty"`
	First    streamEnd `json:"first"`
	Last     streamEnd `json:"last"`
}

type streamEnd struct {
	Seq  uint64    `json:"sequence"`
	Rev  int64     `json:"revision"`
	Time time.Time `json:"time,omitzero"`
}

func streamOf(h bus.Held) stream {
	end := func(e bus.End) streamEnd {
		if h.Messages == 0 {
			return streamEnd{Seq: e.Seq}
		}
		return streamEnd{e.Seq, e.Rev, e.At.UTC()}
	}
	return stream{h.Stream, h.Messages, h.Bytes, h.MaxBytes, end(h.First), end(h.Last)}
}

// gapTexts names gaps.
func gapTexts(s remote.Status) []string {
	var out []string
	for _, g := range s.Gaps {
		out = append(out, fmt.Sprintf("behind %s, before %s: %s", g.From.Text(), g.To.Text(), g.Reason))
	}
	return out
}

// historyFindings judges what is held of the past.
func historyFindings(s remote.Status) []health.Finding {
	var oldest *health.Instant
	if s.Oldest != nil {
		oldest = &health.Instant{Rev: s.Oldest.Rev, Time: s.Oldest.Time}
	}
	return health.CheckHistory(oldest, gapTexts(s))
}

// writeFindings prints findings, and below those that are not well what to do.
func writeFindings(w io.Writer, all []health.Finding) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CHECK\tSTATE\tSEEN")
	for _, f := range all {
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.Check, f.State, f.Seen)
		if f.State != health.OK && f.Fix != "" {
			fmt.Fprintf(table, "\t\t→ %s\n", f.Fix)
		}
	}
	return table.Flush()
}
