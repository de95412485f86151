package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
	"github.com/rutter-project/rutter/schemas/bundle"
)

// sizes depend on how well what is kept compresses.
var sizes = regexp.MustCompile(`\d+ B|[0-9.]+ KiB`)

// holed is the story of which the archive has lost everything from revision 25 to 33: bob's
// scaling, the pod's end, a new ConfigMap. The first state behind it is that of 40.
func holed(t *testing.T) string {
	t.Helper()
	whole := read(t, record(t))
	w, err := bundle.NewWriter()
	require.NoError(t, err)
	state := map[schemas.Key]schemas.Event{}
	for _, e := range whole.State {
		state[e.Key] = e
		require.NoError(t, w.Object(e))
	}
	for _, e := range whole.Events {
		e.Recorded = storyAt(e.Rev)
		if state[e.Key] = e; e.Type == schemas.Deleted {
			delete(state, e.Key)
		}
		if e.Rev == 40 {
			require.NoError(t, w.Event(schemas.Event{Rev: 40, Cnt: 1, Type: schemas.Gap, PrevRev: 15, Object: []byte(`{"reason":"the archive has lost these changes"}`)}))
		}
		if e.Rev < 25 || e.Rev > 33 {
			require.NoError(t, w.Event(e))
		}
	}
	born := change(28, 0, schemas.Added, "core/configmaps/shop/new", "", "", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new","namespace":"shop","uid":"c"},"data":{"a":"1"}}`)
	state[born.Key] = born
	for _, e := range state {
		require.NoError(t, w.Later(40, schemas.Event{Rev: e.Rev, Cnt: 1, Type: schemas.Added, Key: e.Key, Object: e.Object}))
	}
	h := whole.Header
	h.Later = []bundle.Instant{h.To}
	var text bytes.Buffer
	_, err = w.WriteTo(&text, h)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "holed.bundle")
	require.NoError(t, os.WriteFile(file, text.Bytes(), 0o600))
	return file
}

// TestCommandsAcrossAHole: each says what is lost, or is right without it.
func TestCommandsAcrossAHole(t *testing.T) {
	file := holed(t)
	const gap = "lies in a gap: changes after rev-15 (2026-01-02T15:04:15Z) and before rev-40 (2026-01-02T15:04:40Z) are lost (the archive has lost these changes); the oldest instant held is rev-5 (2026-01-02T15:04:05Z), the newest rev-40 (2026-01-02T15:04:40Z)\n"
	for name, tc := range map[string]struct {
		args []string
		code int
	}{
		"log":         {args: []string{"log", "deploy/web"}},
		"log-diff":    {args: []string{"log", "deploy/web", "--diff"}},
		"log-within":  {args: []string{"log", "deploy/web", "--since", "rev-20"}},
		"log-born":    {args: []string{"log", "cm/new"}, code: exitFound},
		"blame":       {args: []string{"blame", "deploy/web"}},
		"blame-json":  {args: []string{"blame", "cm/new", "-o", "json"}},
		"blame-gone":  {args: []string{"blame", "po/web-1-a", "-o", "yaml"}},
		"blame-still": {args: []string{"blame", "ns/shop"}, code: exitFound}, // older than all, and not changed
		"why":         {args: []string{"why", "deploy/web"}},
		"why-gone":    {args: []string{"why", "po/web-1-a"}},
		"why-born":    {args: []string{"why", "cm/new", "-o", "json"}},
		"why-never":   {args: []string{"why", "cm/never"}, code: exitFound},
		"diff":        {args: []string{"diff", "--from", "rev-15"}, code: exitFound},
		"bisect":      {args: []string{"bisect", "--good", "rev-12", "--", os.Args[0], "get", "/api/v1/namespaces/shop/pods/web-1-a"}, code: exitFound},
		"bisect-json": {args: []string{"bisect", "--good", "rev-12", "-o", "json", "--", os.Args[0], "get", "/api/v1/namespaces/shop/pods/web-1-a"}, code: exitFound},
		"status":      {args: []string{"history", "status"}, code: exitFound},
		"tap":         {args: []string{"tap", "deploy/web", "--since", "rev-20", "--limit", "1", "-o", "ndjson"}},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := openStory(t, file, append(tc.args, "-n", "shop")...)
			if i := slices.Index(tc.args, "--"); i >= 0 || name == "status" { // no place for a namespace
				code, out, errs = openStory(t, file, tc.args...)
			}
			require.Equal(t, tc.code, code, "%s%s", out, errs)
			golden(t, "hole-"+name, sizes.ReplaceAllString(out+"--- stderr\n"+errs, "SOME B"))
		})
	}
	for name, args := range map[string][]string{
		"at rev-30":               {"at", "rev-30", "--", "true"},
		"--to rev-30":             {"diff", "--from", "rev-15", "--to", "rev-30", "-n", "shop"},
		"--at rev-16":             {"blame", "deploy/web", "-n", "shop", "--at", "rev-16"},
		"--from rev-39":           {"restore", "deploy/web", "-n", "shop", "--from", "rev-39"},
		"at 2026-01-02T15:04:30Z": {"at", "2026-01-02T15:04:30Z", "--", "true"},
	} {
		code, _, errs := openStory(t, file, args...)
		require.Equal(t, exitFailed, code, name)
		_, instant, _ := strings.Cut(name, " ")
		require.Equal(t, "rutter: "+name+": instant \""+instant+"\" "+gap, errs)
	}
}

// TestBundleCarriesItsHole: a bundle of what has a hole has the same hole.
func TestBundleCarriesItsHole(t *testing.T) {
	file := holed(t)
	want := read(t, file)
	for _, args := range [][]string{{"--from", "rev-5"}, {"--from", "rev-5", "-n", "shop"}, {"--from", "rev-15", "--object", "deploy/web", "-n", "shop"}} {
		again := filepath.Join(t.TempDir(), "again.bundle")
		code, _, errs := openStory(t, file, append([]string{"bundle", again}, args...)...)
		require.Zero(t, code, errs)
		have := read(t, again)
		require.Equal(t, 1, have.Header.Gaps)
		require.Len(t, have.Header.Later, 1)
		require.EqualValues(t, 40, have.Header.Later[0].Rev)
		if len(args) == 2 {
			for i := range have.Events {
				have.Events[i].Seq = want.Events[i].Seq // its place in the file
			}
			require.Equal(t, want.Events, have.Events)
			require.ElementsMatch(t, want.Later, have.Later)
		}
		code, out, errs := openStory(t, again, "why", "deploy/web", "-n", "shop")
		require.Zero(t, code, errs)
		require.Contains(t, out, "40       changes after revision 15 and before 40 are lost\n* 40       2026-01-02T15:04:40.000Z  shop deployments.apps/web: changed\n    by carol (helm)\n")
		code, out, errs = openStory(t, again, "at", "rev-40", "--", os.Args[0], "get", "/apis/apps/v1/namespaces/shop/deployments/web")
		require.Zero(t, code, errs)
		require.Contains(t, out, `"image":"web:2"`)
	}
}
