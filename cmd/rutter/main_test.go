package main

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) {
	if os.Getenv("RUTTER_TEST_CHILD") != "" {
		os.Exit(child(os.Args[1:]))
	}
	time.Local = time.UTC // tables show local time
	goleak.VerifyTestMain(m)
}

// rutter runs the program.
func rutter(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestHelpGolden(t *testing.T) {
	names := append(slices.Sorted(maps.Keys(runnable())), "", "history", "seal")
	for _, command := range names {
		name := "help.txt"
		args := []string{"--help"}
		if command != "" {
			name, args = "help-"+strings.ReplaceAll(command, " ", "-")+".txt", append(strings.Fields(command), "--help")
		}
		code, out, errs := rutter(t, args...)
		require.Zero(t, code)
		require.Empty(t, errs)
		out = strings.ReplaceAll(out, `"`+standalone.DefaultConfig().NodeName+`"`, `"HOST"`)
		path := filepath.Join("testdata", name)
		if *update {
			require.NoError(t, os.WriteFile(path, []byte(out), 0o644))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(want), out, "%s; rewrite it with -update if the change is wanted", path)
	}
}

func TestVersion(t *testing.T) {
	version, commit, date = "v0.1.0", "abc", "2026-01-02"
	t.Cleanup(func() { version, commit, date = "", "", "" })
	code, out, errs := rutter(t, "version")
	require.Zero(t, code)
	require.Empty(t, errs)
	require.Equal(t, "rutter v0.1.0\ncommit abc\nbuilt 2026-01-02 with "+runtime.Version()+"\nKubernetes API 1.37\n", out)
	version = ""
	require.Equal(t, "development build", build().Version)
}

func TestErrors(t *testing.T) {
	t.Setenv("KUBECONFIG", "")
	absent := filepath.Join(t.TempDir(), "absent")
	data := "--data-dir=" + absent
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"unknown command":        {[]string{"frobnicate"}, "rutter: unknown command \"frobnicate\" for \"rutter\"\n"},
		"unknown in a group":     {[]string{"history", "nosuch"}, "rutter: unknown command \"nosuch\" for \"rutter history\"\n"},
		"unknown flag":           {[]string{"up", "--nod"}, "rutter: unknown flag: --nod\n"},
		"too many arguments":     {[]string{"version", "x"}, "rutter: unknown command \"x\" for \"rutter version\"\n"},
		"port out of range":      {[]string{"up", "--api-port", "70000"}, "rutter: invalid argument \"70000\" for \"--api-port\" flag: strconv.ParseUint: parsing \"70000\": value out of range\n"},
		"address is none":        {[]string{"up", data, "--address", "here"}, "rutter: --address \"here\" is not an IP address: ParseAddr(\"here\"): unable to parse IP\n"},
		"relative directory":     {[]string{"up", "--data-dir=x"}, "rutter: --data-dir \"x\" is not an absolute path\n"},
		"tap without cluster":    {[]string{"tap", data}, "rutter: no kubeconfig " + absent + "/admin.kubeconfig; give --kubeconfig, set KUBECONFIG, or start a cluster with `rutter up`\n"},
		"log without cluster":    {[]string{"log", "deploy/web", data}, "rutter: no kubeconfig " + absent + "/admin.kubeconfig; give --kubeconfig, set KUBECONFIG, or start a cluster with `rutter up`\n"},
		"verify without cluster": {[]string{"verify", data}, "rutter: no cluster runs on " + absent + "; start it with `rutter up`\n"},
		"kubeconfig of none":     {[]string{"kubeconfig", data}, "rutter: no cluster was started on " + absent + " yet: open " + absent + "/admin.kubeconfig: no such file or directory\n"},
		"tap in nonsense":        {[]string{"tap", "-o", "xml", data}, "rutter: --output \"xml\": want table, ndjson, json, cloudevents, diff\n"},
		"log of no name":         {[]string{"log", "deploy", data}, "rutter: \"deploy\" names no object; give RESOURCE/NAME, such as deploy/web\n"},
		"log of nothing":         {[]string{"log", data}, "rutter: accepts 1 arg(s), received 0\n"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := rutter(t, tc.args...)
			require.Equal(t, exitFailed, code)
			require.Equal(t, tc.want, errs)
			if name != "relative directory" { // up says its version first
				require.Empty(t, out)
			}
			require.NoDirExists(t, absent, "a command that only reads must not make the data directory")
		})
	}
	t.Setenv("KUBECONFIG", absent)
	code, _, errs := rutter(t, "why", "pod/x")
	require.Equal(t, exitFailed, code)
	require.Equal(t, "rutter: no kubeconfig: $KUBECONFIG is "+absent+", which is not there or empty; give --kubeconfig\n", errs)
	code, out, errs := rutter(t, "down", data)
	require.Zero(t, code, errs)
	require.Empty(t, out)
	require.NoDirExists(t, absent)
}

var event = schemas.Event{Rev: 42, Cnt: 1, Type: schemas.Modified, PrevRev: 40,
	Key:    schemas.Key{Group: "apps", Resource: "deployments", Namespace: "shop", Name: "web"},
	Header: schemas.Header{V: 1, Time: time.Date(2026, 1, 2, 15, 4, 5, 6000, time.UTC), Verb: "update", User: "alice", Manager: "kubectl", Cause: []int64{7, 9}},
	Object: []byte(`{"kind":"Deployment"}`)}

func TestEventTable(t *testing.T) {
	var out bytes.Buffer
	write, err := eventWriter(&out, "table", nil)
	require.NoError(t, err)
	require.NoError(t, write(event))
	node := event
	node.Key, node.Type, node.Header = schemas.Key{Resource: "nodes", Name: "n"}, schemas.Deleted, schemas.Header{User: "rutter:scheduler", Manager: "scheduler", Verb: "delete"}
	require.NoError(t, write(node))
	require.Equal(t, strings.Join([]string{
		"TIME            REVISION  CHANGE    OBJECT                                                     BY                               VERB    CAUSE",
		"15:04:05.000006 42        MODIFIED  shop deployments.apps/web                                  alice (kubectl)                  update  7,9",
		"                42        DELETED   nodes/n                                                    rutter:scheduler                 delete  ",
		"",
	}, "\n"), out.String())
}

func TestEventJSON(t *testing.T) {
	for _, form := range []string{"json", "ndjson"} {
		var out bytes.Buffer
		write, err := eventWriter(&out, form, nil)
		require.NoError(t, err)
		require.NoError(t, write(event))
		require.Equal(t, `{"rev":42,"ord":0,"cnt":1,"type":"MODIFIED","key":{"group":"apps","resource":"deployments","namespace":"shop","name":"web"},"prevRev":40,`+
			`"header":{"v":1,"time":"2026-01-02T15:04:05.000006Z","verb":"update","user":"alice","manager":"kubectl","cause":[7,9]},"object":{"kind":"Deployment"}}`+"\n", out.String())
	}
}

func TestReport(t *testing.T) {
	report := &bus.Report{From: 1, To: 9, Changes: 8, Missing: 1, Doubled: 2, Unordered: 3, Different: 4, Unknown: 5, Objects: 6, StateMissing: 7, StateStale: 8, StateExtra: 9,
		Archive: bus.Copy{Events: 10, Missing: 11, Different: 12, Extra: 13}, Packs: bus.Copy{Events: 14, Missing: 15, Different: 16, Extra: 17, Damaged: 18},
		Gaps: []schemas.Event{{PrevRev: 3, Rev: 5}}, Examples: []string{"revision 4 is missing"}}
	var out bytes.Buffer
	require.NoError(t, writeReport(&out, "table", report))
	require.Equal(t, "Revisions 1 to 9: 8 changes in etcd.\n1 missing, 2 doubled, 3 out of order, 4 different, 5 unknown.\n"+
		"State: 6 objects in etcd; 7 missing, 8 stale, 9 extra.\n"+
		"Archive: 10 changes compared; 11 missing, 12 different, 13 extra.\nPacks: 14 changes compared; 15 missing, 16 different, 17 extra, 18 packs damaged.\nNamed gap: changes after revision 3 up to 5 were lost.\n  revision 4 is missing\n", out.String())
	out.Reset()
	require.NoError(t, writeReport(&out, "json", &bus.Report{From: 1, To: 2}))
	require.True(t, strings.HasPrefix(out.String(), "{\n  \"from\": 1,\n  \"to\": 2,\n"), out.String())
}
