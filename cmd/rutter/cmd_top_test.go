package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTop(t *testing.T) {
	minute := "--since -1m is rev-20 (2026-01-02T15:04:20.000Z)\n"
	until := "--until now is rev-40 (2026-01-02T15:04:40.000Z)\n"
	runStory(t, "top", map[string]command{
		"minute":    {args: []string{"top", "--since", "-1m"}, stderr: minute + until},
		"objects":   {args: []string{"top", "--since", "rev-5", "--until", "rev-33", "--by", "object,change", "--limit", "3", "--sort", "bytes"}},
		"kind":      {args: []string{"top", "deploy", "--since", "rev-5", "--by", "actor,manager,verb", "-n", "shop"}, stderr: until},
		"json":      {args: []string{"top", "--since", "-1m", "--by", "namespace", "-o", "json"}, stderr: minute + until},
		"yaml":      {args: []string{"top", "--since", "-1m", "--by", "kind", "-o", "yaml", "--limit", "1"}, stderr: minute + until},
		"nothing":   {args: []string{"top", "--since", "rev-34", "--until", "rev-39"}, code: exitFound},
		"oldest":    {args: []string{"top", "--since", "-5h", "--until", "rev-10"}, stderr: "--since -5h is before everything that is held; beginning with the oldest, rev-5 (2026-01-02T15:04:05.000Z)\n"},
		"by-colour": {args: []string{"top", "--by", "colour"}, code: exitFailed, stderr: "rutter: --by \"colour\" can't be counted by; want some of actor, manager, kind, namespace, object, change, verb\n"},
		"sort":      {args: []string{"top", "--sort", "name"}, code: exitFailed, stderr: "rutter: --sort \"name\": want events or bytes\n"},
		"limit":     {args: []string{"top", "--limit", "-1"}, code: exitFailed, stderr: "rutter: --limit -1: want a number of rows, or 0 for all\n"},
		"interval":  {args: []string{"top", "-w", "--interval", "1ms"}, code: exitFailed, stderr: "rutter: --interval 1ms: want 100ms or more\n"},
		"until":     {args: []string{"top", "-w", "--until", "rev-9"}, code: exitFailed, stderr: "rutter: --watch goes on; it can't be given with --until\n"},
		"form":      {args: []string{"top", "-o", "wide"}, code: exitFailed, stderr: "rutter: --output \"wide\": want table, json, yaml\n"},
		"resource":  {args: []string{"top", "widgets"}, code: exitFailed, stderr: "rutter: the server has no resource \"widgets\"; see `kubectl api-resources`\n"},
	})
}

// TestTopWatch: tables come until it is interrupted, which is no failure.
func TestTopWatch(t *testing.T) {
	startStory(t)
	ctx, cancel := context.WithCancel(t.Context())
	read, write := io.Pipe()
	done := make(chan int, 1)
	var errs bytes.Buffer
	go func() {
		done <- run(ctx, []string{"top", "--since", "rev-10", "--watch", "--interval", "100ms", "-o", "json"}, write, &errs)
		_ = write.Close()
	}()
	decoder := json.NewDecoder(read)
	for range 3 {
		var report topReport
		require.NoError(t, decoder.Decode(&report))
		require.Positive(t, report.Seconds)
	}
	cancel()
	_, err := io.Copy(io.Discard, read)
	require.NoError(t, err)
	select {
	case code := <-done:
		require.Zero(t, code, errs.String())
	case <-time.After(time.Minute):
		require.Fail(t, "it goes on", errors.New("no end"))
	}
}
