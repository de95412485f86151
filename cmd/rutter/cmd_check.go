package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/cmd/rutter/internal/health"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

// What may be checked.
var checkWhats = []string{"host", "cluster"}

func newCheck(cfg *standalone.Config) *cobra.Command {
	o := operator{cluster: cfg}
	var output string
	c := &cobra.Command{
		Use:   "check [host|cluster]",
		Short: "Check this machine and the cluster before and after an upgrade",
		Long: `Check looks for what would hurt a cluster: on this machine, whether it can run one (kernel,
BPF, cgroups, containerd, ports, disk, limits, clock, who may read keys); of the cluster,
whether it is well (readiness, relay, etcd, certificates, sealing keys, nodes) and whether
its objects agree with each other: owners and namespaces that are there, definitions that
are established and kept in versions that still exist, API services and webhooks that
answer, pods whose node is there. It changes nothing.

Without an argument it checks this machine, and a cluster if there is one to ask. etcd,
sealing and the certificates of all parts are seen on the cluster's own machine only. An
object that you may not list is not there for these checks: run it as an administrator.
Whether the event stream agrees with etcd, change for change, is for rutter verify.

Exit code 0: nothing failed; there may be warnings. 1: a check failed. 2: it could not be
done.`,
		Example: `  rutter check host && rutter up        # can this machine run a cluster?
  rutter check host --no-node           # one without pods?
  rutter check cluster --context prod
  rutter check -o json | jq '.[] | select(.state != "ok")'`,
		Args:              cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs:         checkWhats,
		ValidArgsFunction: cobra.FixedCompletions(checkWhats, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkPlain(output); err != nil {
				return err
			}
			found, err := o.check(cmd.Context(), strings.Join(args, ""))
			if err != nil {
				return err
			}
			if err := writeChecks(cmd, output, found); err != nil {
				return err
			}
			if health.Count(found, health.Failed) > 0 {
				return errFound
			}
			return nil
		},
	}
	o.serverFlags(c)
	portFlags(c, cfg)
	c.Flags().StringVar(&cfg.NodeName, "node-name", cfg.NodeName, "name of this machine's node")
	c.Flags().BoolVar(&cfg.NoNode, "no-node", false, "the machine is to run no pods")
	plainOutput(c, &output)
	return c
}

func (o *operator) check(ctx context.Context, what string) ([]health.Finding, error) {
	var out []health.Finding
	if what != "cluster" {
		host, err := o.cluster.Survey(ctx)
		if err != nil {
			return nil, err
		}
		out = health.CheckHost(host)
		if what == "host" {
			return out, nil
		}
	}
	s, err := o.connect()
	if err != nil && what == "" && o.kubeconfig == "" && o.context == "" && remote.NoKubeconfig(err) {
		return append(out, health.Finding{Check: "api-server", State: health.Skipped, Seen: "there is no cluster yet"}), nil
	}
	if err != nil {
		return nil, err
	}
	defer s.Close()
	found, err := newObserver(s, *o.cluster).check(ctx)
	return append(out, found...), err
}

// check looks at a cluster. It fails if the API server does not answer at all.
func (o observer) check(ctx context.Context) ([]health.Finding, error) {
	version, ahead, err := o.server.Version(ctx)
	if err != nil {
		return nil, err
	}
	var out []health.Finding
	// add takes findings, or why there are none.
	add := func(check string, err error, found ...health.Finding) {
		if err != nil {
			found = []health.Finding{unseen(check, err)}
		}
		out = append(out, found...)
	}
	failing, err := o.server.Unready(ctx)
	add("api-server", err, health.CheckReady(version, failing))
	add("clock-skew", nil, health.CheckSkew(ahead))
	relay, err := o.relay(ctx)
	add("relay", err, health.CheckRelay(relay), health.CheckMirrors(relay))
	held, _, err := o.server.Status(ctx)
	add("past", err, historyFindings(held)...)
	marks, err := o.marks(ctx)
	add("marks", err, health.CheckMarks(marks))
	out = append(out, o.checkLocal(ctx)...)
	nodes, err := o.nodes(ctx)
	add("nodes", err, health.CheckNodes(nodes, o.now))
	controllers, scheduler := o.actors(ctx)
	add("", nil, controllers, scheduler)
	all, err := o.inventory(ctx)
	add("objects", err, all.Check(o.now)...)
	return out, nil
}

// checkLocal looks at what is on the cluster's own machine.
func (o observer) checkLocal(ctx context.Context) []health.Finding {
	certificates, err := o.certificates(ctx)
	out := []health.Finding{health.CheckCertificates(certificates, o.now)}
	if err != nil {
		out[0] = unseen("certificates", err)
	}
	if !o.local {
		return append(out, health.Finding{Check: "etcd", State: health.Skipped, Seen: notLocal}, health.Finding{Check: "sealing", State: health.Skipped, Seen: notLocal})
	}
	if etcd, err := standalone.EtcdState(ctx, o.cfg); err != nil {
		out = append(out, unseen("etcd", err))
	} else {
		out = append(out, health.CheckEtcd(etcd)...)
	}
	sealing, err := o.sealing(ctx)
	if err != nil {
		return append(out, unseen("sealing", err))
	}
	return append(out, health.CheckSealing(sealing, o.now))
}

func (o observer) certificates(ctx context.Context) ([]health.Certificate, error) {
	ends, err := o.server.Ends(ctx)
	if err != nil {
		return nil, err
	}
	var out []health.Certificate
	for name, until := range ends {
		out = append(out, health.Certificate{Name: name, Until: until})
	}
	slices.SortFunc(out, func(a, b health.Certificate) int { return strings.Compare(a.Name, b.Name) })
	if !o.local {
		return out, nil
	}
	own, err := o.cfg.Certificates()
	return append(out, own...), err
}

func (o observer) sealing(ctx context.Context) (health.Sealing, error) {
	info, err := os.Stat(o.cfg.SealFile())
	if err != nil {
		return health.Sealing{}, err
	}
	read, err := readSealing(ctx, o.cfg)
	if err != nil {
		return health.Sealing{}, err
	}
	s := health.Sealing{Keys: len(read.Keys), Made: info.ModTime(), Open: len(read.Secrets[apiserver.NotSealed])}
	for _, secrets := range read.Secrets {
		s.Secrets += len(secrets)
	}
	s.Outdated = len(read.Outdated()) - s.Open
	return s, nil
}

func (o observer) marks(ctx context.Context) ([]health.Mark, error) {
	read, err := o.server.Marks(ctx)
	if err != nil {
		return nil, err
	}
	var out []health.Mark
	for name, value := range read.Values {
		_, err := schemas.ParseMark(value)
		if err == nil {
			_, err = o.server.Resolve(ctx, value)
		}
		if err != nil && !apierrors.IsResourceExpired(err) && !apierrors.IsBadRequest(err) {
			return nil, fmt.Errorf("mark %q: %w", name, err)
		}
		out = append(out, health.Mark{Name: name, Held: err == nil})
	}
	slices.SortFunc(out, func(a, b health.Mark) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// inventory reads every object, as of one revision.
func (o observer) inventory(ctx context.Context) (*health.Inventory, error) {
	all := health.NewInventory()
	err := o.server.State(ctx, "now", func(e schemas.Event) error {
		if len(e.Object) == 0 {
			return nil // too large for the bus, and gone meanwhile
		}
		return all.Add(e.Key, e.Object)
	})
	return all, err
}

func writeChecks(cmd *cobra.Command, form string, found []health.Finding) error {
	out := cmd.OutOrStdout()
	switch form {
	case "json":
		return writeJSON(out, found)
	case "yaml":
		return writeYAML(out, found)
	}
	if err := writeFindings(out, found); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%d ok, %s, %d failed, %d skipped.\n", health.Count(found, health.OK), count(health.Count(found, health.Warning), "warning"),
		health.Count(found, health.Failed), health.Count(found, health.Skipped))
	return err
}
