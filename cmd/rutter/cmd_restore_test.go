package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/schemas"
)

const bobsConflict = "Conflict: others have changed shop deployments.apps/web since\n    spec.replicas, by bob (kubectl) at rev-30\n"

func TestRestore(t *testing.T) {
	runStory(t, "restore", map[string]command{
		"conflict":  {args: []string{"restore", "deploy/web", "--from", "rev-20"}, code: exitFound, stderr: bobsConflict + "Nothing was written; --apply --force-conflicts does it.\n"},
		"own":       {args: []string{"restore", "deploy/web", "--from", "rev-30"}, code: exitFound, stderr: "Nothing was written; --apply does it.\n"},
		"json":      {args: []string{"restore", "deploy/web", "--from", "rev-20", "--dry-run", "-o", "json"}, code: exitFound, stderr: bobsConflict + "Nothing was written; --apply --force-conflicts does it.\n"},
		"secret":    {args: []string{"restore", "secret/db", "--from", "rev-6"}, code: exitFound, stderr: "Conflict: others have changed shop secrets/db since\n    data.password, by bob (kubectl) at rev-25\nNothing was written; --apply --force-conflicts does it.\n"},
		"same":      {args: []string{"restore", "ns/shop", "--from", "rev-20"}, stderr: "Nothing differs from rev-20.\n"},
		"owned":     {args: []string{"restore", "pod/web-1-a", "--from", "rev-20"}, code: exitFound, stderr: "Left to its controller: shop pods/web-1-a is made by ReplicaSet/web-1.\nNothing of it is held at rev-20.\n"},
		"tree":      {args: []string{"restore", "deploy/web", "--from", "rev-31", "--with-owned", "-o", "name"}, code: exitFound, stderr: "Nothing was written; --apply does it.\n"},
		"not-there": {args: []string{"restore", "deploy/web", "--from", "rev-6"}, code: exitFound, stderr: "Left alone: shop deployments.apps/web was not there at rev-6.\nNothing of it is held at rev-6.\n"},

		"refused":  {args: []string{"restore", "deploy/web", "secret/db", "--from", "rev-20", "--apply"}, code: exitFailed, stderr: bobsConflict + "Conflict: others have changed shop secrets/db since\n    data.password, by bob (kubectl) at rev-25\nrutter: 2 objects changed by others since rev-20; nothing was written; --force-conflicts overrides them\n"},
		"no-from":  {args: []string{"restore", "deploy/web"}, code: exitFailed, stderr: "rutter: --from is missing; give " + formsInError + "\n"},
		"no-name":  {args: []string{"restore", "deploy", "--from", "rev-20"}, code: exitFailed, stderr: "rutter: \"deploy\" names no object; give RESOURCE/NAME, such as deploy/web\n"},
		"nothing":  {args: []string{"restore", "--from", "rev-20"}, code: exitFailed, stderr: "rutter: give objects as RESOURCE/NAME, such as deploy/web, or a file with -f\n"},
		"both":     {args: []string{"restore", "deploy/web", "--from", "rev-20", "--apply", "--dry-run"}, code: exitFailed, stderr: "rutter: --apply and --dry-run exclude each other\n"},
		"form":     {args: []string{"restore", "deploy/web", "--from", "rev-20", "-o", "wide"}, code: exitFailed, stderr: "rutter: --output \"wide\": want table, json, yaml, name\n"},
		"no-file":  {args: []string{"restore", "-f", "/nonexistent", "--from", "rev-20"}, code: exitFailed, stderr: "rutter: --filename: open /nonexistent: no such file or directory\n"},
		"not-held": {args: []string{"restore", "deploy/web", "--from", "-5h"}, code: exitFailed, stderr: "rutter: --from -5h: instant \"-5h\" is not held; the oldest instant held is rev-5\n"},
	})
}

// TestRestoreWrites puts back a changed and a deleted object.
func TestRestoreWrites(t *testing.T) {
	f := startStory(t)
	list := filepath.Join(t.TempDir(), "list")
	require.NoError(t, os.WriteFile(list, []byte("# what broke\nshop deployments.apps/web\n\nshop  pods/web-1-a\n"), 0o600))
	before := f.newest()
	code, out, errs := rutter(t, "restore", "-f", list, "--from", "rev-20", "--apply", "--force-conflicts", "--with-owned", "-o", "name")
	require.Zero(t, code, errs)
	require.Equal(t, "shop pods/web-1-a\nshop deployments.apps/web\nshop replicasets.apps/web-1\n", out)
	require.Contains(t, errs, "Restored 3 objects.\n")
	require.Equal(t, before+3, f.newest())
	now := f.state(f.newest())
	require.Contains(t, string(now[key(t, deployKey)].Object), `"replicas":1`)
	pod := now[key(t, podKey)].Object
	require.Equal(t, "new-web-1-a", past.UID(pod))
	require.Equal(t, "r", past.Owners(pod)[0].UID, "the owner is that of now")
	require.NotContains(t, string(pod), "scheduler.rutter.dev/decision")
}

func TestRestoreStopsAtARefusal(t *testing.T) {
	f := startStory(t)
	f.refuse = map[string]string{"apply deployments": "the object has been modified"}
	before := f.newest()
	code, _, errs := rutter(t, "restore", "deploy/web", "--from", "rev-30", "--apply")
	require.Equal(t, exitFailed, code)
	require.Equal(t, "rutter: shop deployments.apps/web: the object has been modified\n", errs)
	require.Equal(t, before, f.newest())
}

func TestRestoreSelections(t *testing.T) {
	startStory(t)
	for name, tc := range map[string]struct{ text, want string }{
		"empty":      {"# nothing\n", "it names no object; give lines such as \"shop deployments.apps/web\""},
		"no name":    {"shop deployments.apps\n", `line 1: "deployments.apps" names no object`},
		"third word": {"shop pods/a b\n", "line 1: more than \"NAMESPACE RESOURCE/NAME\""},
	} {
		t.Run(name, func(t *testing.T) {
			list := filepath.Join(t.TempDir(), "list")
			require.NoError(t, os.WriteFile(list, []byte(tc.text), 0o600))
			code, _, errs := rutter(t, "restore", "-f", list, "--from", "rev-20")
			require.Equal(t, exitFailed, code)
			require.Contains(t, errs, tc.want)
		})
	}
}

func key(t *testing.T, text string) schemas.Key {
	t.Helper()
	k, err := schemas.ParseKey(text)
	require.NoError(t, err)
	return k
}

// TestRestoreExactly takes away what was added.
func TestRestoreExactly(t *testing.T) {
	f := startStory(t)
	was := f.newest()
	f.events = append(f.events, change(41, 5, schemas.Modified, "core/namespaces/shop", "dave kubectl", "patch",
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop","uid":"n","labels":{"added":"since"},"finalizers":["example.com/mine"]}}`))
	args := []string{"restore", "ns/shop", "--from", "rev-20", "--exact"}
	conflict := "Conflict: others have changed namespaces/shop since\n    metadata.labels, by dave (kubectl) at rev-41\n"
	code, out, errs := rutter(t, args...)
	require.Equal(t, exitFound, code, errs)
	require.Equal(t, "MODIFIED namespaces/shop\n    - metadata.labels: {\"added\":\"since\"}\n", out)
	conflict += "Added since to namespaces/shop, and stays: metadata.finalizers\n"
	require.Equal(t, conflict+"Nothing was written; --apply --force-conflicts does it.\n", errs)
	code, _, errs = rutter(t, append(args, "--apply")...)
	require.Equal(t, exitFailed, code)
	require.Equal(t, conflict+"rutter: 1 object changed by others since rev-20; nothing was written; --force-conflicts overrides them\n", errs)
	require.Equal(t, was+1, f.newest())
	code, _, errs = rutter(t, append(args, "--apply", "--force-conflicts")...)
	require.Zero(t, code, errs)
	now := string(f.state(f.newest())[key(t, "core/namespaces/shop")].Object)
	require.NotContains(t, now, "added")
	require.Contains(t, now, "example.com/mine", "finalizers are promises to others")
}

func TestRestoreFromBundle(t *testing.T) {
	f := startStory(t)
	file := filepath.Join(t.TempDir(), "story.bundle")
	code, _, errs := rutter(t, "bundle", file, "--from", "rev-5", "--to", "rev-31", "--redact", "env")
	require.Zero(t, code, errs)
	restore := func(args ...string) (int, string, string) {
		return rutter(t, append([]string{"restore", "--from-bundle", file}, args...)...)
	}
	code, out, errs := restore("deploy/web", "secret/db", "--from", "rev-20")
	require.Equal(t, exitFound, code, errs)
	require.Equal(t, "MODIFIED shop deployments.apps/web\n    ~ spec.replicas: 0 → 1\n    ~ spec.template.spec.containers[name=web].image: \"web:2\" → \"web:1\"\n", out)
	require.Equal(t, "Left alone: values of shop secrets/db are hidden in the bundle.\n"+bobsConflict+"Nothing was written; --apply --force-conflicts does it.\n", errs)

	f.epoch = "other.1"
	code, _, errs = restore("deploy/web", "--apply", "-n", "shop")
	require.Equal(t, exitFailed, code)
	require.Equal(t, "--from now is rev-31 (2026-01-02T15:04:31.000Z)\nConflict: others have changed shop deployments.apps/web since\n    spec.template.spec.containers[name=web].image, by whom is not known\n"+
		"rutter: 1 object changed by others since rev-31; nothing was written; --force-conflicts overrides them\n", errs)
	before := f.newest()
	code, _, errs = restore("deploy/web", "--apply", "--force-conflicts")
	require.Zero(t, code, errs)
	require.Equal(t, before+1, f.newest())
	require.Contains(t, string(f.state(f.newest())[key(t, deployKey)].Object), "web:1")

	code, _, errs = restore("deploy/web", "--from", "rev-99")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "rutter: --from rev-99: ")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, text[:len(text)/2], 0o600))
	code, _, errs = restore("deploy/web")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "rutter: --from-bundle "+file+": not a good bundle: ")
}
