package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
)

func TestAt(t *testing.T) {
	self := os.Args[0]
	runStory(t, "at", map[string]command{
		"get":       {args: []string{"at", "-1m", "--", self, "get", "/apis/apps/v1/namespaces/shop/deployments/web"}, stderr: "at 1m is rev-20 (2026-01-02T15:04:20.000Z)\n"},
		"no-dashes": {args: []string{"at", "--context", "prod-jane", "rev-40", self, "get", "/apis/apps/v1/namespaces/shop/deployments/web"}},
		"absent":    {args: []string{"at", "rev-40", "--", self, "get", "/api/v1/namespaces/shop/pods/web-1-a"}, code: 1},
		"anonymous": {args: []string{"at", "rev-40", "--", self, "anonymous", "/api/v1/pods"}, code: 1},
		"late-flag": {args: []string{"at", "rev-40", "-h"}, code: exitFailed, stderr: "rutter: \"-h\" stands where the command should; flags of at come before the instant\n"},
		"exit-code": {args: []string{"at", "rev-40", "--", self, "exit", "42"}, code: 42},
		"no-time":   {args: []string{"at", "noon", "--", self}, code: exitFailed, stderr: "rutter: \"noon\" is no instant; want " + formsInError + "\n"},
		"nothing":   {args: []string{"at", "now"}, code: exitFailed, stderr: "rutter: give an instant and a command, such as `rutter at -10m -- kubectl get pods`\n"},
		"dashes":    {args: []string{"at", "now", "--"}, code: exitFailed, stderr: "rutter: give an instant and a command, such as `rutter at -10m -- kubectl get pods`\n"},
		"no-such":   {args: []string{"at", "rev-40", "--", "/nonexistent/k9s"}, code: exitFailed, stderr: "rutter: /nonexistent/k9s at rev-40: fork/exec /nonexistent/k9s: no such file or directory\n"},
		"not-held":  {args: []string{"at", "-5h", "--", self, "exit", "0"}, code: exitFailed, stderr: "rutter: at 5h: instant \"-5h\" is not held; the oldest instant held is rev-5\n"},
	})
}

func TestPositionalAgo(t *testing.T) {
	for name, tc := range map[string]struct{ args, want []string }{
		"ago":           {[]string{"at", "-10m", "--", "x", "-5m"}, []string{"at", "10m", "--", "x", "-5m"}},
		"after flags":   {[]string{"at", "--context", "c", "-1d", "x", "-5m"}, []string{"at", "--context", "c", "1d", "x", "-5m"}},
		"a flag's":      {[]string{"diff", "--from", "-1h"}, []string{"diff", "--from", "-1h"}},
		"of the child":  {[]string{"at", "now", "--", "x", "-5m"}, []string{"at", "now", "--", "x", "-5m"}},
		"other command": {[]string{"tap", "-5m"}, []string{"tap", "-5m"}},
		"nothing":       {nil, nil},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tc.want, positionalAgo(tc.args)) })
	}
}

func TestBisect(t *testing.T) {
	self := os.Args[0]
	ends := "--bad now is rev-40 (2026-01-02T15:04:40.000Z)\n"
	runStory(t, "bisect", map[string]command{
		"found": {args: []string{"bisect", "--good", "rev-10", "--", self, "replicas", "1", "none"},
			stderr: ends + "rev-10 is good, about 5 to go\nrev-40 is bad, about 5 to go\nrev-25 is good, about 4 to go\nrev-32 is bad, about 3 to go\nrev-28 is good, about 2 to go\nrev-30 is bad, about 1 to go\nrev-29 is good, about 0 to go\n"},
		"skipped": {args: []string{"bisect", "--good", "rev-28", "--bad", "rev-30", "--", self, "replicas", "1", "rev-29"}, code: exitFound,
			stderr: "rev-28 is good, about 1 to go\nrev-30 is bad, about 1 to go\nrev-29 is skipped, about 1 to go\n"},
		"never-good": {args: []string{"bisect", "--good", "rev-10", "--", self, "replicas", "7", "none"}, code: exitFailed,
			stderr: ends + "rutter: --good: the command says that rev-10 is bad\n"},
		"never-bad": {args: []string{"bisect", "--good", "rev-10", "--bad", "rev-12", "--", self, "replicas", "1", "none"}, code: exitFailed,
			stderr: "rev-10 is good, about 1 to go\nrutter: --bad: the command says that rev-12 is good\n"},
		"breaks": {args: []string{"bisect", "--good", "rev-10", "--bad", "rev-12", "--", self, "exit", "130"}, code: exitFailed,
			stderr: "rutter: the command exited with 130 at rev-10, and codes from 128 on stop the search\n"},
		"turned": {args: []string{"bisect", "--good", "rev-12", "--bad", "rev-10", "--", self, "exit", "0"}, code: exitFailed,
			stderr: "rutter: --good rev-12 is rev-12, which is not before --bad rev-10, rev-10\n"},
		"no-good":    {args: []string{"bisect", "--", self}, code: exitFailed, stderr: "rutter: --good is missing; give " + formsInError + "\n"},
		"no-command": {args: []string{"bisect", "--good", "-1m"}, code: exitFailed, stderr: "rutter: requires at least 1 arg(s), only received 0\n"},
	})
}

func TestSearchRevisionsStopsWithTheCommand(t *testing.T) {
	broken := errors.New("broken")
	err := searchRevisions(t.Context(), past.NewBisection(1, 9), func(rev int64) (verdict, error) {
		switch rev {
		case 1:
			return isGood, nil
		case 9:
			return isBad, nil
		}
		return "", broken
	}, func(int64, verdict) {})
	require.ErrorIs(t, err, broken)
}

func TestHistoryStatus(t *testing.T) {
	runStory(t, "history-status", map[string]command{
		"table": {args: []string{"history", "status"}, code: exitFound},
		"json":  {args: []string{"history", "status", "-o", "json"}, code: exitFound},
		"form":  {args: []string{"history", "status", "-o", "name"}, code: exitFailed, stderr: "rutter: --output \"name\": want table, json, yaml\n"},
	})
}

func TestKubeconfigOfThePast(t *testing.T) {
	startStory(t)
	live := os.Getenv("KUBECONFIG")
	code, out, errs := rutter(t, "kubeconfig", "--at", "-1m")
	require.Zero(t, code)
	require.Equal(t, "--at -1m is rev-20 (2026-01-02T15:04:20.000Z)\n", errs)
	printed, err := clientcmd.Load([]byte(out))
	require.NoError(t, err)
	require.Equal(t, "prod@2026-01-02T15:04:20.000Z", printed.CurrentContext)
	require.Regexp(t, `^http://127\.0\.0\.1:\d+/at/rev-20$`, printed.Clusters[printed.CurrentContext].Server)

	for range 2 { // the same again is no change
		code, out, errs = rutter(t, "kubeconfig", "--at", "rev-12", "--merge")
		require.Zero(t, code, errs)
		require.Equal(t, "Merged into "+live+". Use it: kubectl --context prod@rev-12\n", out)
	}
	merged, err := clientcmd.LoadFromFile(live)
	require.NoError(t, err)
	require.Equal(t, "prod-jane", merged.CurrentContext)
	require.Equal(t, "shop", merged.Contexts["prod@rev-12"].Namespace)
	info, err := os.Stat(live)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	merged.Clusters["prod@rev-12"].Server = "https://elsewhere"
	require.NoError(t, clientcmd.WriteToFile(*merged, live))
	before, err := os.ReadFile(live)
	require.NoError(t, err)
	code, _, errs = rutter(t, "kubeconfig", "--at", "rev-12", "--merge")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, `"prod@rev-12" is there already and leads elsewhere`)
	after, err := os.ReadFile(live)
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
	entries, err := os.ReadDir(filepath.Dir(live))
	require.NoError(t, err)
	require.Len(t, entries, 1, "no file is left behind")

	code, _, errs = rutter(t, "log", "deploy/web", "--context", "prod@rev-12", "--kubeconfig", live)
	require.Equal(t, exitFailed, code, errs)
	code, _, errs = rutter(t, "kubeconfig", "--context", "prod-jane")
	require.Equal(t, exitFailed, code)
	require.Equal(t, "rutter: --kubeconfig and --context only go with --at\n", errs)
}
