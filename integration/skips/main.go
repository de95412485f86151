// Command skips reads the JSON output of `go test` and fails if a test was skipped
// whose reason is not one of those that a machine can prove.
//
// A test that is skipped silently is a test that does not exist.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// proven are the reasons a skip may give: each names what the machine lacks, as seen.
var proven = []*regexp.Regexp{
	regexp.MustCompile(`not root: uid=\d+`),
	regexp.MustCompile(`kernel \S+ is older than`),
	regexp.MustCompile(`upstream's suite asks for .* which Rutter does not have: `),
}

type event struct{ Action, Package, Test, Output string }

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: skips FILE")
		os.Exit(2)
	}
	bad, skipped, err := unexpected(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "skips:", err)
		os.Exit(2)
	}
	for _, test := range bad {
		fmt.Fprintln(os.Stderr, "skipped without a proven reason:", test)
	}
	if len(bad) > 0 {
		os.Exit(1)
	}
	fmt.Printf("%d tests skipped, each for a reason the machine proves\n", skipped)
}

// unexpected lists the skipped tests that do not prove why.
func unexpected(file string) (bad []string, skipped int, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	output := map[string]*strings.Builder{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Test == "" {
			continue // build output, or a package as a whole
		}
		name := e.Package + "." + e.Test
		switch e.Action {
		case "output":
			if output[name] == nil {
				output[name] = &strings.Builder{}
			}
			output[name].WriteString(e.Output)
		case "skip":
			skipped++
			text := ""
			if b := output[name]; b != nil {
				text = b.String()
			}
			if !slices.ContainsFunc(proven, func(r *regexp.Regexp) bool { return r.MatchString(text) }) {
				bad = append(bad, name+": "+strings.TrimSpace(text))
			}
		case "pass", "fail":
			delete(output, name)
		}
	}
	return bad, skipped, lines.Err()
}
