package main

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSectionsInsideNeedNoServers(t *testing.T) {
	for only, want := range map[string]bool{"past": false, "bus,past": false, "past,list": true, "list": true} {
		o := right()
		o.only = only
		p, err := o.plan()
		require.NoError(t, err)
		require.Equal(t, want, p.beside(), only)
	}
}

// TestWatchersAreComparedWithWhatIsMeasured: the figure beside kube-apiserver's is one of the
// benchmark that asks for the comparison, and of as many subscribers as watchers.
func TestWatchersAreComparedWithWhatIsMeasured(t *testing.T) {
	o := right()
	o.subscribers = 7
	p, err := o.plan()
	require.NoError(t, err)
	var compared []int
	for _, b := range p.benchmarks() {
		if b.watchers == 0 {
			continue
		}
		compared = append(compared, b.watchers)
		require.True(t, slices.ContainsFunc(b.figures, func(f figure) bool { return [2]string{f.name, f.metric} == besideWatchers }))
	}
	require.Equal(t, []int{7}, compared)
}

func TestFiguresOfGoBenchmarks(t *testing.T) {
	b := benchmark{figures: []figure{
		{"first_answer", "ms-p50", "first", "ms", less, 1000}, {"replay", "events/s/core", "replay", "per CPU-second", more, 100_000},
		{"replay", "events/s", "replay", "per second", more, 0}, {"live", "p99-ratio", "live", "times", less, 1.1},
	}}
	out := []byte("goos: linux\ncpu: x\n" +
		"BenchmarkPast/first_answer-2   5   186.2 cpu-ms   535.0 ms-p50\n" +
		"BenchmarkPast/replay-2   5   172296 events/s   422783 events/s/core\n" +
		"BenchmarkPast/live-2   1   1.200 p99-ratio\nPASS\n")
	var table table
	found, err := b.read(out, &table)
	require.NoError(t, err)
	require.Equal(t, 422783.0, found[[2]string{"replay", "events/s/core"}])
	var text bytes.Buffer
	require.NoError(t, table.write(&text))
	require.Equal(t, "| what | unit | Rutter | kube-apiserver + etcd | better by |\n|---|---|---|---|---|\n"+
		"| first | ms | 535 | - | at most 1000: met |\n| replay | per CPU-second | 422783 | - | at least 100000: met |\n"+
		"| replay | per second | 172296 | - |  |\n| live | times | 1.20 | - | at most 1.10: not met |\n", text.String())

	_, err = b.read([]byte("PASS\n"), &table)
	require.EqualError(t, err, `no ms-p50 of "first_answer"`)
	_, err = b.read([]byte("BenchmarkPast/live-2 1 x p99-ratio\n"), &table)
	require.ErrorContains(t, err, "invalid syntax")
	whole := benchmark{figures: []figure{{"", "p99-us", "fan-out", "us", less, 0}}}
	_, err = whole.read([]byte("BenchmarkFanOut-16  \t 5000\t 1 ns/op\t 5 p99-us\n"), &table)
	require.NoError(t, err)
}
