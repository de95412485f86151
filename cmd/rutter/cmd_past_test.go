package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	nowIsStderr  = "--at now is rev-40 (2026-01-02T15:04:40.000Z)\n"
	toNowStderr  = "--to now is rev-40 (2026-01-02T15:04:40.000Z)\n"
	formsInError = "a time ago such as -5m, an RFC 3339 time such as 2026-01-02T03:04:05Z, now, rev-N, or a mark"
)

func TestDiff(t *testing.T) {
	minute := "--from -1m is rev-20 (2026-01-02T15:04:20.000Z)\n"
	runStory(t, "diff", map[string]command{
		"namespace":   {args: []string{"diff", "--from", "-1m"}, code: exitFound, stderr: minute + toNowStderr},
		"all":         {args: []string{"diff", "--from", "rev-1", "--to", "rev-12", "-A", "-o", "name"}, code: exitFound},
		"object":      {args: []string{"diff", "--from", "rev-10", "--to", "rev-40", "deploy/web", "-o", "json"}, code: exitFound},
		"kind":        {args: []string{"diff", "--from", "rev-10", "--to", "rev-40", "pods", "-o", "yaml"}},
		"secret":      {args: []string{"diff", "--from", "rev-6", "--to", "rev-25", "secrets"}, code: exitFound},
		"new-secret":  {args: []string{"diff", "--from", "rev-5", "--to", "rev-6", "secrets", "-o", "json"}, code: exitFound},
		"same":        {args: []string{"diff", "--from", "rev-12", "--to", "rev-12"}},
		"never-there": {args: []string{"diff", "--from", "rev-12", "pod/none"}, stderr: toNowStderr + "pod/none was there at neither instant.\n"},
		"no-from":     {args: []string{"diff"}, code: exitFailed, stderr: "rutter: --from is missing; give " + formsInError + "\n"},
		"both":        {args: []string{"diff", "--from", "-1m", "-A", "-n", "shop"}, code: exitFailed, stderr: "rutter: --namespace \"shop\" and --all-namespaces exclude each other\n"},
		"form":        {args: []string{"diff", "--from", "-1m", "-o", "xml"}, code: exitFailed, stderr: "rutter: --output \"xml\": want table, json, yaml, name\n"},
		"not-held":    {args: []string{"diff", "--from", "-5h"}, code: exitFailed, stderr: "rutter: --from -5h: instant \"-5h\" is not held; the oldest instant held is rev-5\n"},
	})
}

func TestDiffLeavesOutWhatItMayNotSee(t *testing.T) {
	f := startStory(t)
	f.refuse = map[string]string{"secrets": "Forbidden", "pods": "MethodNotAllowed"}
	code, out, errs := rutter(t, "diff", "--from", "rev-20", "--to", "rev-31", "-o", "name")
	require.Equal(t, exitFound, code)
	require.Equal(t, "shop deployments.apps/web\nshop replicasets.apps/web-1\n", out)
	require.Equal(t, "Left out, since you may not list them: secrets\n", errs)
	code, _, errs = rutter(t, "diff", "--from", "rev-20", "--to", "rev-31", "secrets")
	require.Equal(t, exitFailed, code, "what was named is not left out")
	require.Equal(t, "rutter: secrets at rev-20: jane cannot list secrets\n", errs)
	f.refuse = map[string]string{"secrets": "Forbidden", "pods": "Forbidden", "deployments": "Forbidden", "replicasets": "Forbidden", "configmaps": "Forbidden"}
	code, _, errs = rutter(t, "diff", "--from", "rev-20", "--to", "rev-31")
	require.Equal(t, exitFailed, code, "who sees nothing has not seen that nothing differs")
	require.Equal(t, "rutter: of all kinds at rev-20 you may list none\n", errs)
}

func TestExternalDiff(t *testing.T) {
	startStory(t)
	for name, tc := range map[string]struct {
		program string
		code    int
		want    string
	}{
		"differences":  {"diff -u -N", exitFound, "-  password: '*** (before)'\n+  password: '*** (after)'\n"},
		"says nothing": {"true", exitFound, ""},
		"fails":        {"diff --no-such-flag", exitFailed, ""},
		"not there":    {"/nonexistent/diff", exitFailed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KUBECTL_EXTERNAL_DIFF", tc.program)
			code, stdout, _ := rutter(t, "diff", "--from", "rev-6", "--to", "rev-25", "secret/db")
			require.Equal(t, tc.code, code)
			require.Contains(t, stdout, tc.want)
			require.NotContains(t, stdout, "b25l")
		})
	}
}

func TestBlame(t *testing.T) {
	runStory(t, "blame", map[string]command{
		"table":   {args: []string{"blame", "deploy/web"}, stderr: nowIsStderr},
		"at":      {args: []string{"blame", "deploy/web", "--at", "rev-12"}},
		"json":    {args: []string{"blame", "ns/shop", "-o", "json"}, stderr: nowIsStderr},
		"deleted": {args: []string{"blame", "po/web-1-a", "-o", "yaml", "--at", "rev-33"}},
		"nothing": {args: []string{"blame", "deploy/web", "--at", "rev-5"}, code: exitFound, stderr: "No changes of shop deployments.apps/web are held up to rev-5.\n"},
		"no-name": {args: []string{"blame", "deploy"}, code: exitFailed, stderr: "rutter: \"deploy\" names no object; give RESOURCE/NAME, such as deploy/web\n"},
		"form":    {args: []string{"blame", "deploy/web", "-o", "wide"}, code: exitFailed, stderr: "rutter: --output \"wide\": want table, json, yaml\n"},
	})
}

func TestWhy(t *testing.T) {
	runStory(t, "why", map[string]command{
		"pod":        {args: []string{"why", "pod/web-1-a"}, stderr: nowIsStderr},
		"pod-before": {args: []string{"why", "pod/web-1-a", "--at", "rev-20", "-o", "json"}},
		"deployment": {args: []string{"why", "deploy/web"}, stderr: nowIsStderr},
		"yaml":       {args: []string{"why", "rs/web-1", "--at", "rev-31", "-o", "yaml"}},
		"nothing":    {args: []string{"why", "pod/none"}, code: exitFound, stderr: nowIsStderr + "No changes of shop pods/none are held up to rev-40.\n"},
		"form":       {args: []string{"why", "pod/x", "-o", "dot"}, code: exitFailed, stderr: "rutter: --output \"dot\": want table, json, yaml\n"},
	})
}

func TestResourceCompletion(t *testing.T) {
	_, out, _ := rutter(t, "__complete", "why", "")
	require.Contains(t, out, "deploy\n")
	_, out, _ = rutter(t, "__complete", "diff", "--output", "")
	require.Equal(t, "table\njson\nyaml\nname\n:4\n", out)
}
