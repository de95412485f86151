package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	codeBlocks = regexp.MustCompile("(?ms)^ *```[a-z]*\n(.*?)^ *```$")
	inlineCode = regexp.MustCompile("`(rutter [^`\n]*)`")
	// aside is what the shell does around a command.
	aside = regexp.MustCompile(` (\||&&|>|#|;) ?.*$`)
	// standIn are parts of a line that stand for something: they are one word.
	standIn = regexp.MustCompile(`'[^']*'|"[^"]*"|\$\([^)]*\)|<[^>]*>`)
)

// shownCommands are the lines of a page that run rutter, without what the shell does.
func shownCommands(page string) []string {
	var found []string
	add := func(line string) {
		line = aside.ReplaceAllString(standIn.ReplaceAllString(strings.TrimSpace(line), "pod/x"), "")
		for _, part := range strings.Split(line, " -- ") { // a command behind -- may be ours too
			if strings.HasPrefix(part, "rutter ") {
				found = append(found, line[strings.Index(line, part):])
			}
		}
	}
	for _, block := range codeBlocks.FindAllStringSubmatch(page, -1) {
		for line := range strings.Lines(block[1]) {
			add(strings.TrimPrefix(strings.TrimSpace(line), "$ "))
		}
	}
	for _, code := range inlineCode.FindAllStringSubmatch(codeBlocks.ReplaceAllString(page, ""), -1) {
		add(code[1])
	}
	return found
}

// TestShownCommands: every command in the documentation is one, has the flags with which it
// is shown, and takes the arguments.
func TestShownCommands(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	recipes, err := filepath.Glob("../../docs/recipes/*.md")
	require.NoError(t, err)
	shown := map[string]int{}
	for _, path := range slices.Concat(pages, recipes, []string{"../../README.md"}) {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, line := range shownCommands(string(text)) {
			shown[filepath.Base(path)]++
			if line == "rutter kubeconfig --at" || strings.Contains(line, "…") {
				continue // a mention, which leaves out what its sentence is not about
			}
			c, rest, err := newRoot().Find(positionalAgo(strings.Fields(line)[1:]))
			require.NoError(t, err, "%s: %s", path, line)
			require.True(t, c.Runnable(), "%s: %s", path, line)
			if len(rest) == 0 && line == c.CommandPath() {
				continue // a mention too
			}
			require.NoError(t, c.ParseFlags(rest), "%s: %s", path, line)
			if help := c.Flags().Lookup("help"); help != nil && help.Changed {
				continue
			}
			require.NoError(t, c.ValidateArgs(c.Flags().Args()), "%s: %s", path, line)
			require.NoError(t, c.ValidateRequiredFlags(), "%s: %s", path, line)
		}
	}
	require.Greater(t, shown["commands.md"], 25, "%v", shown)
	require.Greater(t, shown["incident.md"], 8, "%v", shown)
	require.Greater(t, shown["events.md"], 8, "%v", shown)
}

// TestEveryCommandIsDocumented: each command of the past has its section, with an example.
func TestEveryCommandIsDocumented(t *testing.T) {
	var all strings.Builder
	pages, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	for _, path := range append(pages, "../../README.md") {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		all.Write(text)
	}
	for name := range everyCommand {
		require.True(t, strings.Contains(all.String(), "rutter "+name), "no page shows rutter %s", name)
	}
}
