package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/apiserver/wholefile"
	"github.com/rutter-project/rutter/cmd/rutter/internal/incident"
	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
	"github.com/rutter-project/rutter/schemas/bundle"
)

// bundleFlags say what goes into a bundle.
type bundleFlags struct {
	operator
	from, to   string
	namespaces []string
	kinds      []string
	object     string
	causes     bool
	redact     []string
	output     string
}

func newBundle(cfg *standalone.Config) *cobra.Command {
	f := bundleFlags{operator: operator{cluster: cfg}}
	c := &cobra.Command{
		Use:   "bundle FILE --from INSTANT [--to INSTANT]",
		Short: "Write an incident to one file",
		Long: `Bundle writes a span of history to one compressed file: every object as it was at --from,
and every change up to --to, with who made it and why. rutter open serves it as an API, on
any machine, without a cluster.

Without -n, --kind or --object everything that you may list and watch is in it. What was
chosen is joined by the objects whose changes caused its own (--causes=false leaves them
out), by the namespaces it lies in, and by all definitions of custom resources.

The values of Secrets are never in a bundle, nor are their annotations. --redact env hides
the values of environment variables, --redact configmaps those of ConfigMaps, in what
kubectl apply has noted too; a mark stands for each, which is the same for equal values in
one bundle. Arguments of containers, and fields of custom resources, are not hidden.

Exit code 0: written. 1: nothing of what was chosen is held. 2: it could not be done.`,
		Example: `  rutter bundle outage.bundle --from -2h
  rutter bundle shop.bundle --from 2026-01-02T15:00:00Z --to -10m -n shop --redact env
  rutter bundle web.bundle --from rev-1000 -n shop --object deploy/web`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runBundle(cmd, f, args[0]) },
	}
	f.serverFlags(c)
	c.Flags().StringVar(&f.from, "from", "", "the beginning: "+past.Forms)
	c.Flags().StringVar(&f.to, "to", "now", "the end, inclusive")
	c.Flags().StringSliceVarP(&f.namespaces, "namespace", "n", nil, "only what is in this namespace; may be repeated")
	c.Flags().StringSliceVar(&f.kinds, "kind", nil, "only this resource, such as deploy; may be repeated")
	c.Flags().StringVar(&f.object, "object", "", "only this object, as RESOURCE/NAME, what it owns, and Events about them")
	c.Flags().BoolVar(&f.causes, "causes", true, "with the objects whose changes were causes")
	c.Flags().StringSliceVar(&f.redact, "redact", nil, "what to hide beside Secrets: "+strings.Join(incident.Hidden, ", "))
	complete(c, "redact", incident.Hidden)
	complete(c, "kind", shortResources)
	plainOutput(c, &f.output)
	return c
}

func (f bundleFlags) check(file string) error {
	switch {
	case f.from == "":
		return fmt.Errorf("--from is missing; give %s", past.Forms)
	case f.object != "" && (len(f.kinds) > 0 || len(f.namespaces) > 1):
		return errors.New("--object names one object: --kind, and more than one --namespace, don't go with it")
	}
	if f.object != "" {
		if _, _, err := splitObject(f.object); err != nil {
			return fmt.Errorf("--object %w", err)
		}
	}
	if err := incident.CheckRedaction(f.redact); err != nil {
		return err
	}
	if err := checkPlain(f.output); err != nil {
		return err
	}
	return absent(file)
}

// absent refuses to write over what is there.
func absent(file string) error {
	switch _, err := os.Lstat(file); {
	case err == nil:
		return fmt.Errorf("%s exists; remove it, or give another name", file)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	default:
		return nil
	}
}

func runBundle(cmd *cobra.Command, f bundleFlags, file string) error {
	if err := f.check(file); err != nil {
		return err
	}
	s, err := f.connect()
	if err != nil {
		return err
	}
	defer s.Close()
	what, err := f.selection(s)
	if err != nil {
		return err
	}
	r := recorder{server: s, choice: incident.NewChoice(what, f.causes), redact: incident.Redaction{What: f.redact}}
	if r.from, err = resolve(cmd, s, "--from", f.from); err != nil {
		return err
	}
	if r.to, err = resolve(cmd, s, "--to", f.to); err != nil {
		return err
	}
	if r.to.Rev < r.from.Rev {
		return fmt.Errorf("--to %s is %s, which is before --from %s, %s", f.to, r.to.Text(), f.from, r.from.Text())
	}
	found, err := r.choose(cmd.Context())
	if err != nil {
		return err
	}
	if !found {
		fmt.Fprintf(cmd.ErrOrStderr(), "Nothing of %s is held from %s to %s.\n", chosen(what), r.from.Text(), r.to.Text())
		return errFound
	}
	body, header, err := r.record(cmd.Context())
	if err != nil {
		return err
	}
	if err := wholefile.Write(file, body, 0o600); err != nil {
		return err
	}
	return writeBundleHeader(cmd.OutOrStdout(), f.output, file, int64(len(body)), header)
}

// selection looks up the names that were given.
func (f bundleFlags) selection(s *remote.Server) (bundle.Selection, error) {
	what := bundle.Selection{Namespaces: f.namespaces}
	for _, name := range f.kinds {
		r, err := s.Find(name)
		if err != nil {
			return what, fmt.Errorf("--kind: %w", err)
		}
		what.Resources = append(what.Resources, incident.ResourceName(r.Key("", "")))
	}
	if f.object == "" {
		return what, nil
	}
	if len(f.namespaces) == 1 {
		f.namespace = f.namespaces[0]
	}
	_, key, err := f.operator.object(s, f.object)
	what.Namespaces, what.Object = nil, &key
	return what, err
}

// recorder makes a bundle of what a server tells.
type recorder struct {
	server   *remote.Server
	choice   *incident.Choice
	redact   incident.Redaction
	from, to remote.Instant
	later    []remote.Instant // set by read
}

// choose finds out what of the span is wanted, and whether there is any.
func (r *recorder) choose(ctx context.Context) (bool, error) {
	if r.choice.Whole() {
		return true, nil
	}
	learn := func(e schemas.Event) error {
		r.choice.Learn(e)
		return nil
	}
	if err := r.read(ctx, learn, learn, func(_ int64, e schemas.Event) error { return learn(e) }); err != nil {
		return false, err
	}
	return r.choice.Decide() > 0, nil
}

// read hands on the state at the beginning, what happened until the end, and the state
// behind each gap that no state follows, with its revision.
func (r *recorder) read(ctx context.Context, object, change func(schemas.Event) error, again func(int64, schemas.Event) error) error {
	if err := r.server.State(ctx, r.from.Text(), object); err != nil {
		return fmt.Errorf("objects at %s: %w", r.from.Text(), err)
	}
	if r.from.Rev == r.to.Rev {
		return nil
	}
	var lost []schemas.Event
	err := r.server.Events(ctx, remote.Query{Since: remote.RevText(r.from.Rev + 1), Until: r.to.Text()}, func(e schemas.Event) error {
		if e.Lost() {
			lost = append(lost, e)
		}
		return change(e)
	})
	if err != nil {
		return err
	}
	if r.later, err = r.behind(ctx, lost); err != nil {
		return err
	}
	for _, at := range r.later {
		err := r.server.State(ctx, at.Text(), func(e schemas.Event) error { return again(at.Rev, e) })
		if err != nil {
			return fmt.Errorf("objects at %s, behind a gap: %w", at.Text(), err)
		}
	}
	return nil
}

// behind are the first instants behind gaps whose state is held.
func (r *recorder) behind(ctx context.Context, lost []schemas.Event) ([]remote.Instant, error) {
	if len(lost) == 0 {
		return nil, nil
	}
	status, _, err := r.server.Status(ctx)
	if err != nil {
		return nil, err
	}
	var out []remote.Instant
	for _, e := range lost {
		at := r.to
		for _, g := range status.Gaps {
			if g.From.Rev <= e.PrevRev && e.Rev <= g.To.Rev && g.To.Rev < at.Rev {
				at = g.To
			}
		}
		if len(out) == 0 || out[len(out)-1].Rev < at.Rev {
			out = append(out, at)
		}
	}
	return out, nil
}

func (r *recorder) record(ctx context.Context) ([]byte, bundle.Header, error) {
	status, _, err := r.server.Status(ctx)
	if err != nil {
		return nil, bundle.Header{}, err
	}
	if r.redact.Mark, err = marks(); err != nil {
		return nil, bundle.Header{}, err
	}
	w, err := bundle.NewWriter()
	if err != nil {
		return nil, bundle.Header{}, err
	}
	wanted := func(add func(schemas.Event) error) func(schemas.Event) error {
		return func(e schemas.Event) error {
			if !r.choice.Wants(e) {
				return nil
			}
			if len(e.Object) > 0 {
				e.DataRef = "" // it was fetched
			}
			return add(r.redact.Apply(e))
		}
	}
	again := func(at int64, e schemas.Event) error {
		return wanted(func(e schemas.Event) error { return w.Later(at, e) })(e)
	}
	if err := r.read(ctx, wanted(w.Object), wanted(w.Event), again); err != nil {
		return nil, bundle.Header{}, err
	}
	h := bundle.Header{
		Rutter: build().Version, Made: time.Now().UTC().Truncate(time.Second), Cluster: status.Epoch,
		From: bundle.Instant(r.from), To: bundle.Instant(r.to),
		Selection: r.choice.Selection, Redacted: append([]string{bundle.Redacted}, r.redact.What...),
	}
	for _, at := range r.later {
		h.Later = append(h.Later, bundle.Instant(at))
	}
	if h.To.Time.Before(h.From.Time) { // a clock was put back; revisions count
		h.To.Time = h.From.Time
	}
	var body bytes.Buffer
	h, err = w.WriteTo(&body, h)
	return body.Bytes(), h, err
}

// marks stand for values. Nobody can try values on them: the key is thrown away.
func marks() (func(string) string, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	return func(value string) string {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(value))
		return "redacted-" + hex.EncodeToString(mac.Sum(nil)[:4])
	}, nil
}

// bundleInfo is a header in JSON and YAML.
type bundleInfo struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
	bundle.Header
}

func writeBundleHeader(w io.Writer, form, file string, bytes int64, h bundle.Header) error {
	switch info := (bundleInfo{file, bytes, h}); form {
	case "json":
		return writeJSON(w, info)
	case "yaml":
		return writeYAML(w, info)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "Bundle\t%s, %s, written by rutter %s on %s\n", file, size(bytes), h.Rutter, pastClock.text(h.Made))
	fmt.Fprintf(table, "Cluster\t%s\n", cmp.Or(h.Cluster, "unknown"))
	fmt.Fprintf(table, "From\t%s\n", instantText(remote.Instant(h.From)))
	fmt.Fprintf(table, "To\t%s\n", instantText(remote.Instant(h.To)))
	fmt.Fprintf(table, "Of\t%s\n", chosen(h.Selection))
	fmt.Fprintf(table, "Holds\t%s, %s, %s\n", count(h.Objects(), "object"), count(h.Events()-h.Gaps, "change"), count(h.Gaps, "gap"))
	fmt.Fprintf(table, "Hidden\t%s\n", strings.Join(h.Redacted, ", "))
	return table.Flush()
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// chosen is a selection for people.
func chosen(s bundle.Selection) string {
	switch {
	case s.Object != nil:
		return objectName(*s.Object) + " and what it owns"
	case s.Whole():
		return "everything"
	}
	what := cmp.Or(strings.Join(s.Resources, ", "), "all kinds")
	if len(s.Namespaces) > 0 {
		what += " in " + strings.Join(s.Namespaces, ", ")
	}
	return what
}
