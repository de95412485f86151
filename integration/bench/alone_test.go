package main

import (
	"bytes"
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
	require.NoError(t, b.read(out, &table))
	var text bytes.Buffer
	require.NoError(t, table.write(&text))
	require.Equal(t, "| what | unit | Rutter | kube-apiserver + etcd | better by |\n|---|---|---|---|---|\n"+
		"| first | ms | 535 | - | at most 1000: met |\n| replay | per CPU-second | 422783 | - | at least 100000: met |\n"+
		"| replay | per second | 172296 | - |  |\n| live | times | 1.20 | - | at most 1.10: not met |\n", text.String())

	require.EqualError(t, b.read([]byte("PASS\n"), &table), `no ms-p50 of "first_answer"`)
	require.ErrorContains(t, b.read([]byte("BenchmarkPast/live-2 1 x p99-ratio\n"), &table), "invalid syntax")
	whole := benchmark{figures: []figure{{"", "p99-us", "fan-out", "us", less, 0}}}
	require.NoError(t, whole.read([]byte("BenchmarkFanOut-16  \t 5000\t 1 ns/op\t 5 p99-us\n"), &table))
}
