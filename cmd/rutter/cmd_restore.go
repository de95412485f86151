package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

// restoreFlags say what is put back, and how.
type restoreFlags struct {
	operator
	from, file                  string
	bundle                      string
	write, dryRun, force, owned bool
	exact                       bool
	output                      string
}

// restoreManager owns the fields that were put back.
const restoreManager = "rutter-restore"

func newRestore(cfg *standalone.Config) *cobra.Command {
	f := restoreFlags{operator: operator{cluster: cfg}}
	c := &cobra.Command{
		Use:   "restore (--from INSTANT | --from-bundle FILE) (RESOURCE[.GROUP]/NAME... | -f FILE)",
		Short: "Put objects back to what they were",
		Long: `Restore asks for objects to be as they were at an instant, by server-side apply with the
field manager rutter-restore. Without --apply nothing is written: the server is asked what
would change (a dry run, with defaults, validation and admission), and that is printed.

Status, identity and managed fields are not restored: an object that is gone is made anew.
Fields that have been added since stay, and are listed: they belong to others, and an apply
does not remove those. --exact removes them, by replacing the object; the dry run shows
each. What others than you have changed since is a conflict: --apply refuses it, before
anything is written, unless --force-conflicts overrides them. An object that changes while
it is restored is refused.

Objects that a controller makes (a pod of a ReplicaSet) are left to it; --with-owned
restores them too, and what the objects own. Secrets are restored for who may read those of
the past. Objects that were not there at the instant are left alone.

--from-bundle takes the objects from a file that rutter bundle has written, as of its end or
of an instant in it (--from). Values that are hidden in it can't be restored: such objects,
and Secrets, are left alone. If it is of another cluster, or of a time that is not held any
more, nobody knows who has changed what is there since, and every change is a conflict.

-f reads objects from a file, one a line as rutter diff -o name prints them
("NAMESPACE RESOURCE.GROUP/NAME"); - is standard input.

Exit code 0: restored, or nothing differs. 1: a dry run found differences, or nothing is
held of the objects. 2: it could not be done.`,
		Example: `  rutter restore deploy/web -n shop --from -1h                # what would change?
  rutter restore deploy/web -n shop --from -1h --apply --force-conflicts
  rutter restore cm/settings --from before-upgrade --exact    # and without what was added
  rutter restore deploy/web -n shop --from-bundle outage.bundle --from -10m
  rutter diff --from rev-1200 -n shop -o name configmaps | rutter restore -f - --from rev-1200`,
		ValidArgsFunction: completer{cfg}.objects,
		RunE:              func(cmd *cobra.Command, args []string) error { return runRestore(cmd, f, args) },
	}
	f.flags(c)
	c.Flags().StringVar(&f.from, "from", "", "the instant at which they were right: "+past.Forms)
	c.Flags().StringVar(&f.bundle, "from-bundle", "", "take the objects from this bundle")
	c.Flags().BoolVar(&f.exact, "exact", false, "remove what was added since")
	c.Flags().StringVarP(&f.file, "filename", "f", "", "file that names the objects, - for standard input")
	c.Flags().BoolVar(&f.write, "apply", false, "write; without it nothing is written")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "write nothing (the default)")
	c.Flags().BoolVar(&f.force, "force-conflicts", false, "override what others have changed since")
	c.Flags().BoolVar(&f.owned, "with-owned", false, "with objects that controllers make, and with what the objects own")
	c.Flags().StringVarP(&f.output, "output", "o", "table", strings.Join(diffForms, ", "))
	complete(c, "output", diffForms)
	return c
}

func (f restoreFlags) validate(args []string) error {
	switch {
	case f.from == "" && f.bundle == "":
		return fmt.Errorf("--from is missing; give %s", past.Forms)
	case (len(args) > 0) == (f.file != ""):
		return errors.New("give objects as RESOURCE/NAME, such as deploy/web, or a file with -f")
	case f.write && f.dryRun:
		return errors.New("--apply and --dry-run exclude each other")
	case !slices.Contains(diffForms, f.output):
		return fmt.Errorf("--output %q: want %s", f.output, strings.Join(diffForms, ", "))
	}
	for _, arg := range args {
		if _, _, err := splitObject(arg); err != nil {
			return err
		}
	}
	return nil
}

func runRestore(cmd *cobra.Command, f restoreFlags, args []string) error {
	if err := f.validate(args); err != nil {
		return err
	}
	s, err := f.connect()
	if err != nil {
		return err
	}
	defer s.Close()
	r := restorer{server: s, source: s, restoreFlags: f, errs: cmd.ErrOrStderr(), uids: map[schemas.Key]string{}}
	if f.bundle == "" {
		return r.run(cmd, args)
	}
	return r.fromBundle(cmd, func() error { return r.run(cmd, args) })
}

// run restores from the source.
func (r *restorer) run(cmd *cobra.Command, args []string) error {
	named, err := r.named(cmd, args)
	if err != nil {
		return err
	}
	if r.at, err = resolve(cmd, r.source, "--from", cmp.Or(r.from, "now")); err != nil {
		return err
	}
	if r.me, err = r.server.Whoami(cmd.Context()); err != nil {
		return err
	}
	wanted, err := r.gather(cmd.Context(), named)
	if err != nil {
		return err
	}
	if len(wanted) == 0 {
		fmt.Fprintf(r.errs, "Nothing of it is held at %s.\n", r.at.Text())
		return errors.Join(errFound, writeNothing(cmd.OutOrStdout(), r.output))
	}
	if err := r.try(cmd.Context(), wanted); err != nil {
		return err
	}
	return r.finish(cmd, wanted)
}

// named reads which objects are meant.
func (r *restorer) named(cmd *cobra.Command, args []string) ([]target, error) {
	lines := make([]string, len(args))
	copy(lines, args)
	if r.file != "" {
		var err error
		if lines, err = selected(cmd, r.file); err != nil {
			return nil, err
		}
	}
	var out []target
	for _, line := range lines {
		o := r.operator
		if namespace, object, ok := strings.Cut(line, " "); ok {
			o.namespace, line = namespace, object
		}
		resource, key, err := o.object(r.server, line)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, target{resource, key}) {
			out = append(out, target{resource, key})
		}
	}
	return out, nil
}

// selected reads a file of objects.
func selected(cmd *cobra.Command, file string) ([]string, error) {
	in := cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("--filename: %w", err)
		}
		defer f.Close()
		in = f
	}
	var out []string
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if len(words) > 2 {
			return nil, fmt.Errorf("--filename %s: line %d: more than \"NAMESPACE RESOURCE/NAME\"", file, n)
		}
		if _, _, err := splitObject(words[len(words)-1]); err != nil {
			return nil, fmt.Errorf("--filename %s: line %d: %w", file, n, err)
		}
		out = append(out, strings.Join(words, " "))
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("--filename %s: %w", file, err)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("--filename %s: it names no object; give lines such as \"shop deployments.apps/web\"", file)
	}
	return out, nil
}
