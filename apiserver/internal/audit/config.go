package audit

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/serializer"
	auditapi "k8s.io/apiserver/pkg/apis/audit"
	upstream "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
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
	Mode   string
}

// Webhook is a server that records are sent to.
type Webhook struct {
	// ConfigFile is a kubeconfig that says where it is and who calls.
	ConfigFile string
	Mode       string
}

// DefaultConfig records nothing; its bounds are kube-apiserver's.
func DefaultConfig() Config {
	return Config{
		Log:     Log{MaxSize: 100, MaxBackups: 100, MaxAge: 366, Mode: ModeBatch},
		Webhook: Webhook{Mode: ModeBatch},
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
	case !slices.Contains(modes, c.Log.Mode):
		return nil, fmt.Errorf("--audit-log-mode %q is none of %q", c.Log.Mode, modes)
	case !slices.Contains(modes, c.Webhook.Mode):
		return nil, fmt.Errorf("--audit-webhook-mode %q is none of %q", c.Webhook.Mode, modes)
	case c.Log.MaxSize < 0:
		return nil, fmt.Errorf("--audit-log-maxsize %d is negative", c.Log.MaxSize)
	case c.Log.MaxBackups < 0:
		return nil, fmt.Errorf("--audit-log-maxbackup %d is negative", c.Log.MaxBackups)
	case c.Log.MaxAge < 0:
		return nil, fmt.Errorf("--audit-log-maxage %d is negative", c.Log.MaxAge)
	}
	return readPolicy(c.PolicyFile)
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
