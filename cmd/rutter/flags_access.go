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
	f.BoolVar(&cfg.BootstrapTokens, "enable-bootstrap-token-auth", cfg.BootstrapTokens, "accept bootstrap tokens: Secrets of type bootstrap.kubernetes.io/token in kube-system")
	f.StringVar(&cfg.Audit.PolicyFile, "audit-policy-file", "", "file with the audit policy (audit.k8s.io/v1): which requests are recorded, and how much of them")
	f.StringVar(&cfg.Audit.Log.Path, "audit-log-path", "", "file that audit records are written to, one a line; - is standard output")
	f.IntVar(&cfg.Audit.Log.MaxSize, "audit-log-maxsize", cfg.Audit.Log.MaxSize, "megabytes after which that file is rotated; 0 never rotates")
	f.IntVar(&cfg.Audit.Log.MaxBackups, "audit-log-maxbackup", cfg.Audit.Log.MaxBackups, "how many rotated files are kept; 0 keeps all")
	f.IntVar(&cfg.Audit.Log.MaxAge, "audit-log-maxage", cfg.Audit.Log.MaxAge, "for how many days rotated files are kept; 0 is for ever")
	f.StringVar(&cfg.Audit.Log.Mode, "audit-log-mode", cfg.Audit.Log.Mode, "batch: requests don't wait for the file; blocking: they do; blocking-strict: they also fail if their arrival can't be written")
	f.StringVar(&cfg.Audit.Webhook.ConfigFile, "audit-webhook-config-file", "", "kubeconfig of a server that audit records are sent to")
	f.StringVar(&cfg.Audit.Webhook.Mode, "audit-webhook-mode", cfg.Audit.Webhook.Mode, "batch, blocking or blocking-strict, as for the file")
}
