package audit

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/runtime/serializer"
	auditapi "k8s.io/apiserver/pkg/apis/audit"
	upstream "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	auditlog "k8s.io/apiserver/plugin/pkg/audit/log"
	audithook "k8s.io/apiserver/plugin/pkg/audit/webhook"
)

// Modes of handing records over.
const (
	// ModeBatch answers requests without waiting; when the buffer is full, records are
	// dropped and counted.
	ModeBatch = "batch"
	// ModeBlocking answers a request when its record is handed over, or could not be.
	ModeBlocking = "blocking"
	// ModeBlockingStrict refuses requests whose arrival can't be recorded.
	ModeBlockingStrict = "blocking-strict"
)

var modes = []string{ModeBatch, ModeBlocking, ModeBlockingStrict}

// Config says what is recorded, and where. Without a policy file nothing is.
type Config struct {
	// PolicyFile holds a Policy of audit.k8s.io/v1.
	PolicyFile string
	Log        Log
	Webhook    Webhook
}

// Log is a file with a record a line.
type Log struct {
	// Path is the file, or "-" for standard output.
	Path string
	// MaxSize is the size in megabytes at which the file is rotated; 0 never rotates.
	MaxSize int
	// MaxBackups is how many rotated files are kept; 0 keeps all.
	MaxBackups int
	// MaxAge is for how many days rotated files are kept; 0 keeps them whatever their age.
	MaxAge int
	// Compress compresses rotated files with gzip.
	Compress bool
	// Format is FormatJSON or FormatLegacy.
	Format   string
	Mode     string
	Batch    Batching
	Truncate Truncation
}

// Formats of the file.
const (
	FormatJSON = auditlog.FormatJson
	// FormatLegacy is a line of key="value" pairs, without bodies.
	FormatLegacy = auditlog.FormatLegacy
)

// Truncation bounds what is handed over at once. A record that is too large loses its
// bodies, and is dropped and counted if that is not enough.
type Truncation struct {
	Enabled  bool
	MaxEvent int64 // bytes of a record
	MaxBatch int64 // bytes of a batch of records
}

// Webhook is a server that records are sent to.
type Webhook struct {
	// ConfigFile is a kubeconfig that says where it is and who calls.
	ConfigFile string
	// Pause is how long to wait before a record that did not arrive is sent again; the
	// pauses that follow grow.
	Pause    time.Duration
	Mode     string
	Batch    Batching
	Truncate Truncation
}

// Batching is how records wait in ModeBatch.
type Batching struct {
	// Buffer is how many records wait; further ones are dropped and counted.
	Buffer int
	// Max is how many are handed over at once.
	Max int
	// Wait is how long a record waits for others, if Max is more than one.
	Wait time.Duration
	// Throttle bounds how often batches are handed over: QPS times a second, and up to
	// Burst at once after a pause.
	Throttle bool
	QPS      float32
	Burst    int
}

// DefaultConfig records nothing; its bounds are kube-apiserver's.
func DefaultConfig() Config {
	bounds := Truncation{MaxEvent: 100 << 10, MaxBatch: 10 << 20}
	return Config{
		Log: Log{MaxSize: 100, MaxBackups: 100, MaxAge: 366, Format: FormatJSON, Mode: ModeBatch,
			Batch: Batching{Buffer: 10_000, Max: 1}, Truncate: bounds}, // a file gains nothing by batches
		Webhook: Webhook{Pause: audithook.DefaultInitialBackoffDelay, Mode: ModeBatch,
			Batch: Batching{Buffer: 10_000, Max: 400, Wait: 30 * time.Second, Throttle: true, QPS: 10, Burst: 15}, Truncate: bounds},
	}
}

// Validate names the first flag that is wrong, or the first field of the policy file.
func (c Config) Validate() error {
	_, err := c.policy()
	return err
}

// policy reads the policy; it is nil if nothing is to be recorded.
func (c Config) policy() (*auditapi.Policy, error) {
	switch {
	case c.PolicyFile == "" && c.Log.Path == "" && c.Webhook.ConfigFile == "":
		return nil, nil
	case c.PolicyFile == "":
		return nil, errors.New("--audit-log-path and --audit-webhook-config-file need --audit-policy-file, which says what to record")
	case c.Log.Path == "" && c.Webhook.ConfigFile == "":
		return nil, errors.New("--audit-policy-file needs --audit-log-path or --audit-webhook-config-file, where records go")
	}
	if err := errors.Join(c.Log.validate(), c.Webhook.validate()); err != nil {
		return nil, err
	}
	return readPolicy(c.PolicyFile)
}

func (l Log) validate() error {
	switch {
	case !slices.Contains(modes, l.Mode):
		return fmt.Errorf("--audit-log-mode %q is none of %q", l.Mode, modes)
	case !slices.Contains(auditlog.AllowedFormats, l.Format):
		return fmt.Errorf("--audit-log-format %q is none of %q", l.Format, auditlog.AllowedFormats)
	case l.MaxSize < 0:
		return fmt.Errorf("--audit-log-maxsize %d is negative", l.MaxSize)
	case l.MaxBackups < 0:
		return fmt.Errorf("--audit-log-maxbackup %d is negative", l.MaxBackups)
	case l.MaxAge < 0:
		return fmt.Errorf("--audit-log-maxage %d is negative", l.MaxAge)
	}
	return errors.Join(l.Batch.validate("log", l.Mode), l.Truncate.validate("log"))
}

func (w Webhook) validate() error {
	switch {
	case !slices.Contains(modes, w.Mode):
		return fmt.Errorf("--audit-webhook-mode %q is none of %q", w.Mode, modes)
	case w.Pause <= 0:
		return fmt.Errorf("--audit-webhook-initial-backoff %s is not positive", w.Pause)
	}
	return errors.Join(w.Batch.validate("webhook", w.Mode), w.Truncate.validate("webhook"))
}

// validate looks at what is used: in other modes nothing waits.
func (b Batching) validate(sink, mode string) error {
	switch {
	case mode != ModeBatch:
		return nil
	case b.Buffer <= 0:
		return fmt.Errorf("--audit-%s-batch-buffer-size %d is not positive", sink, b.Buffer)
	case b.Max <= 0:
		return fmt.Errorf("--audit-%s-batch-max-size %d is not positive", sink, b.Max)
	case b.Max > 1 && b.Wait <= 0:
		return fmt.Errorf("--audit-%s-batch-max-wait %s is not positive, which batches of more than one record need", sink, b.Wait)
	case b.Throttle && !(b.QPS > 0): // NaN is not
		return fmt.Errorf("--audit-%s-batch-throttle-qps %v is not positive", sink, b.QPS)
	case b.Throttle && b.Burst <= 0:
		return fmt.Errorf("--audit-%s-batch-throttle-burst %d is not positive", sink, b.Burst)
	}
	return nil
}

func (t Truncation) validate(sink string) error {
	switch {
	case !t.Enabled:
		return nil
	case t.MaxEvent <= 0:
		return fmt.Errorf("--audit-%s-truncate-max-event-size %d is not positive", sink, t.MaxEvent)
	case t.MaxBatch < t.MaxEvent:
		return fmt.Errorf("--audit-%s-truncate-max-batch-size %d is less than the size of a record, %d", sink, t.MaxBatch, t.MaxEvent)
	}
	return nil
}

func readPolicy(path string) (*auditapi.Policy, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("audit policy: %w", err)
	}
	p, err := parsePolicy(data)
	if err != nil {
		return nil, fmt.Errorf("audit policy %s: %w", path, err)
	}
	return p, nil
}

// parsePolicy is strict: upstream's loader ignores fields that it does not know, and a
// misspelled field would record more than was meant, or less.
func parsePolicy(data []byte) (*auditapi.Policy, error) {
	strict := serializer.NewCodecFactory(upstream.Scheme, serializer.EnableStrict).UniversalDecoder()
	if _, _, err := strict.Decode(data, nil, &auditapi.Policy{}); err != nil {
		return nil, err
	}
	return policy.LoadPolicyFromBytes(data)
}
