package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/schemas"
)

// everyCommand is every command that can be run, with arguments that work in the story, or
// why it is not run here or has no output for programs.
var everyCommand = map[string]struct {
	args  []string
	after []string // behind the flags that the test adds
	code  int
	none  string // why there is no -o json
	apart string // why it is not run here; its forms have a test of their own
}{
	"up":             {none: "it stays in the foreground and tells its progress"},
	"down":           {none: "it tells in a line what it did; the exit code says the rest"},
	"export":         {args: []string{"http://127.0.0.1:1"}, none: "it sends changes to others and prints nothing"},
	"at":             {none: "what it prints is the command's"},
	"tap":            {args: []string{"--since", "rev-5", "--limit", "3"}},
	"verify":         {apart: "it needs a bus and etcd: TestReport"},
	"seal status":    {apart: "it needs etcd: TestSealingForms"},
	"seal rotate":    {apart: "it needs etcd: TestSealingForms"},
	"seal forget":    {args: []string{"1f2e3d4c5b6a"}, apart: "it needs etcd: TestSealingForms"},
	"kubeconfig":     {args: []string{"--at", "rev-20"}},
	"version":        {},
	"log":            {args: []string{"deploy/web"}},
	"diff":           {args: []string{"--from", "rev-20"}, code: exitFound},
	"blame":          {args: []string{"deploy/web"}},
	"why":            {args: []string{"pod/web-1-a"}},
	"bisect":         {args: []string{"--good", "rev-20"}, after: []string{"--", os.Args[0], "replicas", "1", "none"}},
	"history status": {code: exitFound},
	"mark":           {args: []string{"here"}},
	"mark list":      {},
	"mark delete":    {args: []string{"never"}, code: exitFound},
	"restore":        {args: []string{"deploy/web", "--from", "rev-30"}, code: exitFound},
	"bundle":         {args: []string{"FILE", "--from", "rev-5"}},
	"open":           {args: []string{"testdata/story.bundle", "--check"}, apart: "it needs a bundle: TestOpen"},
	"status":         {code: exitFound},
	"check":          {args: []string{"cluster"}, code: exitFound},
	"top":            {args: []string{"--since", "rev-5"}},
}

// runnable are all commands, by what is typed behind rutter.
func runnable() map[string]*cobra.Command {
	out := map[string]*cobra.Command{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if name := strings.TrimPrefix(c.CommandPath(), "rutter "); c.Runnable() && name != "rutter" {
			out[name] = c
		}
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(newRoot())
	return out
}

// TestEveryCommand: help with examples and exit codes, completion, refusal of what is
// wrong, and JSON that parses, of every command there is.
func TestEveryCommand(t *testing.T) {
	commands := runnable()
	for name := range everyCommand {
		require.Contains(t, commands, name, "it is not there any more")
	}
	for name, c := range commands {
		t.Run(name, func(t *testing.T) {
			want, known := everyCommand[name]
			require.True(t, known, "a new command: say in everyCommand how it is asked for JSON")
			require.NotEmpty(t, c.Short)
			require.Contains(t, strings.ToLower(c.Long), "exit code")
			require.Contains(t, c.Example, "rutter "+name)
			startStory(t)
			t.Setenv("RUTTER_TEST_CHILD", "1")
			args := slices.Clone(want.args)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "FILE", filepath.Join(t.TempDir(), "x.bundle"))
			}
			run := func(flags ...string) (int, string, string) {
				line := slices.Concat(strings.Fields(name), args, flags, []string{"--data-dir", t.TempDir()}, want.after)
				return rutter(t, line...)
			}
			code, out, errs := run("--no-such-flag")
			require.Equal(t, exitFailed, code)
			require.Equal(t, "rutter: unknown flag: --no-such-flag\n", errs)
			require.Empty(t, out)
			for _, flag := range []string{"output", "type", "by", "sort", "redact"} {
				if c.Flags().Lookup(flag) == nil {
					continue
				}
				code, out, errs := run("--"+flag, "nonsense")
				require.Equal(t, exitFailed, code, flag)
				require.Contains(t, errs, "--"+flag+" \"nonsense\"")
				require.Empty(t, out)
			}
			for _, flag := range append(instantFlags, "output", "type", "by", "sort", "redact", "kind", "namespace", "context") {
				if c.Flags().Lookup(flag) != nil {
					_, completed := c.GetFlagCompletionFunc(flag)
					require.True(t, completed, "--%s has no completion", flag)
				}
			}
			if want.none != "" {
				require.Nil(t, c.Flags().Lookup("output"), "it has a form to choose: test it here")
				return
			}
			require.NotNil(t, c.Flags().Lookup("output"))
			if want.apart != "" {
				return
			}
			code, out, errs = run("-o", "json")
			require.Equal(t, want.code, code, errs)
			require.NotEmpty(t, out)
			decoder := json.NewDecoder(strings.NewReader(out))
			for {
				var value any
				err := decoder.Decode(&value)
				if errors.Is(err, io.EOF) {
					break
				}
				require.NoError(t, err, out)
			}
		})
	}
}

func TestSealingForms(t *testing.T) {
	key := schemas.Key{Resource: "secrets", Namespace: "a", Name: "b"}
	rows := sealingRows(apiserver.Sealing{Keys: []string{"new", "old"}, Secrets: map[string][]schemas.Key{
		"new": {key, key}, "gone": {key}, apiserver.NotSealed: {key}, apiserver.SealedUnnamed: {key}}})
	for form, want := range map[string]string{
		"table": "KEY       STATE             SECRETS\nnew       present           2\nold       former            0\ngone      not in the file   1\nnone      not sealed        1\nunnamed   one of these      1\n",
		"json":  `[{"key":"new","state":"present","secrets":2},{"key":"old","state":"former","secrets":0},{"key":"gone","state":"not in the file","secrets":1},{"key":"none","state":"not sealed","secrets":1},{"key":"unnamed","state":"one of these","secrets":1}]`,
		"yaml":  "- key: new\n  secrets: 2\n  state: present\n",
	} {
		var out strings.Builder
		require.NoError(t, writeSealing(&out, form, rows))
		switch form {
		case "json":
			require.JSONEq(t, want, out.String())
		case "yaml":
			require.True(t, strings.HasPrefix(out.String(), want), out.String())
		default:
			require.Equal(t, want, out.String())
		}
	}
}

func TestCompletion(t *testing.T) {
	f := startStory(t)
	f.events = append(f.events, change(41, 0, schemas.Added, schemas.Marks.String(), "carol kubectl", "create", `{"data":{"before-scale":"rev-20"}}`))
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"objects":            {[]string{"why", "deploy/"}, "deploy/web\n:4\n"},
		"objects of a flag":  {[]string{"why", "-n", "nowhere", "deploy/"}, ":4\n"},
		"many objects":       {[]string{"restore", "deploy/web", "rs/"}, "rs/web-1\n:4\n"},
		"one object":         {[]string{"why", "deploy/web", "deploy/"}, ":4\n"},
		"no such resource":   {[]string{"why", "widget/"}, ":4\n"},
		"namespaces":         {[]string{"log", "-n", ""}, "shop\n:4\n"},
		"namespaces of many": {[]string{"bundle", "-n", ""}, "shop\n:4\n"},
		"contexts":           {[]string{"log", "--context", ""}, "prod-jane\n:4\n"},
		"instants":           {[]string{"diff", "--from", ""}, "before-scale\nnow\n-5m\n-1h\n-1d\nrev-\n:4\n"},
		"instant of at":      {[]string{"at", ""}, "before-scale\nnow\n-5m\n-1h\n-1d\nrev-\n:4\n"},
		"command of at":      {[]string{"at", "now", ""}, ":0\n"},
		"marks":              {[]string{"mark", "delete", ""}, "before-scale\n:4\n"},
		"dimensions":         {[]string{"top", "--by", ""}, "actor\nmanager\nkind\nnamespace\nobject\nchange\nverb\n:4\n"},
		"what to check":      {[]string{"check", ""}, "host\ncluster\n:4\n"},
		"forms":              {[]string{"kubeconfig", "-o", ""}, "yaml\njson\n:4\n"},
		"types of tap":       {[]string{"tap", "--type", ""}, "ADDED\nMODIFIED\nDELETED\n:4\n"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, _ := rutter(t, append([]string{"__complete"}, tc.args...)...)
			require.Zero(t, code)
			require.Equal(t, tc.want, out)
		})
	}
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	_, out, _ := rutter(t, "__complete", "why", "deploy/")
	require.Equal(t, ":4\n", out, "without a cluster nothing is offered, and nothing said")
}
