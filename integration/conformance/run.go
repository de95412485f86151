package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// result is how one test ended.
type result struct {
	passed bool
	took   time.Duration
	reason string // why it failed
}

// runner runs upstream's test binary.
type runner struct {
	o            options
	binary       string
	kubeconfig   string
	repositories string // file
}

func newRunner(o options, p programs, registry, kubeconfig string) (*runner, error) {
	r := &runner{o: o, binary: p.e2e, kubeconfig: kubeconfig, repositories: filepath.Join(o.work, "repositories.yaml")}
	return r, os.WriteFile(r.repositories, fmt.Appendf(nil, repositories, registry), 0o644)
}

// alone are tests that disturb others: upstream's own marks.
var alone = regexp.MustCompile(`\[Serial\]|\[Disruptive\]`)

// run runs the tests: side by side first, then those that want to be alone, then, if
// asked for, those that failed.
func (r *runner) run(ctx context.Context, tests []string) (map[string]result, error) {
	var together, serial []string
	for _, t := range tests {
		if alone.MatchString(t) {
			serial = append(serial, t)
		} else {
			together = append(together, t)
		}
	}
	results := map[string]result{}
	found := make([]map[string]result, r.o.shards)
	g, shardCtx := errgroup.WithContext(ctx)
	for i := range r.o.shards {
		var mine []string
		for j := i; j < len(together); j += r.o.shards {
			mine = append(mine, together[j])
		}
		g.Go(func() (err error) {
			found[i], err = r.shard(shardCtx, "shard-"+strconv.Itoa(i), mine)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, f := range found {
		maps.Copy(results, f)
	}
	if err := r.more(ctx, "serial", serial, results); err != nil {
		return nil, err
	}
	if r.o.retry {
		failed := slices.DeleteFunc(slices.Clone(tests), func(t string) bool { return results[t].passed })
		if err := r.more(ctx, "retry", failed, results); err != nil {
			return nil, err
		}
	}
	return results, nil
}

func (r *runner) more(ctx context.Context, name string, tests []string, results map[string]result) error {
	found, err := r.shard(ctx, name, tests)
	for t, r := range found {
		if _, ran := results[t]; r.passed || !ran {
			results[t] = r
		}
	}
	return err
}

// perTest bounds one test; none of those that pass takes as long.
const perTest = 12 * time.Minute

// shard runs tests one after the other in one process.
func (r *runner) shard(ctx context.Context, name string, tests []string) (map[string]result, error) {
	if len(tests) == 0 || ctx.Err() != nil {
		return notRun(tests), nil
	}
	quoted := make([]string, len(tests))
	for i, t := range tests {
		quoted[i] = regexp.QuoteMeta(t)
	}
	report := filepath.Join(r.o.work, name+".json")
	if err := os.Remove(report); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	output, err := os.Create(filepath.Join(r.o.work, name+".log"))
	if err != nil {
		return nil, err
	}
	defer output.Close()
	kubectl, err := filepath.Abs(r.o.kubectl)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, r.binary,
		"--kubeconfig="+r.kubeconfig, "--provider=skeleton", "--kubectl-path="+kubectl, "--disable-log-dump",
		"--ginkgo.focus=("+strings.Join(quoted, "|")+")$", "--ginkgo.json-report="+report, "--ginkgo.no-color", "--ginkgo.v",
		"--ginkgo.timeout="+(perTest*time.Duration(len(tests))).String(), "--ginkgo.poll-progress-after=0", "--ginkgo.seed=1")
	cmd.Env = append(os.Environ(), "KUBE_TEST_REPO_LIST="+r.repositories)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) } // it then writes its report
	cmd.WaitDelay = time.Minute
	runErr := cmd.Run()
	results, err := readReport(report)
	if err != nil {
		return nil, fmt.Errorf("%s: tests wrote no report (%w): %w; see %s", name, runErr, err, output.Name())
	}
	for t, r := range notRun(tests) {
		if _, ok := results[t]; !ok {
			results[t] = r
		}
	}
	return results, nil
}

// notRun are the results of tests of which nothing is known.
func notRun(tests []string) map[string]result {
	results := map[string]result{}
	for _, t := range tests {
		results[t] = result{reason: "not run: upstream has no such test, or the run ended before"}
	}
	return results
}

// spec is what is read of a report; see ginkgo's types.SpecReport.
type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string
	RunTime                 time.Duration
	Failure                 struct {
		Message  string
		Location struct {
			FileName   string
			LineNumber int
		}
	}
}

func readReport(file string) (map[string]result, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var suites []struct{ SpecReports []spec }
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	results := map[string]result{}
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			name := strings.Join(append(slices.Clone(s.ContainerHierarchyTexts), s.LeafNodeText), " ")
			switch {
			case s.LeafNodeType != "It" && s.State == "failed":
				return nil, fmt.Errorf("%s failed: %s", s.LeafNodeType, firstLine(s.Failure.Message))
			case s.LeafNodeType != "It":
			case s.State == "passed":
				results[name] = result{passed: true, took: s.RunTime}
			case s.State == "skipped" && s.Failure.Message == "": // not in focus
			default:
				where := filepath.Base(s.Failure.Location.FileName) + ":" + strconv.Itoa(s.Failure.Location.LineNumber)
				results[name] = result{took: s.RunTime, reason: s.State + " at " + where + ": " + firstLine(s.Failure.Message)}
			}
		}
	}
	return results, nil
}

const reasonLength = 300

// firstLine is the message on one line, shortened.
func firstLine(message string) string {
	line := strings.Join(strings.Fields(message), " ")
	if len(line) > reasonLength {
		line = line[:reasonLength] + "..."
	}
	return line
}
