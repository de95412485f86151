package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

func TestMarks(t *testing.T) {
	f := startStory(t)
	run := func(want int, args ...string) (string, string) {
		t.Helper()
		code, out, errs := rutter(t, args...)
		require.Equal(t, want, code, "%s%s", out, errs)
		return out, errs
	}
	out, _ := run(0, "mark", "list")
	golden(t, "mark-none", out)
	out, errs := run(0, "mark", "before-scale", "--at", "-1m")
	require.Equal(t, "--at -1m is rev-20 (2026-01-02T15:04:20.000Z)\n", errs)
	golden(t, "mark-table", out)
	out, _ = run(0, "mark", "v1.2", "--at", "rev-31", "-o", "json")
	golden(t, "mark-json", out)
	run(0, "mark", "v1.2", "--at", "rev-31") // the same again is no change
	_, errs = run(exitFailed, "mark", "v1.2", "--at", "rev-32")
	require.Equal(t, "rutter: mark \"v1.2\" is there already, at rev-31; --move moves it\n", errs)
	run(0, "mark", "v1.2", "--at", "rev-32", "--move")
	out, _ = run(0, "mark", "list")
	golden(t, "mark-list", out)

	out, errs = run(exitFound, "diff", "--from", "before-scale", "--to", "v1.2", "deploy/web")
	require.Contains(t, out, "~ spec.replicas: 1 → 0")
	require.Contains(t, errs, "--from before-scale is rev-20 (2026-01-02T15:04:20.000Z)\n")
	t.Setenv("RUTTER_TEST_CHILD", "1")
	out, _ = run(0, "kubeconfig", "--at", "before-scale")
	require.Contains(t, out, "/at/rev-20")

	f.refuse = map[string]string{"marks": "x"}
	_, errs = run(exitFailed, "mark", "other", "--at", "rev-20")
	require.Equal(t, "rutter: mark \"other\": somebody has set a mark meanwhile; try again\n", errs)
	f.refuse = nil
	out, _ = run(0, "mark", "delete", "v1.2")
	require.Equal(t, "v1.2, which was rev-32, is deleted.\n", out)
	_, errs = run(exitFound, "mark", "delete", "v1.2")
	require.Equal(t, "There is no mark \"v1.2\".\n", errs)
	_, errs = run(exitFailed, "diff", "--from", "v1.2")
	require.Contains(t, errs, "rutter: --from v1.2: instant \"v1.2\" is not held")
}

func TestMarksThatAreNotHeld(t *testing.T) {
	f := startStory(t)
	object := `{"data":{"held":"rev-20","lost":"rev-9999"}}`
	f.events = append(f.events, change(41, 0, schemas.Added, schemas.Marks.String(), "carol kubectl", "create", object))
	code, out, errs := rutter(t, "mark", "list")
	require.Equal(t, exitFound, code, errs)
	golden(t, "mark-lost", out)
	f.events = append(f.events, change(42, 41, schemas.Modified, schemas.Marks.String(), "carol kubectl", "update", `{"data":{"odd":"yesterday"}}`))
	code, _, errs = rutter(t, "mark", "list")
	require.Equal(t, exitFailed, code)
	require.Equal(t, "rutter: mark \"odd\": \"yesterday\": not the revision of a mark; want rev-N\n", errs)
}

func TestMarkNames(t *testing.T) {
	startStory(t)
	for name, want := range map[string]string{
		"now":    "rutter: \"now\" has a meaning of its own\n",
		"rev-12": "rutter: \"rev-12\" has a meaning of its own\n",
		"5m":     "rutter: a mark's name begins with a letter and has small letters, digits, and single - . _ between them\n",
		"A/B":    "rutter: a mark's name begins with a letter and has small letters, digits, and single - . _ between them\n",
	} {
		code, _, errs := rutter(t, "mark", name)
		require.Equal(t, exitFailed, code)
		require.Equal(t, want, errs)
	}
	_, out, _ := rutter(t, "__complete", "mark", "")
	require.Contains(t, out, "list\t")
}

// TestTapSinceAMark: what begins at a mark begins behind the state that was marked.
func TestTapSinceAMark(t *testing.T) {
	f := startStory(t)
	f.events = append(f.events, change(41, 0, schemas.Added, schemas.Marks.String(), "carol kubectl", "create", `{"data":{"before-scale":"rev-20"}}`))
	code, out, errs := rutter(t, "tap", "--since", "before-scale", "--limit", "1", "-o", "diff")
	require.Zero(t, code, errs)
	require.Contains(t, out, " 25 MODIFIED shop secrets/db by bob (kubectl)\n")
	state := filepath.Join(t.TempDir(), "position")
	_, _, errs = rutter(t, "export", "http://127.0.0.1:1", "--since", "never-set", "--state", state)
	require.Equal(t, "rutter: --since never-set: instant \"never-set\" is not held; the oldest instant held is rev-5\n", errs)
}
