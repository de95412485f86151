package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// table is what a run found.
type table struct {
	results map[string]result
	blocked map[string]string
	passing []string // known to pass
}

// write prints the table and keeps it in a file.
func (t table) write(w io.Writer, file string) error {
	text := t.String()
	if _, err := io.WriteString(w, text); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

// String lists failures first, then what can't run, then a line for each area and one
// for all.
func (t table) String() string {
	var b strings.Builder
	passed := map[string]int{}
	ran := map[string]int{}
	failed := 0
	for _, name := range slices.Sorted(maps.Keys(t.results)) {
		r := t.results[name]
		ran[area(name)]++
		if r.passed {
			passed[area(name)]++
			fmt.Fprintf(&b, "passed            %5.0fs  %s\n", r.took.Seconds(), name)
			continue
		}
		failed++
		fmt.Fprintf(&b, "FAILED            %5.0fs  %s\n                          %s\n", r.took.Round(time.Second).Seconds(), name, r.reason)
	}
	for _, name := range slices.Sorted(maps.Keys(t.blocked)) {
		fmt.Fprintf(&b, "not yet runnable          %s\n                          %s\n", name, t.blocked[name])
	}
	for _, a := range slices.Sorted(maps.Keys(ran)) {
		fmt.Fprintf(&b, "%-24s %3d of %3d\n", a, passed[a], ran[a])
	}
	for _, name := range t.regressions() {
		fmt.Fprintf(&b, "REGRESSION                %s\n", name)
	}
	fmt.Fprintf(&b, "%d passed, %d failed, %d not yet runnable\n", len(t.results)-failed, failed, len(t.blocked))
	return b.String()
}

// regressions are tests that are known to pass and did not.
func (t table) regressions() []string {
	var names []string
	for _, name := range t.passing {
		if r, ran := t.results[name]; ran && !r.passed {
			names = append(names, name)
		}
	}
	return names
}

// area is the special interest group in a test's name.
func area(name string) string {
	a, _, _ := strings.Cut(strings.TrimPrefix(name, "["), "]")
	return a
}
