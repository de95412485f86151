package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// lists are the committed files: which tests there are, which passed when somebody last
// looked, which of these are fast, and which can't run yet.
type lists struct {
	dir                  string
	tests, passing, fast []string
	blocked              []blocked
}

// blocked are tests that need something Rutter does not have yet.
type blocked struct {
	pattern *regexp.Regexp
	why     string
}

// chosen is what to do of a list.
type chosen struct {
	runnable []string
	blocked  map[string]string // test to reason
}

func readLists(dir string) (*lists, error) {
	l := &lists{dir: dir}
	var errs [4]error
	l.tests, errs[0] = readList(filepath.Join(dir, "tests.txt"))
	l.passing, errs[1] = readList(filepath.Join(dir, "passing.txt"))
	l.fast, errs[2] = readList(filepath.Join(dir, "fast.txt"))
	l.blocked, errs[3] = readBlocked(filepath.Join(dir, "blocked.txt"))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return l, l.check()
}

// check refuses lists that contradict each other.
func (l *lists) check() error {
	for _, name := range l.fast {
		if !slices.Contains(l.passing, name) {
			return fmt.Errorf("fast.txt has a test that is not in passing.txt: %s", name)
		}
	}
	for _, name := range l.passing {
		if !slices.Contains(l.tests, name) {
			return fmt.Errorf("passing.txt has a test that is not in tests.txt: %s", name)
		}
		if why := l.why(name); why != "" {
			return fmt.Errorf("passing.txt has a test that blocked.txt calls not runnable (%s): %s", why, name)
		}
	}
	return nil
}

// readList reads one name a line; # begins a comment.
func readList(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if line := strings.TrimSpace(lines.Text()); line != "" && !strings.HasPrefix(line, "#") {
			names = append(names, line)
		}
	}
	return names, nil
}

// readBlocked reads lines of "regular expression: reason".
func readBlocked(file string) ([]blocked, error) {
	lines, err := readList(file)
	if err != nil {
		return nil, err
	}
	var all []blocked
	for _, line := range lines {
		pattern, why, ok := strings.Cut(line, " :: ")
		if !ok {
			return nil, fmt.Errorf("%s: %q is not PATTERN :: REASON", file, line)
		}
		re, err := regexp.Compile(strings.TrimSpace(pattern))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, blocked{pattern: re, why: strings.TrimSpace(why)})
	}
	return all, nil
}

// why is the reason a test can't run, "" if it can.
func (l *lists) why(test string) string {
	for _, b := range l.blocked {
		if b.pattern.MatchString(test) {
			return b.why
		}
	}
	return ""
}

func (l *lists) choose(set string, pattern *regexp.Regexp) (chosen, error) {
	failing := slices.DeleteFunc(slices.Clone(l.tests), func(t string) bool { return slices.Contains(l.passing, t) })
	all, ok := map[string][]string{"tests": l.tests, "passing": l.passing, "fast": l.fast, "failing": failing}[set]
	if !ok {
		return chosen{}, fmt.Errorf("-set %q: want tests, passing, fast or failing", set)
	}
	c := chosen{blocked: map[string]string{}}
	for _, test := range all {
		if !pattern.MatchString(test) {
			continue
		}
		if why := l.why(test); why != "" {
			c.blocked[test] = why
		} else {
			c.runnable = append(c.runnable, test)
		}
	}
	if len(c.runnable)+len(c.blocked) == 0 {
		return chosen{}, fmt.Errorf("-run %q matches no test of %s.txt", pattern, set)
	}
	return c, nil
}

// record writes passing.txt anew: what was known to pass and was not run, and what
// passed now.
func (l *lists) record(results map[string]result) error {
	var keep []string
	for _, test := range l.tests {
		r, ran := results[test]
		if ran && r.passed || !ran && slices.Contains(l.passing, test) {
			keep = append(keep, test)
		}
	}
	text := "# Tests of tests.txt that pass, written by the runner's -record.\n" + strings.Join(keep, "\n") + "\n"
	return os.WriteFile(filepath.Join(l.dir, "passing.txt"), []byte(text), 0o644)
}
