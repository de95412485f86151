package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rutter-project/rutter/integration/servers"
)

// options are the command line.
type options struct {
	rutter, flags         string
	dir, work, out        string
	only, profiles        string
	objects, watchers     string
	repeat, writes        int
	informers, deliveries int
	events, subscribers   int
}

// sections are what can be chosen with -only, in the order in which they run: what comes
// later finds the objects of what came before.
var sections = []string{"memory", "list", "watch", "informers", "write", "start", "past", "bus"}

func main() {
	var o options
	flag.StringVar(&o.rutter, "rutter", "bin/rutter", "the program")
	flag.StringVar(&o.flags, "flags", "", "further flags of rutter up, with spaces between them")
	flag.StringVar(&o.dir, "dir", filepath.Join("integration", "conformance", "upstream"), "the module that pins upstream")
	flag.StringVar(&o.work, "work", filepath.Join("bin", "upstream"), "where upstream's programs are built")
	flag.StringVar(&o.out, "out", "", "also write the table to this file")
	flag.StringVar(&o.only, "only", strings.Join(sections, ","), "sections to run")
	flag.StringVar(&o.objects, "objects", "10000,50000", "pods, ascending; each size is measured")
	flag.StringVar(&o.watchers, "watchers", "100,1000,5000", "watchers; each number is measured")
	flag.StringVar(&o.profiles, "profiles", "", "a folder for profiles of both API servers while they are measured, which costs some of what is measured")
	flag.IntVar(&o.repeat, "repeat", 5, "how often each list is read")
	flag.IntVar(&o.writes, "writes", 2000, "objects that are created, updated, patched and deleted")
	flag.IntVar(&o.informers, "informers", 50, "that sync at once")
	flag.IntVar(&o.deliveries, "deliveries", 200_000, "of each fan-out, about; every watcher gets 20 at least")
	flag.IntVar(&o.events, "events", 1_000_000, "in the log whose past is read")
	flag.IntVar(&o.subscribers, "subscribers", 10_000, "of each kind that get every change over the bus, etcd and HTTP")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	plan, err := o.plan()
	if err != nil {
		return err
	}
	if o.profiles != "" {
		if err := os.MkdirAll(o.profiles, 0o700); err != nil {
			return err
		}
	}
	table := &table{}
	if plan.beside() {
		err = plan.compare(ctx, table)
	}
	if err == nil {
		err = plan.alone(ctx, table)
	}
	return errors.Join(err, o.print(table)) // what was measured is worth having if the rest failed
}

// compare starts both servers and measures one beside the other.
func (p plan) compare(ctx context.Context, t *table) (err error) {
	programs, err := servers.Build(ctx, p.dir, p.work)
	if err != nil {
		return err
	}
	rutter, err := servers.StartRutter(ctx, p.rutter, strings.Fields(p.flags)...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rutter.Stop()) }()
	upstream, err := servers.StartUpstream(ctx, programs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, upstream.Stop()) }()
	return p.run(ctx, t, rutter, upstream)
}

func (o options) print(t *table) error {
	if o.out == "" {
		return t.write(os.Stdout)
	}
	f, err := os.Create(o.out)
	if err != nil {
		return err
	}
	return errors.Join(t.write(io.MultiWriter(os.Stdout, f)), f.Close())
}

// plan is what a run measures.
type plan struct {
	options
	sections          []string
	objects, watchers []int
}

func (o options) plan() (plan, error) {
	p := plan{options: o, sections: strings.Split(o.only, ",")}
	for _, s := range p.sections {
		if !slices.Contains(sections, s) {
			return p, fmt.Errorf("-only %q: there is no such section; choose of %s", s, strings.Join(sections, ","))
		}
	}
	var err error
	if p.objects, err = numbers("-objects", o.objects); err != nil {
		return p, err
	}
	if p.watchers, err = numbers("-watchers", o.watchers); err != nil {
		return p, err
	}
	if !slices.IsSorted(p.objects) {
		return p, fmt.Errorf("-objects %q is not ascending", o.objects)
	}
	for flag, n := range map[string]int{"-repeat": o.repeat, "-writes": o.writes, "-informers": o.informers, "-deliveries": o.deliveries, "-events": o.events, "-subscribers": o.subscribers} {
		if n < 1 {
			return p, fmt.Errorf("%s must be at least 1", flag)
		}
	}
	return p, nil
}

func numbers(flag, list string) ([]int, error) {
	var all []int
	for _, text := range strings.Split(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%s: %q is not a number above 0", flag, text)
		}
		all = append(all, n)
	}
	return all, nil
}

func (p plan) has(section string) bool { return slices.Contains(p.sections, section) }

// run fills both servers step by step and measures at each size, both servers by turns.
func (p plan) run(ctx context.Context, t *table, both ...*servers.Server) error {
	sides := make([]*side, len(both))
	for i, s := range both {
		side, err := newSide(ctx, s)
		if err != nil {
			return err
		}
		sides[i] = side
	}
	if p.has("memory") {
		if err := p.memory(ctx, t, 0, sides); err != nil {
			return err
		}
	}
	for _, n := range p.objects {
		if err := p.atSize(ctx, t, n, sides); err != nil {
			return fmt.Errorf("with %d objects: %w", n, err)
		}
	}
	if p.has("watch") {
		if err := p.fanOut(ctx, t, sides); err != nil {
			return err
		}
	}
	if p.has("write") {
		if err := p.writing(ctx, t, sides); err != nil {
			return err
		}
	}
	if p.has("start") {
		return p.start(ctx, t, sides)
	}
	return nil
}

// atSize measures what depends on how many objects there are.
func (p plan) atSize(ctx context.Context, t *table, n int, sides []*side) error {
	if p.has("memory") || p.has("list") || p.has("informers") || p.has("start") {
		if err := fill(ctx, n, sides); err != nil {
			return err
		}
	}
	if p.has("memory") {
		if err := p.memory(ctx, t, n, sides); err != nil {
			return err
		}
	}
	if p.has("list") {
		if err := p.lists(ctx, t, n, sides); err != nil {
			return err
		}
	}
	if p.has("informers") {
		return p.syncs(ctx, t, n, sides)
	}
	return nil
}

// progress tells what is being done, beside the table.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
