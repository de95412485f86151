package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas/bundle"
)

// made and weighed are what differs between two bundles of one story.
var (
	made    = regexp.MustCompile(`(on |made"?: "?)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.000)?Z`)
	weighed = regexp.MustCompile(`(bytes"?: |[a-z]+\.bundle, )[0-9.]+( KiB)?|("?sha256"?: "?)[0-9a-f]{64}`)
)

func steady(text string) string {
	return weighed.ReplaceAllString(made.ReplaceAllString(text, "${1}NOW"), "${1}${3}SOME")
}

func TestBundle(t *testing.T) {
	const fromMinute = "--from -1m is rev-20 (2026-01-02T15:04:20.000Z)\n"
	for name, tc := range map[string]command{
		"table":   {args: []string{"--from", "-1m", "--redact", "env"}, stderr: fromMinute + toNowStderr},
		"json":    {args: []string{"--from", "rev-5", "--to", "rev-31", "-n", "shop", "--kind", "po,deploy", "-o", "json"}},
		"object":  {args: []string{"--from", "rev-5", "--object", "deploy/web", "-o", "yaml"}, stderr: toNowStderr},
		"nothing": {args: []string{"--from", "rev-5", "--object", "deploy/none"}, code: exitFound, stderr: toNowStderr + "Nothing of shop deployments.apps/none and what it owns is held from rev-5 to rev-40.\n"},

		"no-from":   {code: exitFailed, stderr: "rutter: --from is missing; give " + formsInError + "\n"},
		"bad-from":  {args: []string{"--from", "noon"}, code: exitFailed, stderr: "rutter: --from \"noon\" is no instant; want " + formsInError + "\n"},
		"backwards": {args: []string{"--from", "rev-20", "--to", "rev-10"}, code: exitFailed, stderr: "rutter: --to rev-10 is rev-10, which is before --from rev-20, rev-20\n"},
		"redact":    {args: []string{"--from", "rev-5", "--redact", "names"}, code: exitFailed, stderr: "rutter: --redact \"names\": want env, configmaps\n"},
		"object-of": {args: []string{"--from", "rev-5", "--object", "web"}, code: exitFailed, stderr: "rutter: --object \"web\" names no object; give RESOURCE/NAME, such as deploy/web\n"},
		"both":      {args: []string{"--from", "rev-5", "--object", "deploy/web", "--kind", "po"}, code: exitFailed, stderr: "rutter: --object names one object: --kind, and more than one --namespace, don't go with it\n"},
		"kind":      {args: []string{"--from", "rev-5", "--kind", "gadgets"}, code: exitFailed, stderr: "rutter: --kind: the server has no resource \"gadgets\"; see `kubectl api-resources`\n"},
		"form":      {args: []string{"--from", "rev-5", "-o", "name"}, code: exitFailed, stderr: "rutter: --output \"name\": want table, json, yaml\n"},
	} {
		t.Run(name, func(t *testing.T) {
			startStory(t)
			t.Chdir(t.TempDir())
			code, out, errs := rutter(t, append([]string{"bundle", "story.bundle"}, tc.args...)...)
			require.Equal(t, tc.stderr, errs)
			require.Equal(t, tc.code, code)
			entries, err := os.ReadDir(".")
			require.NoError(t, err)
			if tc.code != 0 {
				require.Empty(t, out)
				require.Empty(t, entries, "what was refused leaves no file")
				return
			}
			require.Len(t, entries, 1)
			info, err := entries[0].Info()
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
			t.Chdir(sourceDir)
			golden(t, "bundle-"+name, steady(out))
		})
	}
}

// sourceDir is where the tests began.
var sourceDir, _ = os.Getwd()

// record writes the whole story to a bundle.
func record(t *testing.T, args ...string) string {
	t.Helper()
	startStory(t)
	file := filepath.Join(t.TempDir(), "story.bundle")
	code, _, errs := rutter(t, append([]string{"bundle", file, "--from", "rev-5"}, args...)...)
	require.Zero(t, code, errs)
	return file
}

func read(t *testing.T, file string) *bundle.Bundle {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	b, err := bundle.Read(text)
	require.NoError(t, err)
	return b
}

func TestBundleHoldsNoSecret(t *testing.T) {
	all, err := json.Marshal(read(t, record(t)))
	require.NoError(t, err)
	require.Contains(t, string(all), `"name":"db"`)
	for _, value := range []string{"b25l", "dHdv"} {
		require.NotContains(t, string(all), value)
	}
}

func TestBundleIsNotWrittenOver(t *testing.T) {
	file := record(t)
	before, err := os.ReadFile(file)
	require.NoError(t, err)
	code, _, errs := rutter(t, "bundle", file, "--from", "rev-5")
	require.Equal(t, exitFailed, code)
	require.Equal(t, "rutter: "+file+" exists; remove it, or give another name\n", errs)
	after, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// openStory runs a command of this program against a bundle, without the server that it
// came from.
func openStory(t *testing.T, file string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("KUBECONFIG", "/nonexistent")
	t.Setenv("RUTTER_TEST_CHILD", "1")
	return rutter(t, append([]string{"open", file, "--", os.Args[0], "rutter"}, args...)...)
}

// TestCommandsOnABundle: they say of a bundle what they say of the cluster.
func TestCommandsOnABundle(t *testing.T) {
	file := record(t)
	for name, args := range map[string][]string{
		"why-pod":        {"why", "pod/web-1-a", "-n", "shop"},
		"why-deployment": {"why", "deploy/web", "-n", "shop"},
		"log-table":      {"log", "deploy/web", "-n", "shop"},
		"log-tree":       {"log", "deploy/web", "--tree", "-n", "shop"},
		"blame-table":    {"blame", "deploy/web", "-n", "shop"},
		"blame-at":       {"blame", "deploy/web", "--at", "rev-12", "-n", "shop"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := openStory(t, file, args...)
			require.Zero(t, code, errs)
			golden(t, name, out)
		})
	}
	code, out, errs := openStory(t, file, "at", "rev-12", "--", os.Args[0], "get", "/api/v1/namespaces/shop/pods/web-1-a")
	require.Zero(t, code, errs)
	require.Contains(t, out, `"phase":"Pending"`)
	code, out, _ = openStory(t, file, "diff", "--from", "rev-31", "-A", "-o", "name")
	require.Equal(t, exitFound, code)
	require.Equal(t, "shop pods/web-1-a\nshop deployments.apps/web\n", out)
	code, out, _ = openStory(t, file, "history", "status")
	require.Zero(t, code)
	golden(t, "open-history-status", regexp.MustCompile(`\d+ B\n`).ReplaceAllString(out, "SOME B\n"))
	code, _, errs = openStory(t, file, "at", "-1h", "--", "true")
	require.Equal(t, exitFailed, code)
	require.Equal(t, "rutter: at 1h: instant \"-1h\" is no longer held; the oldest instant held is rev-5 (2026-01-02T15:04:05Z), the newest rev-40 (2026-01-02T15:04:40Z)\n", errs)
}

// TestBundleThatBeginsLate: who changed an object that is older than the bundle, and how, is
// known by its state at the beginning.
func TestBundleThatBeginsLate(t *testing.T) {
	startStory(t)
	file := filepath.Join(t.TempDir(), "late.bundle")
	code, _, errs := rutter(t, "bundle", file, "--from", "rev-20")
	require.Zero(t, code, errs)
	code, out, errs := openStory(t, file, "blame", "deploy/web", "-n", "shop")
	require.Zero(t, code, errs)
	require.Regexp(t, `(?m)^30 +\S+ +bob +kubectl +spec.replicas +0$`, out)
	require.Regexp(t, `(?m)^before 30 .* metadata.name `, out)
	code, out, errs = openStory(t, file, "log", "deploy/web", "--diff", "-n", "shop")
	require.Zero(t, code, errs)
	require.Contains(t, out, "    ~ spec.replicas: 1 → 0\n")
	code, out, errs = openStory(t, file, "why", "pod/web-1-a", "-n", "shop")
	require.Zero(t, code, errs)
	golden(t, "why-late", out)
}

func TestOpen(t *testing.T) {
	good := record(t)
	dir := t.TempDir()
	whole, err := os.ReadFile(good)
	require.NoError(t, err)
	file := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, text, 0o600))
		return path
	}
	altered := bytes.Clone(whole)
	altered[len(altered)-100]++
	t.Setenv("RUTTER_TEST_CHILD", "1")
	for name, tc := range map[string]struct {
		args   []string
		code   int
		stderr string
	}{
		"exit code":    {args: []string{good, "--", os.Args[0], "exit", "7"}, code: 7},
		"no program":   {args: []string{good, "--", "/nonexistent"}, code: exitFailed, stderr: "fork/exec /nonexistent: no such file or directory\n"},
		"no file":      {code: exitFailed, stderr: "rutter: give the file, such as `rutter open outage.bundle`\n"},
		"no dashes":    {args: []string{good, "true"}, code: exitFailed, stderr: "rutter: put -- between the file and the command\n"},
		"no command":   {args: []string{good, "--"}, code: exitFailed, stderr: "rutter: there is no command behind --\n"},
		"absent":       {args: []string{dir + "/none"}, code: exitFailed, stderr: "rutter: open " + dir + "/none: no such file or directory\n"},
		"cut":          {args: []string{file("cut", whole[:len(whole)-100])}, code: exitFailed, stderr: "the file has "},
		"altered":      {args: []string{file("altered", altered)}, code: exitFailed, stderr: "is altered: its digest is another one\n"},
		"something":    {args: []string{file("png", []byte("\x89PNG"))}, code: exitFailed, stderr: "rutter: " + dir + "/png: not a good bundle: it does not begin with \"rutter bundle \"\n"},
		"elsewhere":    {args: []string{good, "--listen", "0.0.0.0:0"}, code: exitFailed, stderr: "rutter: --listen 0.0.0.0:0: local listener: \"0.0.0.0\" is not an address of the loopback device, such as 127.0.0.1\n"},
		"written over": {args: []string{good, "--kubeconfig", good}, code: exitFailed, stderr: "rutter: --kubeconfig: " + good + " exists; remove it, or give another name\n"},
		"form":         {args: []string{good, "-o", "xml"}, code: exitFailed, stderr: "rutter: --output \"xml\": want table, json, yaml\n"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := rutter(t, append([]string{"open"}, tc.args...)...)
			require.Equal(t, tc.code, code, errs)
			require.Contains(t, errs, tc.stderr)
			require.Empty(t, out)
		})
	}
	for _, form := range []string{"table", "json"} {
		t.Chdir(filepath.Dir(good))
		code, out, errs := rutter(t, "open", "story.bundle", "--check", "-o", form)
		require.Zero(t, code, errs)
		t.Chdir(sourceDir)
		golden(t, "open-check-"+form, steady(out))
	}
}

// TestOpenServesUntilInterrupted: without a command, a kubeconfig leads to the bundle as
// long as it is served.
func TestOpenServesUntilInterrupted(t *testing.T) {
	good := record(t)
	config := filepath.Join(t.TempDir(), "kubeconfig")
	ctx, interrupt := context.WithCancel(t.Context())
	out, errs, done := &bytes.Buffer{}, newLines(), make(chan int)
	go func() { done <- run(ctx, []string{"open", good, "--kubeconfig", config, "-o", "json"}, out, errs) }()
	require.Contains(t, <-errs.lines, "export KUBECONFIG="+config)
	t.Setenv("KUBECONFIG", config)
	code, why, stderr := rutter(t, "why", "pod/web-1-a", "-n", "shop")
	interrupt()
	require.Zero(t, <-done)
	require.Zero(t, code, stderr)
	golden(t, "why-pod", why)
	require.True(t, strings.HasPrefix(out.String(), "{\n  \"file\": "), out.String())
	require.NoFileExists(t, config)
}

// lineWriter hands on whole writes.
type lineWriter struct{ lines chan string }

func newLines() *lineWriter { return &lineWriter{make(chan string, 8)} }

func (l *lineWriter) Write(p []byte) (int, error) {
	l.lines <- string(p)
	return len(p), nil
}

func TestBundleCompletion(t *testing.T) {
	_, out, _ := rutter(t, "__complete", "bundle", "x", "--redact", "")
	require.Equal(t, "env\nconfigmaps\n:4\n", out)
	_, out, _ = rutter(t, "__complete", "bundle", "x", "--kind", "")
	require.Contains(t, out, "deploy\n")
	_, out, _ = rutter(t, "__complete", "open", "x", "--output", "")
	require.Equal(t, "table\njson\nyaml\n:4\n", out)
}
