package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/cmd/rutter/internal/health"
	"github.com/rutter-project/rutter/schemas"
)

var loopbackURL = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)

// well is the story with what a healthy cluster has besides: a node that is there, and
// controllers that have seen everything.
func well(f *fakeServer) {
	kept := f.events[:0]
	for _, e := range f.events {
		if e.Key.Group != "apps" {
			kept = append(kept, e)
		}
	}
	f.events = append(kept, change(39, 0, schemas.Added, "core/nodes/n1", "admin", "create",
		`{"metadata":{"name":"n1","uid":"node"},"status":{"conditions":[{"type":"Ready","status":"True","reason":"Up"}]}}`),
		change(40, 0, schemas.Added, "core/pods/shop/waits", "admin", "create",
			`{"metadata":{"name":"waits","namespace":"shop","uid":"w"},"status":{"conditions":[{"type":"PodScheduled","status":"False"}]}}`))
}

func TestStatus(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		is   func(f *fakeServer)
		code int
	}{
		"healthy":   {is: well},
		"waiting":   {is: func(*fakeServer) {}, code: exitFound},
		"unready":   {is: func(f *fakeServer) { well(f); f.unwell = "etcd failed: it does not answer" }, code: exitFound},
		"forbidden": {is: func(f *fakeServer) { well(f); f.refuse = map[string]string{"pods": "Forbidden", "nodes": "Forbidden"} }},
		"json":      {is: well, args: []string{"-o", "json"}},
		"yaml":      {is: well, args: []string{"-o", "yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.is(startStory(t))
			code, out, errs := rutter(t, append([]string{"status", "--data-dir", t.TempDir()}, tc.args...)...)
			require.Empty(t, errs)
			require.Equal(t, tc.code, code, out)
			golden(t, "status-"+name, loopbackURL.ReplaceAllString(out, "http://SERVER"))
		})
	}
}

func TestStatusWaitsForTheRelay(t *testing.T) {
	f := startStory(t)
	well(f)
	f.behind = 31
	code, out, _ := rutter(t, "status", "--data-dir", t.TempDir())
	require.Equal(t, exitFound, code)
	require.Contains(t, out, "published up to revision 9, 31 revisions behind etcd for 3")
	require.Contains(t, out, "lag behind HISTORY: STATE (31 s)")
}

func TestStatusOfNoServer(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	file := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(file, []byte(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"users":[{"name":"u","user":{}}],"clusters":[{"name":"c","cluster":{"server":"`+server.URL+`"}}]}`), 0o600))
	for _, command := range []string{"status", "check"} {
		code, out, errs := rutter(t, command, "--kubeconfig", file, "--data-dir", t.TempDir(), "-o", "json")
		require.Equal(t, exitFailed, code, out)
		require.Equal(t, "rutter: "+server.URL+"/version: 404 Not Found; is it an API server?\n", errs)
	}
}

func TestCheckCluster(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		is   func(f *fakeServer)
		code int
	}{
		"healthy": {is: well},
		"broken": {is: func(f *fakeServer) {
			f.events = append(f.events,
				change(41, 0, schemas.Added, "core/configmaps/gone/orphan", "admin", "create", `{"metadata":{"name":"orphan","namespace":"gone","uid":"o","ownerReferences":[{"kind":"Pod","name":"x","uid":"never"}]}}`),
				change(42, 0, schemas.Added, "core/pods/shop/lost", "admin", "create", `{"metadata":{"name":"lost","namespace":"shop","uid":"l"},"spec":{"nodeName":"n9"}}`))
		}, code: exitFound},
		"json": {is: well, args: []string{"-o", "json"}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.is(startStory(t))
			code, out, errs := rutter(t, append([]string{"check", "cluster", "--data-dir", t.TempDir()}, tc.args...)...)
			require.Empty(t, errs)
			require.Equal(t, tc.code, code, out)
			golden(t, "check-"+name, out)
		})
	}
}

// TestCheckHost looks at the machine that runs the test, whatever it finds.
func TestCheckHost(t *testing.T) {
	t.Setenv("KUBECONFIG", "")
	dir := filepath.Join(t.TempDir(), "absent")
	args := []string{"--data-dir", dir, "--run-dir", dir, "-o", "json", "--api-port", "0", "--bus-port", "0", "--node-port", "0"}
	for _, what := range [][]string{{"check", "host"}, {"check"}} {
		code, out, errs := rutter(t, append(what, args...)...)
		require.NotEqual(t, exitFailed, code, errs)
		var found []health.Finding
		require.NoError(t, json.Unmarshal([]byte(out), &found))
		seen := map[string]health.State{}
		for _, f := range found {
			require.NotEmpty(t, f.Seen, f.Check)
			seen[f.Check] = f.State
		}
		require.Equal(t, health.OK, seen["ports"])
		require.Equal(t, health.OK, seen["data-directory"])
		require.Contains(t, seen, "kernel")
		require.NotEqual(t, health.Skipped, seen["disk"])
		if len(what) == 1 {
			require.Equal(t, health.Skipped, seen["api-server"])
		}
		require.Equal(t, code == exitFound, health.Count(found, health.Failed) > 0)
	}
	require.NoDirExists(t, dir)
	damaged := filepath.Join(dir, "bus", bus.DamagedDir)
	require.NoError(t, os.MkdirAll(damaged, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(damaged, "ARCHIVE-2-7.blk"), nil, 0o600))
	_, out, errs := rutter(t, append([]string{"check", "host"}, args...)...)
	require.Contains(t, out, "were damaged and are in "+damaged+": ARCHIVE-2-7.blk", errs)
	code, _, errs := rutter(t, "check", "everything")
	require.Equal(t, exitFailed, code)
	require.Equal(t, "rutter: invalid argument \"everything\" for \"rutter check\"\n", errs)
}
