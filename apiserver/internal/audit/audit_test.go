package audit

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime"
	auditapi "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

const everything = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n"

func TestConfigNamesWhatIsWrong(t *testing.T) {
	good := DefaultConfig()
	good.PolicyFile, good.Log.Path = write(t, "policy.yaml", everything), "audit.log"
	require.NoError(t, good.Validate())
	require.NoError(t, DefaultConfig().Validate())
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"log without policy":    {func(c *Config) { c.PolicyFile = "" }, "need --audit-policy-file"},
		"policy without sink":   {func(c *Config) { c.Log.Path = "" }, "--audit-policy-file needs --audit-log-path"},
		"unknown mode":          {func(c *Config) { c.Log.Mode = "later" }, `--audit-log-mode "later" is none of`},
		"unknown webhook mode":  {func(c *Config) { c.Webhook.Mode = "" }, `--audit-webhook-mode "" is none of`},
		"negative size":         {func(c *Config) { c.Log.MaxSize = -1 }, "--audit-log-maxsize -1 is negative"},
		"negative backups":      {func(c *Config) { c.Log.MaxBackups = -1 }, "--audit-log-maxbackup -1 is negative"},
		"negative age":          {func(c *Config) { c.Log.MaxAge = -1 }, "--audit-log-maxage -1 is negative"},
		"unknown format":        {func(c *Config) { c.Log.Format = "xml" }, `--audit-log-format "xml" is none of`},
		"no pause":              {func(c *Config) { c.Webhook.Pause = 0 }, "--audit-webhook-initial-backoff 0s is not positive"},
		"no buffer":             {func(c *Config) { c.Log.Batch.Buffer = 0 }, "--audit-log-batch-buffer-size 0 is not positive"},
		"empty batches":         {func(c *Config) { c.Webhook.Batch.Max = 0 }, "--audit-webhook-batch-max-size 0 is not positive"},
		"batches without wait":  {func(c *Config) { c.Log.Batch.Max = 2 }, "--audit-log-batch-max-wait 0s is not positive"},
		"no batches a second":   {func(c *Config) { c.Webhook.Batch.QPS = 0 }, "--audit-webhook-batch-throttle-qps 0 is not positive"},
		"no batch at once":      {func(c *Config) { c.Webhook.Batch.Burst = 0 }, "--audit-webhook-batch-throttle-burst 0 is not positive"},
		"records of no size":    {func(c *Config) { c.Log.Truncate = Truncation{Enabled: true} }, "--audit-log-truncate-max-event-size 0 is not positive"},
		"small batches":         {func(c *Config) { c.Webhook.Truncate = Truncation{true, 2, 1} }, "--audit-webhook-truncate-max-batch-size 1 is less"},
		"no such file":          {func(c *Config) { c.PolicyFile = "/nowhere/policy.yaml" }, "open /nowhere/policy.yaml"},
		"unknown level":         {withPolicy(t, "rules:\n- level: Everything\n"), `rules[0].level: Unsupported value: "Everything"`},
		"misspelled field":      {withPolicy(t, "rules:\n- level: Metadata\n  user: [\"x\"]\n"), `unknown field "rules[0].user"`},
		"no rules":              {withPolicy(t, "rules: []\n"), "0 rules"},
		"both kinds of request": {withPolicy(t, "rules:\n- level: Metadata\n  nonResourceURLs: [\"/api\"]\n  resources: [{group: \"\"}]\n"), "rules[0].nonResourceURLs"},
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			tc.change(&c)
			err := c.Validate()
			require.ErrorContains(t, err, tc.want)
			_, made := New(c)
			require.EqualError(t, made, err.Error())
		})
	}
}

func withPolicy(t *testing.T, body string) func(*Config) {
	t.Helper()
	path := write(t, "bad.yaml", "apiVersion: audit.k8s.io/v1\nkind: Policy\n"+body)
	return func(c *Config) { c.PolicyFile = path }
}

// logging starts a trail that records everything in a file before it answers.
func logging(t *testing.T, set func(*Log)) (Config, *Trail) {
	t.Helper()
	c := DefaultConfig()
	c.PolicyFile, c.Log.Path, c.Log.Mode = write(t, "policy.yaml", everything), filepath.Join(t.TempDir(), "audit.log"), ModeBlocking
	set(&c.Log)
	trail, err := New(c)
	require.NoError(t, err)
	require.NoError(t, trail.Start())
	return c, trail
}

func TestLargeRecordsLoseTheirBodies(t *testing.T) {
	c, trail := logging(t, func(l *Log) { l.Truncate = Truncation{Enabled: true, MaxEvent: 1000, MaxBatch: 2000} })
	body := func(size int) *runtime.Unknown {
		return &runtime.Unknown{Raw: []byte(`{"k":"` + strings.Repeat("x", size) + `"}`), ContentType: runtime.ContentTypeJSON}
	}
	for _, size := range []int{10, 5000} {
		require.True(t, trail.Sink.ProcessEvents(&auditapi.Event{AuditID: "id", Level: auditapi.LevelRequest, RequestObject: body(size)}))
	}
	require.NoError(t, trail.Close())
	data, err := os.ReadFile(c.Log.Path)
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	require.Len(t, lines, 2)
	require.Contains(t, lines[0], "xxxxxxxxxx")
	require.NotContains(t, lines[0], "truncated")
	require.NotContains(t, lines[1], "xxxxxxxxxx")
	require.Contains(t, lines[1], `"audit.k8s.io/truncated":"true"`)
}

// TestBatches: records go to a webhook together, when there are enough, when the first has
// waited for long enough, or at the end.
func TestBatches(t *testing.T) {
	got := make(chan int, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var list auditv1.EventList
		if json.NewDecoder(r.Body).Decode(&list) == nil {
			got <- len(list.Items)
		}
	}))
	defer hook.Close()
	for name, tc := range map[string]struct {
		batch   Batching
		records int
		early   bool // together, and before the end
	}{
		"enough":      {Batching{Buffer: 10, Max: 3, Wait: time.Hour}, 3, true},
		"long enough": {Batching{Buffer: 10, Max: 100, Wait: time.Millisecond}, 1, true},
		"end":         {Batching{Buffer: 10, Max: 100, Wait: time.Hour, Throttle: true, QPS: 1, Burst: 2}, 2, false},
		"nothing":     {Batching{Buffer: 1, Max: 1}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := DefaultConfig()
			c.PolicyFile, c.Webhook.Batch = write(t, "policy.yaml", everything), tc.batch
			c.Webhook.ConfigFile = write(t, "hook.yaml", `{apiVersion: v1, kind: Config, clusters: [{name: a, cluster: {server: "`+hook.URL+`"}}],
contexts: [{name: a, context: {cluster: a}}], current-context: a}`)
			trail, err := New(c)
			require.NoError(t, err)
			require.NoError(t, trail.Start())
			for range tc.records {
				require.True(t, trail.Sink.ProcessEvents(&auditapi.Event{AuditID: "id", Level: auditapi.LevelMetadata}))
			}
			if tc.early {
				require.Equal(t, tc.records, <-got)
			}
			require.NoError(t, trail.Close())
			if !tc.early {
				for came := 0; came < tc.records; came += <-got { // at the end, in as many parts as it happens
				}
			}
			require.Empty(t, got)
		})
	}
}

func TestRotatedFilesAreCompressed(t *testing.T) {
	c, trail := logging(t, func(l *Log) { l.MaxSize, l.Compress = 1, true })
	for range 2 {
		require.True(t, trail.Sink.ProcessEvents(&auditapi.Event{AuditID: "id", Level: auditapi.LevelMetadata, UserAgent: strings.Repeat("x", 600<<10)}))
	}
	require.Eventually(t, func() bool { // the rotated file is removed when its packed copy is whole
		files, err := filepath.Glob(filepath.Join(filepath.Dir(c.Log.Path), "audit-*"))
		return err == nil && len(files) == 1 && strings.HasSuffix(files[0], ".gz")
	}, time.Minute, 5*time.Millisecond)
	require.NoError(t, trail.Close())
}

func TestLegacyFormatIsALineOfText(t *testing.T) {
	c, trail := logging(t, func(l *Log) { l.Format = FormatLegacy })
	require.True(t, trail.Sink.ProcessEvents(&auditapi.Event{AuditID: "some-id", Level: auditapi.LevelMetadata}))
	require.NoError(t, trail.Close())
	data, err := os.ReadFile(c.Log.Path)
	require.NoError(t, err)
	require.Contains(t, string(data), `id="some-id"`)
}

func TestFileIsForItsOwnerAndRotates(t *testing.T) {
	c := DefaultConfig()
	c.PolicyFile, c.Log.Path = write(t, "policy.yaml", everything), filepath.Join(t.TempDir(), "made", "audit.log")
	for mode, size := range map[string]int{ModeBatch: 1, ModeBlocking: 1, ModeBlockingStrict: 0} {
		c.Log.Mode, c.Log.MaxSize = mode, size
		trail, err := New(c)
		require.NoError(t, err)
		require.NoError(t, trail.Start())
		require.True(t, trail.Sink.ProcessEvents(&auditapi.Event{AuditID: "id", Level: auditapi.LevelMetadata}))
		require.NoError(t, trail.Close())
	}
	info, err := os.Stat(c.Log.Path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	data, err := os.ReadFile(c.Log.Path)
	require.NoError(t, err)
	require.Equal(t, 3, bytes.Count(data, []byte("\n")), "%s", data)

	c.Log.Mode, c.Log.MaxSize = ModeBlocking, 1
	trail, err := New(c)
	require.NoError(t, err)
	require.NoError(t, trail.Start())
	for range 2 { // more than a megabyte together, since zeros are escaped
		require.True(t, trail.Sink.ProcessEvents(&auditapi.Event{AuditID: "big", UserAgent: string(make([]byte, 100<<10))}))
	}
	require.NoError(t, trail.Close())
	files, err := filepath.Glob(filepath.Join(filepath.Dir(c.Log.Path), "*"))
	require.NoError(t, err)
	require.Greater(t, len(files), 1, "a full file is put aside")
}

func TestNothingConfiguredRecordsNothing(t *testing.T) {
	trail, err := New(DefaultConfig())
	require.NoError(t, err)
	require.Nil(t, trail.Sink)
	require.Nil(t, trail.Policy)
	require.NoError(t, trail.Start())
	require.NoError(t, trail.Close())
}

// FuzzPolicy: whatever is in the file, it is refused or can be evaluated.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte(everything))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parsePolicy(data)
		if err == nil && len(p.Rules) == 0 {
			t.Fatalf("accepted without rules: %q", data)
		}
	})
}
