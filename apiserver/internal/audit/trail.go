package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gopkg.in/natefinch/lumberjack.v2"
	auditapi "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	upstream "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/audit/buffered"
	auditlog "k8s.io/apiserver/plugin/pkg/audit/log"
	"k8s.io/apiserver/plugin/pkg/audit/truncate"
	audithook "k8s.io/apiserver/plugin/pkg/audit/webhook"
)

// Trail is where records go. The zero Trail records nothing.
type Trail struct {
	Policy upstream.PolicyRuleEvaluator // nil if nothing is recorded
	Sink   upstream.Backend             // nil if nothing is recorded

	file io.Closer
	stop chan struct{}
}

// New reads the policy and opens the file. It starts nothing.
func New(c Config) (*Trail, error) {
	rules, err := c.policy()
	if err != nil || rules == nil {
		return &Trail{}, err
	}
	t := &Trail{Policy: policy.NewPolicyRuleEvaluator(rules), stop: make(chan struct{})}
	var sinks []upstream.Backend
	if c.Log.Path != "" {
		out, err := c.Log.open()
		if err != nil {
			return nil, fmt.Errorf("--audit-log-path: %w", err)
		}
		t.file = out
		sinks = append(sinks, c.Log.Truncate.of(inMode(c.Log.Mode, auditlog.NewBackend(out, c.Log.Format, auditv1.SchemeGroupVersion), c.Log.Batch.config(false))))
	}
	if c.Webhook.ConfigFile != "" {
		hook, err := audithook.NewBackend(c.Webhook.ConfigFile, auditv1.SchemeGroupVersion, webhook.DefaultRetryBackoffWithInitialDelay(c.Webhook.Pause), nil)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("--audit-webhook-config-file: %w", err), t.closeFile())
		}
		sinks = append(sinks, c.Webhook.Truncate.of(inMode(c.Webhook.Mode, hook, c.Webhook.Batch.config(true))))
	}
	t.Sink = upstream.Union(sinks...)
	return t, nil
}

// config is for upstream's buffer. If they are handed over beside each other, no batch waits
// until the one before has arrived.
func (b Batching) config(beside bool) buffered.BatchConfig {
	return buffered.BatchConfig{
		BufferSize: b.Buffer, MaxBatchSize: b.Max, MaxBatchWait: b.Wait,
		ThrottleEnable: b.Throttle, ThrottleQPS: b.QPS, ThrottleBurst: b.Burst, AsyncDelegate: beside,
	}
}

// of keeps what goes to a sink within the bounds.
func (t Truncation) of(sink upstream.Backend) upstream.Backend {
	if !t.Enabled {
		return sink
	}
	return truncate.NewBackend(sink, truncate.Config{MaxEventSize: t.MaxEvent, MaxBatchSize: t.MaxBatch}, auditv1.SchemeGroupVersion)
}

func inMode(mode string, sink upstream.Backend, batches buffered.BatchConfig) upstream.Backend {
	switch mode {
	case ModeBlockingStrict:
		return sink
	case ModeBlocking:
		return lenient{sink}
	default:
		return buffered.NewBackend(sink, batches)
	}
}

// lenient lets requests go on that could not be recorded; the sink has counted them.
type lenient struct{ upstream.Backend }

// ProcessEvents implements audit.Sink.
func (l lenient) ProcessEvents(records ...*auditapi.Event) bool {
	l.Backend.ProcessEvents(records...)
	return true
}

// open opens the file, for its owner alone: records hold what was sent.
func (l Log) open() (io.WriteCloser, error) {
	if l.Path == "-" {
		return standardOutput{}, nil
	}
	if err := os.MkdirAll(filepath.Dir(l.Path), 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(l.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil || l.MaxSize == 0 {
		return file, err
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	// It keeps the mode of the file. Its goroutine that removes old files lives as long as
	// the process.
	return &lumberjack.Logger{Filename: l.Path, MaxSize: l.MaxSize, MaxBackups: l.MaxBackups, MaxAge: l.MaxAge, Compress: l.Compress}, nil
}

// standardOutput is not closed: it is not ours.
type standardOutput struct{}

func (standardOutput) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (standardOutput) Close() error                { return nil }

// Start lets records through. It is called once, before the first request.
func (t *Trail) Start() error {
	if t.Sink == nil {
		return nil
	}
	return t.Sink.Run(t.stop)
}

// Close hands over what waits, and closes the file. It is called after the last request
// of a Trail that was started.
func (t *Trail) Close() error {
	if t.Sink == nil {
		return nil
	}
	close(t.stop)
	t.Sink.Shutdown()
	return t.closeFile()
}

func (t *Trail) closeFile() error {
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}
