// Conformance runs upstream's end-to-end tests against Rutter and says which pass.
//
// It builds upstream's test binary and the programs in its images from their Go modules,
// assembles the images, serves them from a registry on loopback, starts `rutter up` with
// a data directory of its own, runs the named tests in a few processes side by side, and
// prints a table: passed, failed, and not yet runnable with the reason. It needs root,
// like the node it starts.
//
//	conformance                      all tests of tests.txt
//	conformance -run 'sig-auth'      those whose name matches
//	conformance -set fast            those of fast.txt; a failure of one is an error
//	conformance -record              write what passed to passing.txt
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

type options struct {
	dir      string // this module
	rutter   string
	kubectl  string
	work     string // what is built is kept here
	run      string
	set      string
	record   bool
	retry    bool
	shards   int
	timeout  time.Duration
	keep     bool
	attached string // kubeconfig of a cluster that runs already
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", ".", "the folder with tests.txt and the other lists, and upstream's module")
	flag.StringVar(&o.rutter, "rutter", "../../bin/rutter", "the rutter binary")
	flag.StringVar(&o.kubectl, "kubectl", "../../bin/kubectl", "the kubectl binary")
	flag.StringVar(&o.work, "work", "../../bin/conformance", "folder for what is built and reported")
	flag.StringVar(&o.run, "run", "", "only tests whose name matches this regular expression")
	flag.StringVar(&o.set, "set", "tests", "the list to run: tests, passing, fast, or failing: tests that are not in passing")
	flag.BoolVar(&o.record, "record", false, "write the tests that passed to passing.txt, keeping those that were not run")
	flag.BoolVar(&o.retry, "retry", false, "run tests that failed once more, alone")
	flag.IntVar(&o.shards, "shards", 3, "processes that run tests side by side; serial tests run alone at the end")
	flag.DurationVar(&o.timeout, "timeout", 80*time.Minute, "when to give up on what still runs")
	flag.BoolVar(&o.keep, "keep", false, "leave the cluster running at the end, and say where it is")
	flag.StringVar(&o.attached, "kubeconfig", "", "test the cluster of this kubeconfig instead of starting one; its nodes must reach the registry on loopback")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := conform(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(2)
	}
	os.Exit(code)
}

// conform does everything and returns the exit code: 1 if a test failed that is known to
// pass.
func conform(ctx context.Context, o options) (code int, err error) {
	lists, err := readLists(o.dir)
	if err != nil {
		return 0, err
	}
	pattern, err := regexp.Compile(o.run)
	if err != nil {
		return 0, fmt.Errorf("-run: %w", err)
	}
	chosen, err := lists.choose(o.set, pattern)
	if err != nil {
		return 0, err
	}
	if o.work, err = filepath.Abs(o.work); err != nil {
		return 0, err
	}
	programs, err := build(ctx, o)
	if err != nil {
		return 0, err
	}
	registry, err := serveImages(ctx, programs)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, registry.Close()) }()
	server := &server{kubeconfig: o.attached}
	if o.attached == "" {
		if server, err = startServer(ctx, o); err != nil {
			return 0, err
		}
		if o.keep {
			fmt.Printf("The cluster stays: KUBECONFIG=%s, pid %d\n", server.kubeconfig, server.PID())
		} else {
			defer func() { err = errors.Join(err, server.stop()) }()
		}
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	runner, err := newRunner(o, programs, registry.Host, server.kubeconfig)
	if err != nil {
		return 0, err
	}
	results, err := runner.run(ctx, chosen.runnable)
	if err != nil {
		return 0, err
	}
	t := table{results: results, blocked: chosen.blocked, passing: lists.passing}
	if err := t.write(os.Stdout, filepath.Join(o.work, "results.txt")); err != nil {
		return 0, err
	}
	if o.record {
		if err := lists.record(results); err != nil {
			return 0, err
		}
	}
	if len(t.regressions()) > 0 {
		return 1, nil
	}
	return 0, nil
}
