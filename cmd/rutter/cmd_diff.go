package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/yaml"

	"github.com/rutter-project/rutter/cmd/rutter/internal/delta"
	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

// diffFlags say which instants are compared, and what of them.
type diffFlags struct {
	operator
	from, to string
	all      bool
	output   string
}

var diffForms = []string{"table", "json", "yaml", "name"}

func newDiff(cfg *standalone.Config) *cobra.Command {
	f := diffFlags{operator: operator{cluster: cfg}}
	c := &cobra.Command{
		Use:   "diff --from INSTANT [--to INSTANT] [RESOURCE[.GROUP][/NAME]]",
		Short: "Compare the cluster at two instants",
		Long: `Diff compares objects as they were at two instants. Without a RESOURCE it compares all
kinds but Events and Leases, which always change; without -n or -A those of the context's
namespace. Managed fields, resource versions and generations are left out, and of Secrets
only which values differ is shown.

With KUBECTL_EXTERNAL_DIFF set, that program gets two directories with YAML files, as from
kubectl diff.

Exit code 0: no difference. 1: differences. 2: it could not be done.`,
		Example: `  rutter diff --from -1h                                # this namespace, an hour ago and now
  rutter diff --from -1h --to -30m deploy/web -n shop
  rutter diff --from rev-1200 --to rev-1300 -A -o name
  KUBECTL_EXTERNAL_DIFF="diff -u -N" rutter diff --from -1h configmaps -A`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completer{cfg}.object,
		RunE:              func(cmd *cobra.Command, args []string) error { return runDiff(cmd, f, args) },
	}
	f.flags(c)
	c.Flags().StringVar(&f.from, "from", "", "the earlier instant: "+past.Forms)
	c.Flags().StringVar(&f.to, "to", "now", "the later instant")
	c.Flags().BoolVarP(&f.all, "all-namespaces", "A", false, "all namespaces, and what has none")
	c.Flags().StringVarP(&f.output, "output", "o", "table", strings.Join(diffForms, ", "))
	complete(c, "output", diffForms)
	return c
}

func runDiff(cmd *cobra.Command, f diffFlags, args []string) error {
	if err := f.validate(); err != nil {
		return err
	}
	s, err := f.connect()
	if err != nil {
		return err
	}
	defer s.Close()
	from, err := resolve(cmd, s, "--from", f.from)
	if err != nil {
		return err
	}
	to, err := resolve(cmd, s, "--to", f.to)
	if err != nil {
		return err
	}
	hidden := map[string]bool{}
	read, err := f.reader(s, args, hidden, from.Text(), to.Text())
	if err != nil {
		return err
	}
	before, err := read(cmd.Context(), from.Text())
	if err != nil {
		return err
	}
	after, err := read(cmd.Context(), to.Text())
	if err != nil {
		return err
	}
	if len(hidden) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "Left out, since you may not list them: %s\n", strings.Join(slices.Sorted(maps.Keys(hidden)), ", "))
	}
	if len(args) == 1 && strings.Contains(args[0], "/") && len(before)+len(after) == 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s was there at neither instant.\n", args[0])
	}
	changed, err := differences(before, after)
	if err != nil {
		return err
	}
	if len(changed) == 0 {
		return writeNothing(cmd.OutOrStdout(), f.output)
	}
	if program := os.Getenv("KUBECTL_EXTERNAL_DIFF"); program != "" && f.output == "table" {
		return externalDiff(cmd, program, from.Text(), to.Text(), changed)
	}
	if err := writeDifferences(cmd.OutOrStdout(), f.output, changed); err != nil {
		return err
	}
	return errFound
}

func (f diffFlags) validate() error {
	switch {
	case f.from == "":
		return fmt.Errorf("--from is missing; give %s", past.Forms)
	case f.all && f.namespace != "":
		return fmt.Errorf("--namespace %q and --all-namespaces exclude each other", f.namespace)
	case !slices.Contains(diffForms, f.output):
		return fmt.Errorf("--output %q: want %s", f.output, strings.Join(diffForms, ", "))
	}
	return nil
}

// objects are what was at an instant.
type objects map[schemas.Key]json.RawMessage

// reader returns what reads the objects that are compared. Resources that nobody named
// and the caller may not list go into hidden.
func (f diffFlags) reader(s *remote.Server, args []string, hidden map[string]bool, instants ...string) (func(context.Context, string) (objects, error), error) {
	if len(args) == 1 && strings.Contains(args[0], "/") {
		r, key, err := f.object(s, args[0])
		return func(ctx context.Context, instant string) (objects, error) {
			object, err := s.Object(ctx, instant, r, key)
			if err != nil || object == nil {
				return nil, err
			}
			return objects{key: object}, nil
		}, err
	}
	namespace := f.in(s)
	if f.all {
		namespace = ""
	}
	resources, err := f.resources(s, args, instants)
	return func(ctx context.Context, instant string) (objects, error) {
		out := objects{}
		seen := len(resources) == 0
		for _, r := range resources {
			found, err := s.List(ctx, instant, r, namespace)
			switch {
			case len(args) == 0 && apierrors.IsMethodNotSupported(err):
				continue // of the present only, such as what other servers answer
			case len(args) == 0 && apierrors.IsForbidden(err):
				hidden[r.Resource] = true
				continue
			case err != nil:
				return nil, fmt.Errorf("%s at %s: %w", r.Resource, instant, err)
			}
			seen = true
			maps.Copy(out, found)
		}
		if !seen {
			return nil, fmt.Errorf("of all kinds at %s you may list none", instant)
		}
		return out, nil
	}, err
}

// restless resources change all the time and are compared only by name.
var restless = map[string]bool{"events": true, "leases": true}

// resources are those of the arguments, or all that could be listed at one of the
// instants.
func (f diffFlags) resources(s *remote.Server, args, instants []string) ([]remote.Resource, error) {
	if len(args) == 1 {
		r, err := s.Find(args[0])
		return []remote.Resource{r}, err
	}
	var out []remote.Resource
	seen := map[remote.Resource]bool{}
	for _, instant := range instants {
		found, err := s.Listable(instant)
		if err != nil {
			return nil, err
		}
		for _, r := range found {
			name := remote.Resource{Group: r.Group, Resource: r.Resource}
			if !seen[name] && !restless[r.Resource] && (r.Namespaced || f.all) {
				seen[name] = true
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// difference is one object that is not the same at both instants. Before and After are
// for showing, with the values of Secrets masked.
type difference struct {
	Key     schemas.Key       `json:"object"`
	Type    schemas.EventType `json:"change"`
	Changes []delta.Change    `json:"-"`
	Lines   []string          `json:"fields,omitempty"`
	before  json.RawMessage
	after   json.RawMessage
}

func differences(before, after objects) ([]difference, error) {
	keys := maps.Clone(before)
	if keys == nil {
		keys = objects{}
	}
	maps.Copy(keys, after)
	var out []difference
	for key := range keys {
		d := difference{Key: key, Type: schemas.Modified}
		d.before, d.after = past.Mask(key, before[key], after[key])
		switch {
		case len(d.before) == 0:
			d.Type = schemas.Added
		case len(d.after) == 0:
			d.Type = schemas.Deleted
		default:
			changes, err := delta.Of(d.before, d.after)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			if len(changes) == 0 {
				continue
			}
			d.Changes = changes
			for _, c := range changes {
				d.Lines = append(d.Lines, c.String())
			}
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b difference) int {
		return cmp.Or(cmp.Compare(a.Key.Namespace, b.Key.Namespace), cmp.Compare(a.Key.Group, b.Key.Group),
			cmp.Compare(a.Key.Resource, b.Key.Resource), cmp.Compare(a.Key.Name, b.Key.Name))
	})
	return out, nil
}

func writeDifferences(w io.Writer, form string, changed []difference) error {
	switch form {
	case "json":
		return writeJSON(w, changed)
	case "yaml":
		return writeYAML(w, changed)
	}
	for _, d := range changed {
		line := objectName(d.Key)
		if form == "table" {
			line = fmt.Sprintf("%s %s", d.Type, line)
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
		if form == "name" {
			continue
		}
		for _, field := range d.Lines {
			if _, err := fmt.Fprintln(w, "   ", field); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeNothing prints an empty list, where programs read what is printed.
func writeNothing(w io.Writer, form string) error {
	switch form {
	case "json":
		return writeJSON(w, []string{})
	case "yaml":
		return writeYAML(w, []string{})
	default:
		return nil
	}
}

func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

func writeYAML(w io.Writer, v any) error {
	text, err := yaml.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}
