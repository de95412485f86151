package events

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/integration/cluster"
)

// TestSecretsStaySecret is invariant 8: neither values nor the names of their keys, old or
// new, in whatever field they were given, are in any file of the data directory or in any
// event.
func TestSecretsStaySecret(t *testing.T) {
	c := cluster.New(t, "--no-node")
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	require.NoError(t, os.WriteFile(policy, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n"), 0o600))
	require.NoError(t, os.MkdirAll(c.Dir, 0o700))
	c.UpFlags("--no-node", "--audit-policy-file", policy, "--audit-log-path", filepath.Join(c.Dir, "audit.log"), "--audit-log-mode", "blocking")
	c.Start()
	c.Apply(brokenWebhook)
	canaries := []string{"CANARYdata", "CANARYstring", "CANARYapplied", "CANARYnew", "CANARYnote", "canarykey", "canaryold"}
	c.Apply(`apiVersion: v1
kind: Secret
metadata: {name: s, labels: {visible: label-is-visible}, annotations: {note: CANARYnote}}
stringData: {canarykey-a: CANARYstring, canaryold: CANARYapplied}
data: {canarykey-b: ` + base64.StdEncoding.EncodeToString([]byte("CANARYdata")) + `}`)
	c.Apply(`apiVersion: v1
kind: Secret
metadata: {name: s, labels: {visible: label-is-visible}}
stringData: {canarykey-a: CANARYnew}`)
	c.Kubectl("create", "secret", "generic", "gone", "--from-literal=canarykey-c=CANARYdata")
	c.Kubectl("delete", "secret", "gone")
	for _, bad := range badSecrets {
		out, err := c.TryKubectl(bad, "create", "-f", "-")
		require.Error(t, err, out)
	}
	c.Apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: control}\ndata: {key: FOUNDTHIS}")
	require.Equal(t, "CANARYnew", decoded(t, c.Kubectl("get", "secret", "s", "-o", `jsonpath={.data.canarykey-a}`)), "the API shows it")

	stream, err := c.Rutter("tap", "--since", "rev-1", "--timeout", "2s", "-o", "ndjson")
	require.Error(t, err, "ended by its time")
	require.Contains(t, stream, "FOUNDTHIS", "the search would find something")
	require.Contains(t, stream, "label-is-visible", "selectors work on events")
	for _, needle := range needles(canaries) {
		require.NotContains(t, stream, needle)
	}
	for _, line := range secretQuestions {
		line = strings.ReplaceAll(line, "OLDEST", firstHeld(t, c))
		var out string
		if args, ok := strings.CutPrefix(line, "rutter "); ok {
			out, _ = c.Rutter(strings.Fields(args)...) // differences are an exit code, too
		} else {
			out = c.Kubectl("get", "--raw", line)
		}
		require.NotEmpty(t, out, line)
		require.NotContains(t, out, "rutter: ", "%s could not be done", line)
		for _, needle := range needles(canaries) {
			require.NotContains(t, out, needle, line)
		}
	}
	bundle := filepath.Join(t.TempDir(), "all.bundle")
	out, err := c.Rutter("bundle", bundle, "--from", firstHeld(t, c))
	require.NoError(t, err, out)
	fillBlock(t, c)
	c.Kill()
	require.NoError(t, os.RemoveAll(filepath.Join(c.Dir, "bus", "jetstream", "CORE", "streams", "OBJ_KEYFRAMES")))
	c.Start() // which packs the log, and writes a keyframe with the Secrets, as there is none
	require.Eventually(t, func() bool {
		var status struct {
			Packs     struct{ Messages int }
			Keyframes []struct{ Revision int }
		}
		require.NoError(t, json.Unmarshal([]byte(c.Kubectl("get", "--raw", "/history/status")), &status))
		return status.Packs.Messages > 0 && len(status.Keyframes) > 0
	}, time.Minute, 200*time.Millisecond)
	c.Kill()
	recorded, err := c.TryRutter("open", bundle, "--", cluster.Binary(t, "KUBECTL_BIN", "kubectl"), "get", "--raw", "/history/events")
	require.NoError(t, err, recorded)
	require.Contains(t, recorded, "FOUNDTHIS", "the search would find something")
	for _, needle := range needles(canaries) {
		require.NotContains(t, recorded, needle, "in a bundle")
	}
	require.NotEmpty(t, search(t, filepath.Dir(bundle), []string{"FOUNDTHIS"}), "the search finds what is in a bundle")
	require.Empty(t, search(t, filepath.Dir(bundle), needles(canaries)))
	const everywhere = "kube-system"
	found := search(t, c.Dir, append(needles(canaries), "FOUNDTHIS", everywhere))
	require.NotEmpty(t, found["FOUNDTHIS"], "the search finds what is there")
	for _, place := range []string{"etcd", "HISTORY", "STATE", "ARCHIVE", "PACKS", "KEYFRAMES"} {
		require.True(t, slices.ContainsFunc(found[everywhere], func(path string) bool { return strings.Contains(path, place) }),
			"the search finds what is in %s: %v", place, found[everywhere])
	}
	sealed := slices.ContainsFunc(found["FOUNDTHIS"], func(path string) bool {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		return strings.Contains(path, "ARCHIVE") && bytes.Contains(text, s2Magic)
	})
	require.True(t, sealed, "the search finds what JetStream has compressed: %v", found["FOUNDTHIS"])
	delete(found, "FOUNDTHIS")
	delete(found, everywhere)
	require.Empty(t, found)
}

// fillBlock makes the log long enough for JetStream to compress what came before.
func fillBlock(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	var list strings.Builder
	for i := range 12 {
		fmt.Fprintf(&list, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: large-%d}\ndata: {key: %s}\n", i, strings.Repeat("x", 900<<10))
	}
	out, err := c.TryKubectl(list.String(), "create", "-f", "-")
	require.NoError(t, err, out)
}

// brokenWebhook is asked about Secrets and can't be reached, which is logged.
const brokenWebhook = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: broken}
webhooks:
- name: broken.example.com
  clientConfig: {url: "https://127.0.0.1:1/"}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: ["*"], resources: [secrets]}]
  failurePolicy: Ignore
  sideEffects: None
  admissionReviewVersions: [v1]`

// badSecrets are refused, with errors that may be logged.
var badSecrets = []string{
	`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"b"},"data":{"canarykey":"CANARYdata is no base64"}}`,
	`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"b"},"type":"kubernetes.io/dockerconfigjson","stringData":{".dockerconfigjson":"CANARYdata is no JSON"}}`,
	`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringData":{"canarykey":"CANARYdata"}}`,
	`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"B_"},"stringData":{"canarykey":"CANARYdata"}}`,
	`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"b"},"stringData":{"canarykey":"CANARYdata` + strings.Repeat("x", 2<<20) + `"}}`,
}

// secretQuestions are commands and paths that tell of the Secret, or of what the server does
// with it.
var secretQuestions = []string{
	"rutter tap secret/s -n default --since OLDEST --timeout 1s",
	"rutter tap secret/s -n default --since OLDEST --timeout 1s -o diff",
	"rutter tap secret/s -n default --since OLDEST --timeout 1s -o cloudevents",
	"rutter log secret/s -n default --diff",
	"rutter log secret/gone -n default -o ndjson",
	"rutter log secret/s -n default -o cloudevents",
	"rutter diff --from OLDEST -n default secrets",
	"rutter diff --from OLDEST -n default secrets -o json",
	"rutter blame secret/s -n default",
	"rutter blame secret/s -n default -o json",
	"rutter why secret/s -n default",
	"rutter why secret/gone -n default -o json",
	"rutter top --since OLDEST --by object,manager -o json",
	"/history/events?resource=secrets&group=core",
	"/history/state?at=now&resource=secrets&group=core",
	"/metrics", "/statusz", "/flagz", "/debug/pprof/goroutine?debug=2",
}

// firstHeld is the oldest instant.
func firstHeld(t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	var status struct{ Oldest struct{ Revision int64 } }
	require.NoError(t, json.Unmarshal([]byte(c.Kubectl("get", "--raw", "/history/status")), &status))
	return fmt.Sprint("rev-", status.Oldest.Revision)
}

// needles are words as they are and as base64 has them, at each of the three offsets.
func needles(words []string) []string {
	var out []string
	for _, word := range words {
		out = append(out, word)
		for offset := range 3 {
			text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x00", offset) + word))
			// The first and last characters depend on the neighbours.
			begin := (offset*8 + 5) / 6
			out = append(out, text[begin:len(text)-4])
		}
	}
	return out
}

func decoded(t *testing.T, text string) string {
	t.Helper()
	out, err := base64.StdEncoding.DecodeString(text)
	require.NoError(t, err)
	return string(out)
}

// search lists the files of a directory that have a word, compressed or not, by word.
func search(t *testing.T, dir string, words []string) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		text = unpacked(text)
		for _, word := range words {
			if bytes.Contains(text, []byte(word)) {
				found[word] = append(found[word], path)
			}
		}
		return err
	})
	require.NoError(t, err)
	return found
}
