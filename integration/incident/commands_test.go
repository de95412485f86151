package incident

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// consoles are the parts of a page that show what commands print in the recorded incident.
// Other terminals are of one run on a cluster.
var consoles = regexp.MustCompile("(?s)```console\n(.*?)```\n")

// transcript is a command and what it prints.
type transcript struct{ command, out string }

func transcripts(block string) (found []transcript) {
	for line := range strings.Lines(block) {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			found = append(found, transcript{command: strings.TrimSuffix(command, "\n")})
		} else if n := len(found); n > 0 {
			found[n-1].out += line
		}
	}
	return found
}

// matches compares a text with one in which a line of three dots stands for any lines.
func matches(want, got string) bool {
	var pattern strings.Builder
	for line := range strings.Lines(want) {
		if line == "...\n" {
			pattern.WriteString("(?:.*\n)*?")
		} else {
			pattern.WriteString(regexp.QuoteMeta(line))
		}
	}
	return regexp.MustCompile("^" + pattern.String() + "$").MatchString(got)
}

// TestShownOutput: what the pages say that a command prints in the recorded incident, it
// prints.
func TestShownOutput(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	b := open(t, kept)
	commands := map[string]int{}
	for _, path := range pages {
		page, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, block := range consoles.FindAllStringSubmatch(string(page), -1) {
			for _, shown := range transcripts(block[1]) {
				commands[filepath.Base(path)]++
				if got := b.ask(shown.command); !matches(shown.out, got) {
					t.Errorf("%s: $ %s\nshown:\n%s\nprinted:\n%s", path, shown.command, shown.out, got)
				}
			}
		}
	}
	require.GreaterOrEqual(t, commands["commands.md"], 12, fmt.Sprint(commands))
	require.GreaterOrEqual(t, commands["history.md"], 3, fmt.Sprint(commands))
}

func TestMatches(t *testing.T) {
	for _, tc := range []struct {
		want, got string
		ok        bool
	}{
		{"a\nb\n", "a\nb\n", true},
		{"a\nb\n", "a\nb\nc\n", false},
		{"a\n...\nc\n", "a\nb\nb\nc\n", true},
		{"...\nc\n", "c\n", true},
		{"a\n...\n", "a\nb", false},
		{"a.c\n", "abc\n", false},
		{"", "", true},
	} {
		require.Equal(t, tc.ok, matches(tc.want, tc.got), "%q %q", tc.want, tc.got)
	}
}
