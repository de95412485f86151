package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rutter-project/rutter/integration/servers"
)

// inside are sections that are measured by Go benchmarks inside the product, which are run
// from here. kube-apiserver has no counterpart for most of it.
var inside = []string{"past", "bus"}

// beside reports that something is measured on both servers.
func (p plan) beside() bool {
	return slices.ContainsFunc(p.sections, func(s string) bool { return !slices.Contains(inside, s) })
}

// benchmark is one run of `go test -bench`, and what of its output goes into the table.
type benchmark struct {
	section, folder, pattern, times string
	args                            []string
	figures                         []figure
	watchers                        int // of kube-apiserver, which are measured too; 0 for none
}

// figure is one of a benchmark's metrics.
type figure struct {
	name, metric string // of the benchmark, without its first element, and of the metric
	what, unit   string // in the table
	good         better
	aim          float64 // 0 if there is none
}

// besideWatchers is the figure that kube-apiserver's watchers are compared with.
var besideWatchers = [2]string{"live", "deliveries/CPU-s"}

func (p plan) benchmarks() []benchmark {
	first, live := "state at any instant, the first time", "change to a tap"
	all := []benchmark{{
		section: "past", folder: "./apiserver/internal/history", pattern: "^BenchmarkPast$", times: "5x",
		args: []string{"-events", strconv.Itoa(p.events)},
		figures: []figure{
			{"first_answer", "ms-p50", first, "ms, median", less, 1000},
			{"first_answer", "ms-max", first, "ms, longest", less, 0},
			{"first_answer", "cpu-ms", first, "CPU ms", less, 0},
			{"repeated_answer", "ms/answer", "state at any instant, again", "ms", less, 50},
			{"replay", "events/s/core", "replay", "events per CPU-second", more, 100_000},
			{"replay", "events/s", "replay", "events per second", more, 0},
			{"live_beside_a_replay", "alone-us-p50", live + ", alone", "p50 µs", less, 0},
			{"live_beside_a_replay", "alone-us-p99", live + ", alone", "p99 µs", less, 0},
			{"live_beside_a_replay", "beside-us-p50", live + ", beside a replay", "p50 µs", less, 0},
			{"live_beside_a_replay", "beside-us-p99", live + ", beside a replay", "p99 µs", less, 0},
			{"live_beside_a_replay", "p99-ratio", live + ", beside a replay", "times p99 alone", less, 1.1},
			{"live_beside_a_replay", "p99-noise", live + ", alone", "times p99 of other turns alone", less, 0},
			{"live_beside_a_replay", "replayed/s", "replay beside changes", "events per second", more, 0},
		},
	}, {
		section: "bus", folder: "./bus", pattern: "^BenchmarkFanOut$", times: "5000x",
		figures: []figure{
			{"", "events/s", "100 subscribers, 1,000 changes/s wanted", "changes per second", more, 0},
			{"", "p50-us", "100 subscribers, 1,000 changes/s wanted", "p50 µs", less, 0},
			{"", "p99-us", "100 subscribers, 1,000 changes/s wanted", "p99 µs", less, 5000},
		},
	}, {
		section: "bus", folder: "./integration", pattern: "^BenchmarkSubscribers$", times: "1x",
		args:     []string{"-subscribers", strconv.Itoa(p.subscribers), "-connections", "20", "-changes", "60", "-rate", "2"},
		watchers: p.subscribers,
	}}
	subscribers := &all[len(all)-1]
	for _, kind := range []struct{ name, what string }{
		{"live", "live subject"}, {"push", "JetStream push consumer"}, {"etcd", "watch on etcd"}, {"http", "watch over HTTP"},
	} {
		what := fmt.Sprintf("%d subscribers, %s", p.subscribers, kind.what)
		subscribers.figures = append(subscribers.figures,
			figure{kind.name, "deliveries/CPU-s", what, "deliveries per server CPU-second", more, 0},
			figure{kind.name, "p50-ms", what, "p50 ms", less, 0}, figure{kind.name, "p99-ms", what, "p99 ms", less, 0},
			figure{kind.name, "RSS-MB", what, "server memory MB", less, 0})
	}
	return all
}

// alone runs the benchmarks of the sections inside.
func (p plan) alone(ctx context.Context, t *table) error {
	for _, b := range p.benchmarks() {
		if !p.has(b.section) {
			continue
		}
		progress("%s: go test %s -bench %s", b.section, b.folder, b.pattern)
		out, err := p.goTest(ctx, b)
		if err != nil {
			return err
		}
		found, err := b.read(out, t)
		if err != nil {
			return fmt.Errorf("go test %s -bench %s: %w\n%s", b.folder, b.pattern, err, out)
		}
		if b.watchers == 0 {
			continue
		}
		upstream, err := p.upstreamFanOut(ctx, b.watchers)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("%d subscribers, live subject beside watches of kube-apiserver", b.watchers)
		t.add(what, "deliveries per server CPU-second", more, found[besideWatchers], upstream)
	}
	return nil
}

// upstreamFanOut is how many deliveries to n watchers kube-apiserver and its etcd make in a
// second of their processor time, with nothing else started.
func (p plan) upstreamFanOut(ctx context.Context, n int) (perCPU float64, err error) {
	programs, err := servers.Build(ctx, p.dir, p.work)
	if err != nil {
		return 0, err
	}
	upstream, err := servers.StartUpstream(ctx, programs)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, upstream.Stop()) }()
	s, err := newSide(ctx, upstream)
	if err != nil {
		return 0, err
	}
	if err := s.makeWatched(ctx); err != nil {
		return 0, err
	}
	f, err := p.fan(ctx, s, n, 0)
	if err != nil {
		return 0, fmt.Errorf("%s: %d watchers: %w", s.Name, n, err)
	}
	return float64(len(f.took)) / f.cpu.Seconds(), nil
}

func (p plan) goTest(ctx context.Context, b benchmark) ([]byte, error) {
	program, err := filepath.Abs(p.rutter)
	if err != nil {
		return nil, err
	}
	args := []string{"test", b.folder, "-run", "^$", "-bench", b.pattern, "-benchtime", b.times, "-timeout", "1h", "-args"}
	cmd := exec.CommandContext(ctx, "go", append(args, b.args...)...)
	cmd.Env = append(os.Environ(), "RUTTER_BIN="+program)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(cmd.Args[1:], " "), err, out)
	}
	return out, nil
}

// read puts the figures of a benchmark's output into the table. All must be there. It returns
// what there is, by name and metric.
func (b benchmark) read(out []byte, t *table) (found map[[2]string]float64, err error) {
	found = map[[2]string]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := fields[0][:max(strings.LastIndexByte(fields[0], '-'), 0)] // the number of processors is behind it
		_, name, _ = strings.Cut(name, "/")
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", lines.Text(), err)
			}
			found[[2]string{name, fields[i+1]}] = value
		}
	}
	for _, f := range b.figures {
		value, ok := found[[2]string{f.name, f.metric}]
		if !ok {
			return nil, fmt.Errorf("no %s of %q", f.metric, f.name)
		}
		t.addAlone(f, value)
	}
	return found, nil
}

// addAlone adds a figure that upstream has no counterpart for.
func (t *table) addAlone(f figure, value float64) {
	r := row{what: f.what, unit: f.unit, rutter: value, upstream: math.NaN(), good: f.good, alone: true}
	if f.aim != 0 {
		limit, met := "at most", value <= f.aim
		if f.good == more {
			limit, met = "at least", value >= f.aim
		}
		r.aim = fmt.Sprintf("%s %s: %s", limit, number(f.aim), map[bool]string{true: "met", false: "not met"}[met])
	}
	t.rows = append(t.rows, r)
	progress("%s, %s: %s", f.what, f.unit, number(value))
}
