package incident

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const walk = "../../docs/incident.md"

// blocks are the parts of the page that show a terminal.
var blocks = regexp.MustCompile("(?s)```\n(\\$ .*?)```\n")

// TestWalkThrough runs every command of the page, in the recording of the repository, and
// compares what it prints with the page.
func TestWalkThrough(t *testing.T) {
	info, err := os.Stat(kept)
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(maxKept))
	page, err := os.ReadFile(walk)
	require.NoError(t, err)
	b := open(t, kept)
	commands := 0
	got := blocks.ReplaceAllStringFunc(string(page), func(block string) string {
		var out strings.Builder
		out.WriteString("```\n")
		for line := range strings.Lines(block) {
			command, ok := strings.CutPrefix(line, "$ ")
			if !ok {
				continue
			}
			out.WriteString(line)
			if strings.TrimSpace(command) == shell {
				continue // what follows runs in it
			}
			commands++
			text := b.ask(command)
			if text != "" && !strings.HasSuffix(text, "\n") {
				text += "\n"
			}
			out.WriteString(text)
		}
		return out.String() + "```\n"
	})
	if *update {
		require.NoError(t, os.WriteFile(walk, []byte(got), 0o644))
		return
	}
	require.Greater(t, commands, 8, "the page has its commands")
	for _, name := range []string{"diff", "bisect", "blame", "why", "log", "at"} {
		require.Contains(t, string(page), "$ rutter "+name+" ")
	}
	require.Equal(t, string(page), got, "%s; rewrite it with -args -update if the change is wanted", walk)
}

// shell is how a reader of the page begins.
const shell = "rutter open docs/incident/outage.bundle -- bash"
