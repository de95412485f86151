package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/cmd/rutter/internal/tally"
	"github.com/rutter-project/rutter/schemas"
)

// topFlags say which changes are counted, by what, and how often anew.
type topFlags struct {
	operator
	since, until string
	by           []string
	sort         string
	limit        int
	watch        bool
	interval     time.Duration
	output       string
}

// What rows may be sorted by.
const (
	sortEvents = "events"
	sortBytes  = "bytes"
)

func newTop(cfg *standalone.Config) *cobra.Command {
	f := topFlags{operator: operator{cluster: cfg}}
	c := &cobra.Command{
		Use:   "top [RESOURCE[.GROUP]]",
		Short: "Show who and what changes the most",
		Long: `Top counts the changes in the event log over a window of time, by who made them and what
they were made to: who writes the most, and what is written the most. It is about changes,
not about what pods use of a machine, which is for kubectl top.

With --watch the window moves on with the time, and the table is shown anew every
--interval; -o json then prints one object each time. BYTES are those of the objects in
the changes, as the log has them.

Exit code 0: shown, or interrupted. 1: nothing has changed in the window. 2: it could not
be done.`,
		Example: `  rutter top                                     # the last five minutes, by actor and kind
  rutter top --since 1h --by namespace
  rutter top pods --by object --sort bytes       # the pods that are rewritten the most
  rutter top --by actor,manager,verb --watch --interval 2s
  rutter top --since before-upgrade --until now -o json | jq '.rows[0]'`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completer{cfg}.kind,
		RunE:              func(cmd *cobra.Command, args []string) error { return runTop(cmd, f, args) },
	}
	f.serverFlags(c)
	c.Flags().StringVarP(&f.namespace, "namespace", "n", "", "only this namespace")
	c.Flags().StringVar(&f.since, "since", "-5m", "where the window begins: "+past.Forms)
	c.Flags().StringVar(&f.until, "until", "now", "where it ends")
	c.Flags().StringSliceVar(&f.by, "by", []string{"actor", "kind"}, "what to count by: "+strings.Join(tally.Dimensions, ", "))
	c.Flags().StringVar(&f.sort, "sort", sortEvents, "events or bytes")
	c.Flags().IntVar(&f.limit, "limit", 20, "how many rows; 0 for all")
	c.Flags().BoolVarP(&f.watch, "watch", "w", false, "go on, with a window that moves")
	c.Flags().DurationVar(&f.interval, "interval", 5*time.Second, "how often --watch shows the table")
	plainOutput(c, &f.output)
	complete(c, "by", tally.Dimensions)
	complete(c, "sort", []string{sortEvents, sortBytes})
	return c
}

// shortestInterval keeps --watch from being a busy loop.
const shortestInterval = 100 * time.Millisecond

func (f topFlags) validate() error {
	switch {
	case f.sort != sortEvents && f.sort != sortBytes:
		return fmt.Errorf("--sort %q: want %s or %s", f.sort, sortEvents, sortBytes)
	case f.limit < 0:
		return fmt.Errorf("--limit %d: want a number of rows, or 0 for all", f.limit)
	case f.watch && f.until != "now":
		return errors.New("--watch goes on; it can't be given with --until")
	case f.watch && f.interval < shortestInterval:
		return fmt.Errorf("--interval %s: want %s or more", f.interval, shortestInterval)
	}
	if _, err := tally.New(f.by, 0); err != nil {
		return fmt.Errorf("--by %w", err)
	}
	return checkPlain(f.output)
}

func runTop(cmd *cobra.Command, f topFlags, args []string) error {
	if err := f.validate(); err != nil {
		return err
	}
	s, err := f.connect()
	if err != nil {
		return err
	}
	defer s.Close()
	q := remote.Query{}
	if f.namespace != "" {
		q.Namespace = &f.namespace
	}
	if len(args) == 1 {
		r, err := s.Find(args[0])
		if err != nil {
			return err
		}
		q.Group, q.Resource = &r.Group, &r.Resource
	}
	var from remote.Instant
	if from, q.Since, err = f.begin(cmd, s); err != nil {
		return err
	}
	if f.watch {
		return f.follow(cmd, s, q, from)
	}
	to, err := resolve(cmd, s, "--until", f.until)
	if err != nil {
		return err
	}
	q.Until = to.Text()
	return f.once(cmd, s, q, window{from, to})
}

// begin is where the window begins, and how the server is told: a revision is inclusive, a
// time begins behind the state then. If all that is held is later, it is the oldest of that.
func (f topFlags) begin(cmd *cobra.Command, s *remote.Server) (from remote.Instant, since string, err error) {
	from, err = resolve(cmd, s, "--since", f.since)
	if err == nil && f.since != from.Text() {
		return from, from.Time.UTC().Format(time.RFC3339Nano), nil
	}
	if !apierrors.IsResourceExpired(err) {
		return from, from.Text(), err
	}
	held, _, statusErr := s.Status(cmd.Context())
	if statusErr != nil || held.Oldest == nil {
		return from, "", err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "--since %s is before everything that is held; beginning with the oldest, %s\n", f.since, instantText(*held.Oldest))
	return *held.Oldest, held.Oldest.Text(), nil
}

// window is what was counted.
type window struct{ from, to remote.Instant }

func (w window) length() time.Duration { return w.to.Time.Sub(w.from.Time) }

func (f topFlags) once(cmd *cobra.Command, s *remote.Server, q remote.Query, w window) error {
	counted, err := tally.New(f.by, 0)
	if err != nil {
		return err
	}
	gaps := 0
	err = s.Events(cmd.Context(), q, func(e schemas.Event) error {
		if e.Type == schemas.Gap {
			gaps++
			return nil
		}
		counted.Add(e, takenAt(e))
		return nil
	})
	if err != nil {
		return err
	}
	if gaps > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "Changes were lost in %s and are not counted; see `rutter history status`.\n", count(gaps, "gap"))
	}
	if err := f.write(cmd.OutOrStdout(), counted, w); err != nil {
		return err
	}
	if counted.Total().Events == 0 {
		return errFound
	}
	return nil
}

// takenAt is when the log took a change.
func takenAt(e schemas.Event) time.Time {
	if e.Recorded.IsZero() {
		return e.Header.Time
	}
	return e.Recorded
}

// buckets is into how many steps a window that moves is divided.
const buckets = 100

// follow counts what happens and shows it again and again.
func (f topFlags) follow(cmd *cobra.Command, s *remote.Server, q remote.Query, from remote.Instant) error {
	now := time.Now()
	length := max(now.Sub(from.Time), f.interval)
	counted, err := tally.New(f.by, max(length/buckets, 10*time.Millisecond))
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(cmd.Context())
	events := make(chan schemas.Event)
	g.Go(func() error {
		return s.Follow(ctx, q, nil, func(e schemas.Event) error {
			select {
			case events <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	g.Go(func() error {
		tick := time.NewTicker(f.interval)
		defer tick.Stop()
		for {
			select {
			case e := <-events:
				if e.Type != schemas.Gap {
					counted.Add(e, takenAt(e))
				}
			case now := <-tick.C:
				counted.Forget(now.Add(-length))
				w := window{remote.Instant{Time: now.Add(-length)}, remote.Instant{Rev: counted.Total().LastRev, Time: now}}
				if err := f.refresh(cmd.OutOrStdout(), counted, w); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// clearScreen moves a terminal's cursor to the top and clears what is below.
const clearScreen = "\x1b[H\x1b[2J"

// refresh shows a table in place of the one before if it is looked at on a terminal.
func (f topFlags) refresh(out io.Writer, counted *tally.Tally, w window) error {
	if f.output == "table" && isTerminal(out) {
		if _, err := io.WriteString(out, clearScreen); err != nil {
			return err
		}
	}
	if err := f.write(out, counted, w); err != nil {
		return err
	}
	separator := map[string]string{"table": "\n", "yaml": "---\n"}[f.output]
	_, err := io.WriteString(out, separator)
	return err
}

// topReport is a tally in JSON and YAML.
type topReport struct {
	From    remote.Instant `json:"from"`
	To      remote.Instant `json:"to"`
	Seconds float64        `json:"seconds"`
	Events  int64          `json:"events"`
	Bytes   int64          `json:"bytes"`
	Rows    []topRow       `json:"rows"`
}

type topRow struct {
	Of        map[string]string `json:"of"`
	Events    int64             `json:"events"`
	PerSecond float64           `json:"perSecond"`
	Share     float64           `json:"share"`
	Bytes     int64             `json:"bytes"`
	LastRev   int64             `json:"lastRevision"`
}

func (f topFlags) report(counted *tally.Tally, w window) topReport {
	total := counted.Total()
	r := topReport{From: w.from, To: w.to, Seconds: w.length().Seconds(), Events: total.Events, Bytes: total.Bytes, Rows: []topRow{}}
	for _, row := range counted.Top(f.limit, f.sort == sortBytes) {
		of := map[string]string{}
		for i, name := range f.by {
			of[name] = row.Names[i]
		}
		shown := topRow{Of: of, Events: row.Events, Bytes: row.Bytes, LastRev: row.LastRev, PerSecond: perSecond(row.Events, w)}
		if total.Events > 0 {
			shown.Share = float64(row.Events) / float64(total.Events)
		}
		r.Rows = append(r.Rows, shown)
	}
	return r
}

// perSecond is a rate over a window, which has one second at least.
func perSecond(events int64, w window) float64 { return float64(events) / max(w.length().Seconds(), 1) }

func (f topFlags) write(out io.Writer, counted *tally.Tally, w window) error {
	r := f.report(counted, w)
	switch f.output {
	case "json":
		return writeJSON(out, r)
	case "yaml":
		return writeYAML(out, r)
	}
	fmt.Fprintf(out, "%s in %s up to %s: %.3g a second, %s\n", count(int(r.Events), "change"), w.length().Round(time.Millisecond), pastClock.text(w.to.Time), perSecond(r.Events, w), size(r.Bytes))
	if len(r.Rows) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "CHANGES\tPER SECOND\tSHARE\tBYTES\t%s\n", strings.ToUpper(strings.Join(f.by, "\t")))
	for _, row := range r.Rows {
		names := make([]string, len(f.by))
		for i, name := range f.by {
			names[i] = row.Of[name]
		}
		fmt.Fprintf(table, "%d\t%.3g\t%.1f %%\t%s\t%s\n", row.Events, row.PerSecond, 100*row.Share, size(row.Bytes), strings.Join(names, "\t"))
	}
	return table.Flush()
}
