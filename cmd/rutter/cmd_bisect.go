package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

// Exit codes of a bisected command, as git has them.
const (
	bisectSkip = 125
	bisectStop = 128 // and above: the command itself broke
)

func newBisect(cfg *standalone.Config) *cobra.Command {
	o := operator{cluster: cfg}
	var good, bad, output string
	c := &cobra.Command{
		Use:   "bisect --good INSTANT [--bad INSTANT] -- COMMAND [ARGUMENT...]",
		Short: "Find the revision at which a command began to fail",
		Long: `Bisect runs a command against the cluster as it was at revisions between a good and a bad
instant, halving what is left each time, as git bisect run does. KUBECONFIG leads the
command to the instant, as with rutter at; the cluster itself is not touched. Its exit code
says: 0 good, 125 can't be judged, other codes up to 127 bad, 128 and more stops.

Revisions in a gap, where changes are lost, are left out.

What the command prints goes to stderr; the result, with who changed what, to stdout.

Exit code 0: found. 1: only revisions are left that were skipped or are lost. 2: it could
not be done.`,
		Example: `  rutter bisect --good -6h -- sh -c 'kubectl get deploy web -o jsonpath={.spec.replicas} | grep 3'
  rutter bisect --good rev-1000 --bad rev-2000 -- kubectl get secret db -n shop`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if good == "" {
				return fmt.Errorf("--good is missing; give %s", past.Forms)
			}
			if err := checkPlain(output); err != nil {
				return err
			}
			return runBisect(cmd, o, bisectFlags{good, bad, output}, args)
		},
	}
	o.serverFlags(c)
	c.Flags().StringVar(&good, "good", "", "an instant at which the command succeeds: "+past.Forms)
	c.Flags().StringVar(&bad, "bad", "now", "a later instant at which it fails")
	plainOutput(c, &output)
	c.Flags().SetInterspersed(false)
	return c
}

// bisectFlags say between which instants is searched.
type bisectFlags struct{ good, bad, output string }

func runBisect(cmd *cobra.Command, o operator, f bisectFlags, command []string) error {
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close()
	from, err := resolve(cmd, s, "--good", f.good)
	if err != nil {
		return err
	}
	to, err := resolve(cmd, s, "--bad", f.bad)
	if err != nil {
		return err
	}
	if from.Rev >= to.Rev {
		return fmt.Errorf("--good %s is %s, which is not before --bad %s, %s", f.good, from.Text(), f.bad, to.Text())
	}
	w, err := s.OpenWindow(from.Text())
	if err != nil {
		return err
	}
	search := past.NewBisection(from.Rev, to.Rev)
	status, _, err := s.Status(cmd.Context())
	if err != nil {
		return err
	}
	for _, g := range status.Gaps { // no command can say anything of what is lost
		search.SkipBetween(g.From.Rev, g.To.Rev)
	}
	err = withWindow(cmd.Context(), w, func(ctx context.Context) error {
		return searchRevisions(ctx, search, func(rev int64) (verdict, error) {
			return judge(ctx, cmd, w, rev, command)
		}, func(rev int64, v verdict) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s is %s, about %d to go\n", remote.RevText(rev), v, search.Left())
		})
	})
	if err != nil {
		return err
	}
	return reportBisection(cmd, s, search, status.Gaps, f.output)
}

// verdict is what a command says about a revision.
type verdict string

const (
	isGood  verdict = "good"
	isBad   verdict = "bad"
	skipped verdict = "skipped"
)

// judge runs the command at a revision.
func judge(ctx context.Context, cmd *cobra.Command, w *remote.Window, rev int64, command []string) (verdict, error) {
	instant := remote.RevText(rev)
	w.Show(instant)
	code, err := runIn(ctx, cmd, w, instant, command, cmd.ErrOrStderr())
	switch {
	case err != nil:
		return "", err
	case code == 0:
		return isGood, nil
	case code == bisectSkip:
		return skipped, nil
	case code < bisectStop:
		return isBad, nil
	default:
		return "", fmt.Errorf("the command exited with %d at %s, and codes from %d on stop the search", code, instant, bisectStop)
	}
}

// searchRevisions narrows the search down, after it has made sure that its ends are what
// they are said to be.
func searchRevisions(ctx context.Context, b *past.Bisection, judge func(rev int64) (verdict, error), tell func(rev int64, v verdict)) error {
	good, bad := b.Found()
	for _, end := range []struct {
		rev  int64
		want verdict
	}{{good, isGood}, {bad, isBad}} {
		v, err := judge(end.rev)
		if err != nil {
			return err
		}
		if v != end.want {
			return fmt.Errorf("--%s: the command says that %s is %s", end.want, remote.RevText(end.rev), v)
		}
		tell(end.rev, v)
	}
	for rev, ok := b.Next(); ok; rev, ok = b.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		v, err := judge(rev)
		if err != nil {
			return err
		}
		switch v {
		case isGood:
			b.Good(rev)
		case isBad:
			b.Bad(rev)
		default:
			b.Skip(rev)
		}
		tell(rev, v)
	}
	return nil
}

// bisection is what was found, in JSON and YAML.
type bisection struct {
	Good int64 `json:"good"`
	Bad  int64 `json:"bad"`
	// Found says that nothing is between the two.
	Found bool `json:"found"`
	// Gaps are where changes between the two are lost.
	Gaps   []remote.Gap    `json:"gaps,omitempty"`
	Events []schemas.Event `json:"events"`
}

// reportBisection prints the first bad revision with who changed what.
func reportBisection(cmd *cobra.Command, s *remote.Server, b *past.Bisection, gaps []remote.Gap, output string) error {
	r := bisection{Events: []schemas.Event{}}
	r.Good, r.Bad = b.Found()
	r.Found = r.Bad-r.Good == 1
	for _, g := range gaps {
		if g.From.Rev < r.Bad && g.To.Rev > r.Good+1 && !r.Found {
			r.Gaps = append(r.Gaps, g)
		}
	}
	if r.Found {
		events, err := s.At(cmd.Context(), r.Bad)
		if err != nil {
			return err
		}
		r.Events = append(r.Events, events...)
	}
	if err := writeBisection(cmd, s, output, r); err != nil {
		return err
	}
	if !r.Found {
		return errFound
	}
	return nil
}

func writeBisection(cmd *cobra.Command, s *remote.Server, form string, r bisection) error {
	out := cmd.OutOrStdout()
	switch {
	case form == "json":
		return writeJSON(out, r)
	case form == "yaml":
		return writeYAML(out, r)
	case !r.Found:
		_, err := fmt.Fprintf(out, "The first bad revision is behind %s, up to %s; those between can't be judged.\n", remote.RevText(r.Good), remote.RevText(r.Bad))
		for _, g := range r.Gaps {
			if err == nil {
				_, err = fmt.Fprintf(out, "Lost behind %s, before %s: %s\n", instantText(g.From), instantText(g.To), g.Reason)
			}
		}
		return err
	}
	fmt.Fprintf(out, "%s is the first bad revision.\n", remote.RevText(r.Bad))
	if len(r.Events) == 0 {
		_, err := fmt.Fprintln(out, "You may not see what changed in it.")
		return err
	}
	show := diffEvents(out, pastClock, beforeOf(cmd.Context(), s))
	var err error
	for _, e := range r.Events {
		err = errors.Join(err, show(e))
	}
	return err
}
