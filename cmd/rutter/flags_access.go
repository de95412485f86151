package main

import (
	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/apiserver"
)

// accessFlags say who is let in and what is recorded of it. Their names, and but for the
// modes their defaults, are kube-apiserver's.
func accessFlags(c *cobra.Command, cfg *apiserver.AccessConfig) {
	f := c.Flags()
	f.StringVar(&cfg.AuthenticationFile, "authentication-config", "", "file with an AuthenticationConfiguration: OIDC issuers, and what is open to anybody")
	f.StringVar(&cfg.AuthorizationFile, "authorization-config", "", "file with an AuthorizationConfiguration, instead of the Node authorizer and RBAC")
	f.StringVar(&cfg.AdmissionFile, "admission-control-config-file", "", "file with an AdmissionConfiguration: what admission plugins go by, such as the defaults of Pod Security")
	f.BoolVar(&cfg.BootstrapTokens, "enable-bootstrap-token-auth", cfg.BootstrapTokens, "accept bootstrap tokens: Secrets of type bootstrap.kubernetes.io/token in kube-system")
	f.StringVar(&cfg.SigningKeyFile, "service-account-signing-key-file", "", "private key (PEM) that service-account tokens are signed with; without it pki/service-account.key in the data directory")
	f.StringArrayVar(&cfg.TokenKeyFiles, "service-account-key-file", nil, "file with keys (PEM) whose service-account tokens are believed besides the signing key's; may be given several times")
	f.StringVar(&cfg.Audit.PolicyFile, "audit-policy-file", "", "file with the audit policy (audit.k8s.io/v1): which requests are recorded, and how much of them")
	f.StringVar(&cfg.Audit.Log.Path, "audit-log-path", "", "file that audit records are written to, one a line; - is standard output")
	f.IntVar(&cfg.Audit.Log.MaxSize, "audit-log-maxsize", cfg.Audit.Log.MaxSize, "megabytes after which that file is rotated; 0 never rotates")
	f.IntVar(&cfg.Audit.Log.MaxBackups, "audit-log-maxbackup", cfg.Audit.Log.MaxBackups, "how many rotated files are kept; 0 keeps all")
	f.IntVar(&cfg.Audit.Log.MaxAge, "audit-log-maxage", cfg.Audit.Log.MaxAge, "for how many days rotated files are kept; 0 is for ever")
	f.BoolVar(&cfg.Audit.Log.Compress, "audit-log-compress", cfg.Audit.Log.Compress, "compress rotated files with gzip")
	f.StringVar(&cfg.Audit.Log.Format, "audit-log-format", cfg.Audit.Log.Format, "json, or legacy: a line of text without bodies")
	f.StringVar(&cfg.Audit.Log.Mode, "audit-log-mode", cfg.Audit.Log.Mode, "batch: requests don't wait for the file; blocking: they do; blocking-strict: they also fail if their arrival can't be written")
	f.StringVar(&cfg.Audit.Webhook.ConfigFile, "audit-webhook-config-file", "", "kubeconfig of a server that audit records are sent to")
	f.StringVar(&cfg.Audit.Webhook.Mode, "audit-webhook-mode", cfg.Audit.Webhook.Mode, "batch, blocking or blocking-strict, as for the file")
	f.DurationVar(&cfg.Audit.Webhook.Pause, "audit-webhook-initial-backoff", cfg.Audit.Webhook.Pause, "how long to wait before records that did not arrive are sent again; later pauses grow")
	batchFlags(c, "log", &cfg.Audit.Log.Batch)
	batchFlags(c, "webhook", &cfg.Audit.Webhook.Batch)
	truncationFlags(c, "log", &cfg.Audit.Log.Truncate)
	truncationFlags(c, "webhook", &cfg.Audit.Webhook.Truncate)
}

// batchFlags say how records wait for a sink in mode batch.
func batchFlags(c *cobra.Command, sink string, b *apiserver.AuditBatching) {
	f, name := c.Flags(), "audit-"+sink+"-batch-"
	f.IntVar(&b.Buffer, name+"buffer-size", b.Buffer, "in mode batch, how many records wait; further ones are dropped and counted")
	f.IntVar(&b.Max, name+"max-size", b.Max, "in mode batch, how many records are handed over at once")
	f.DurationVar(&b.Wait, name+"max-wait", b.Wait, "in mode batch, how long a record waits for others")
	f.BoolVar(&b.Throttle, name+"throttle-enable", b.Throttle, "in mode batch, bound how often batches are handed over")
	f.Float32Var(&b.QPS, name+"throttle-qps", b.QPS, "how many batches are handed over in a second, if that is bounded")
	f.IntVar(&b.Burst, name+"throttle-burst", b.Burst, "how many batches are handed over at once after a pause, if that is bounded")
}

// truncationFlags bound the records that go to a sink.
func truncationFlags(c *cobra.Command, sink string, t *apiserver.AuditTruncation) {
	f, name := c.Flags(), "audit-"+sink+"-truncate-"
	f.BoolVar(&t.Enabled, name+"enabled", t.Enabled, "bound the size of records and batches")
	f.Int64Var(&t.MaxEvent, name+"max-event-size", t.MaxEvent, "bytes of a record beyond which its bodies are left out; if that is not enough, it is dropped and counted")
	f.Int64Var(&t.MaxBatch, name+"max-batch-size", t.MaxBatch, "bytes beyond which a batch is handed over in parts")
}
