package otlp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stream is a log of events; Follow gives those behind a place and then waits.
type stream []schemas.Event

func (s stream) Follow(ctx context.Context, q remote.Query, _ func(error), fn func(schemas.Event) error) error {
	for _, e := range s {
		if at := q.Behind; at != nil && e.Seq != 0 && (e.Rev < at.Rev || e.Rev == at.Rev && (at.Whole || e.Ord <= at.Ord)) {
			continue
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

// events are n changes, or one more: every fifth revision has two.
func events(n int, epoch string, firstSeq uint64) stream {
	var out stream
	for rev := int64(10); len(out) < n; rev++ {
		cnt := 1
		if rev%5 == 0 {
			cnt = 2
		}
		for ord := range cnt {
			out = append(out, schemas.Event{
				Rev: rev, Ord: ord, Cnt: cnt, Type: schemas.Modified, PrevRev: 3, Epoch: epoch, Seq: firstSeq + uint64(len(out)),
				Key:    schemas.Key{Resource: "pods", Namespace: "shop", Name: fmt.Sprint("p", ord)},
				Header: schemas.Header{V: 1, Time: time.Unix(rev, 5), Verb: "patch", User: "jane"}, Recorded: time.Unix(rev, 9),
				Object: []byte(`{"metadata":{"uid":"u1"},"spec":{"nodeName":"n1","n":1.5,"l":[true,null,"x"]}}`),
			})
		}
	}
	return out
}

// receiver is a small OTLP/HTTP collector.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	ids     []string // guarded by mu
	records []*logs.LogRecord
	answer  func(n int) (status int, retryAfter string) // n counts requests from 0
	n       int
	got     chan int // how many ids there are, after each request that was taken
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{got: make(chan int, 10000)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.take(t, w, req) }))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) take(t *testing.T, w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the bridge was killed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.n
	r.n++
	if r.answer != nil {
		if status, after := r.answer(n); status != http.StatusOK {
			if after != "" {
				w.Header().Set("Retry-After", after)
			}
			w.WriteHeader(status)
			fmt.Fprint(w, "no thanks")
			return
		}
	}
	var batch collector.ExportLogsServiceRequest
	if err := proto.Unmarshal(body, &batch); err != nil || req.URL.Path != "/v1/logs" || req.Header.Get("Content-Type") != "application/x-protobuf" {
		t.Errorf("bad request %s: %v", req.URL, err)
	}
	for _, record := range batch.GetResourceLogs()[0].GetScopeLogs()[0].GetLogRecords() {
		r.records = append(r.records, record)
		r.ids = append(r.ids, attribute(record, "cloudevents.event_id").GetStringValue())
	}
	r.got <- len(r.ids)
}

func attribute(r *logs.LogRecord, key string) *common.AnyValue {
	for _, kv := range r.GetAttributes() {
		if kv.GetKey() == key {
			return kv.GetValue()
		}
	}
	return nil
}

func testConfig(t *testing.T, r *receiver) Config {
	cfg := DefaultConfig()
	cfg.Endpoint, cfg.StateFile = r.URL, filepath.Join(t.TempDir(), "position")
	cfg.Linger, cfg.MinBackoff, cfg.MaxBackoff = time.Millisecond, time.Millisecond, 5*time.Millisecond
	return cfg
}

// run runs a bridge until stop is called, which returns its error.
func run(t *testing.T, cfg Config, from stream, log zerolog.Logger) (stop func() error) {
	t.Helper()
	b, err := New(cfg, from, log)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

func (r *receiver) wait(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case have := <-r.got:
			if have >= n {
				return
			}
		case <-deadline:
			t.Fatalf("%d records did not come", n)
		}
	}
}

func ids(s stream) []string {
	var out []string
	for _, e := range s {
		out = append(out, e.ID())
	}
	return out
}

func TestEveryChangeIsDeliveredInOrder(t *testing.T) {
	r, all := newReceiver(t), events(100, "c.1", 1000)
	cfg := testConfig(t, r)
	cfg.BatchRecords = 7
	r.answer = func(n int) (int, string) {
		if n%3 == 1 {
			return http.StatusServiceUnavailable, "0"
		}
		return http.StatusOK, ""
	}
	stop := run(t, cfg, all, zerolog.Nop())
	r.wait(t, 100)
	require.NoError(t, stop())
	require.Equal(t, ids(all), r.ids)
}

// TestGoesOnWhereItWasKilled: at least once, with the same ids, whenever it dies.
func TestGoesOnWhereItWasKilled(t *testing.T) {
	r, all := newReceiver(t), events(300, "c.1", 1000)
	cfg := testConfig(t, r)
	cfg.BatchRecords = 10
	for kills := 1; kills < 30; kills++ {
		stop := run(t, cfg, all, zerolog.Nop())
		r.wait(t, min(kills*10, 300))
		require.NoError(t, stop())
	}
	after := events(301, "c.1", 1000)
	stop := run(t, cfg, after, zerolog.Nop())
	require.Eventually(t, func() bool { return noted(cfg) == after[len(after)-1].Seq }, 10*time.Second, time.Millisecond)
	require.NoError(t, stop())
	seen := map[string]bool{}
	var order []string
	for _, id := range r.ids {
		if !seen[id] {
			order = append(order, id)
		}
		seen[id] = true
	}
	require.Equal(t, ids(after), order)
	require.LessOrEqual(t, len(r.ids), len(after)+30*cfg.BatchRecords, "repetitions are those of the last batch only")
}

// noted is the sequence in the file.
func noted(cfg Config) uint64 {
	p, _ := loadPosition(cfg.StateFile)
	return p.Seq
}

func TestStreamMadeAnewGoesOnByRevision(t *testing.T) {
	r := newReceiver(t)
	cfg := testConfig(t, r)
	old := events(10, "c.1", 1000)
	stop := run(t, cfg, old, zerolog.Nop())
	require.Eventually(t, func() bool { return noted(cfg) == old[9].Seq }, 10*time.Second, time.Millisecond)
	require.NoError(t, stop())
	stop = run(t, cfg, events(15, "c.2", 9000), zerolog.Nop())
	r.wait(t, 15)
	require.NoError(t, stop())
	require.Equal(t, ids(events(15, "c.1", 0)), r.ids)
}

func TestRefusesWhatCannotBe(t *testing.T) {
	r := newReceiver(t)
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no address":      {func(c *Config) { c.Endpoint = "localhost:4318" }, `collector "localhost:4318" is no address`},
		"gRPC":            {func(c *Config) { c.Endpoint = "grpc://h:4317" }, "is no address"},
		"a query":         {func(c *Config) { c.Endpoint = "http://h?x=1" }, "without a query"},
		"no state file":   {func(c *Config) { c.StateFile = "" }, "no file for the position"},
		"no batch":        {func(c *Config) { c.BatchRecords = 0 }, "must be positive"},
		"broken position": {func(c *Config) { require.NoError(t, os.WriteFile(c.StateFile, []byte("x"), 0o600)) }, "holds no position"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t, r)
			tc.change(&cfg)
			_, err := New(cfg, stream{}, zerolog.Nop())
			require.ErrorContains(t, err, tc.want)
		})
	}
}

func TestAnotherClustersPositionIsRefused(t *testing.T) {
	r := newReceiver(t)
	cfg := testConfig(t, r)
	require.NoError(t, position{Epoch: "other.1", Seq: 1, Rev: 1}.save(cfg.StateFile))
	b, err := New(cfg, events(1, "c.1", 1), zerolog.Nop())
	require.NoError(t, err)
	require.ErrorContains(t, b.Run(t.Context()), "is of cluster other, this is c")
}

func TestCollectorThatRefusesEndsTheBridge(t *testing.T) {
	r := newReceiver(t)
	r.answer = func(int) (int, string) { return http.StatusUnauthorized, "" }
	b, err := New(testConfig(t, r), events(1, "c.1", 1), zerolog.Nop())
	require.NoError(t, err)
	err = b.Run(t.Context())
	require.ErrorIs(t, err, errRefused)
	require.ErrorContains(t, err, `401 Unauthorized: "no thanks"`)
}

// TestGapBehindThePositionIsTold: retention has passed the bridge while it was away. The gap
// is told, and if the bridge dies right behind it, again: it is no place to go on from.
func TestGapBehindThePositionIsTold(t *testing.T) {
	r := newReceiver(t)
	cfg := testConfig(t, r)
	require.NoError(t, position{Epoch: "c.1", Seq: 7, Rev: 9, Last: true}.save(cfg.StateFile))
	gap := schemas.Event{Rev: 30, Cnt: 1, Type: schemas.Gap, PrevRev: 9, Epoch: "c.1", Object: []byte(`{"reason":"x"}`)}
	for i := range 2 {
		stop := run(t, cfg, stream{gap}, zerolog.Nop())
		r.wait(t, i+1)
		require.NoError(t, stop())
		require.EqualValues(t, 7, noted(cfg))
	}
	next := schemas.Event{Rev: 30, Cnt: 1, Type: schemas.Modified, Epoch: "c.1", Seq: 40, Key: schemas.Key{Resource: "pods", Name: "p"}}
	stop := run(t, cfg, stream{gap, next}, zerolog.Nop())
	require.Eventually(t, func() bool { return noted(cfg) == 40 }, time.Minute, time.Millisecond)
	require.NoError(t, stop())
	require.Equal(t, []string{gap.ID(), gap.ID(), gap.ID(), next.ID()}, r.ids)
}

func TestFilteredChangesMoveThePosition(t *testing.T) {
	r, all := newReceiver(t), events(20, "c.1", 100)
	cfg := testConfig(t, r)
	cfg.Pass = func(e schemas.Event) bool { return e.Rev%2 == 0 }
	stop := run(t, cfg, all, zerolog.Nop())
	require.Eventually(t, func() bool { return noted(cfg) == 119 }, 10*time.Second, time.Millisecond)
	require.NoError(t, stop())
	for _, record := range r.records {
		require.Zero(t, attribute(record, "rutter.revision").GetIntValue()%2)
	}
}

func TestRecord(t *testing.T) {
	e := events(1, "c.1", 77)[0]
	e.Header.Trace, e.Header.Cause, e.Header.Agent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", []int64{7, 9}, "kubectl/v1"
	got := record(e)
	require.Equal(t, uint64(10e9+5), got.GetTimeUnixNano())
	require.Equal(t, uint64(10e9+9), got.GetObservedTimeUnixNano())
	require.Equal(t, "dev.rutter.resource.v1.updated", got.GetEventName())
	require.Len(t, got.GetTraceId(), 16)
	require.Len(t, got.GetSpanId(), 8)
	require.EqualValues(t, 1, got.GetFlags())
	plain := map[string]string{}
	for _, kv := range got.GetAttributes() {
		plain[kv.GetKey()] = fmt.Sprint(kv.GetValue().GetStringValue(), kv.GetValue().GetIntValue())
	}
	for key, want := range map[string]string{
		"cloudevents.event_id": "10.00", "cloudevents.event_source": "/rutter/clusters/c0", "cloudevents.event_subject": "core/pods/shop/p00",
		"k8s.namespace.name": "shop0", "k8s.pod.name": "p00", "k8s.pod.uid": "u10", "k8s.node.name": "n10", "enduser.id": "jane0", "user_agent.original": "kubectl/v10",
		"rutter.revision": "10", "rutter.sequence": "77", "rutter.verb": "patch0", "rutter.previous_revision": "3",
	} {
		require.Equal(t, want, plain[key], key)
	}
	require.NotContains(t, plain, "rutter.audit_id")
	spec := got.GetBody().GetKvlistValue().GetValues()[1].GetValue().GetKvlistValue().GetValues()
	require.Equal(t, "l", spec[0].GetKey())
	require.True(t, spec[0].GetValue().GetArrayValue().GetValues()[0].GetBoolValue())
	require.InDelta(t, 1.5, spec[1].GetValue().GetDoubleValue(), 0)

	gap := record(schemas.Event{Rev: 9, Cnt: 1, Type: schemas.Gap, Recorded: time.Unix(3, 0), Object: []byte(`{"reason":"x"}`)})
	require.Equal(t, "WARN", gap.GetSeverityText())
	require.Equal(t, uint64(3e9), gap.GetTimeUnixNano())
	require.Nil(t, attribute(gap, "cloudevents.event_subject"))
	require.Equal(t, `{`, body([]byte(`{`)).GetStringValue())
	require.Nil(t, body(nil))
}

func TestRejectedRecordsAreTold(t *testing.T) {
	answer, err := proto.Marshal(&collector.ExportLogsServiceResponse{PartialSuccess: &collector.ExportLogsPartialSuccess{RejectedLogRecords: 3, ErrorMessage: "too old"}})
	require.NoError(t, err)
	var log bytes.Buffer
	(&Bridge{log: zerolog.New(&log)}).noteRejected(answer)
	require.JSONEq(t, `{"level":"error","records":3,"reason":"too old","message":"collector rejected records"}`, log.String())
}
