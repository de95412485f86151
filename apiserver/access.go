package apiserver

import (
	"github.com/rutter-project/rutter/apiserver/internal/audit"
	"github.com/rutter-project/rutter/apiserver/internal/kinds"
)

// AuditConfig says which requests are recorded, and where.
type AuditConfig = audit.Config

// AuditTruncation bounds the records that go to a sink.
type AuditTruncation = audit.Truncation

// AuditBatching is how records wait for a sink.
type AuditBatching = audit.Batching

// AccessConfig is who is let in, and what is recorded of it.
type AccessConfig struct {
	Audit AuditConfig
	// BootstrapTokens lets in who shows a bootstrap token: a Secret of type
	// bootstrap.kubernetes.io/token in kube-system.
	BootstrapTokens bool
	// AuthenticationFile is the path of an AuthenticationConfiguration: OIDC issuers, and
	// what is open to anybody.
	AuthenticationFile string
	// AuthorizationFile is the path of an AuthorizationConfiguration, instead of the Node
	// authorizer and RBAC.
	AuthorizationFile string
	// AdmissionFile is the path of an AdmissionConfiguration: what admission plugins go by.
	AdmissionFile string
	// SigningKeyFile is the path of the private key (PEM, RSA or ECDSA) that service-account
	// tokens are signed with; empty for the cluster's own.
	SigningKeyFile string
	// TokenKeyFiles are paths of keys (PEM, public or private) whose service-account tokens
	// are believed besides: former signing keys, and the next one.
	TokenKeyFiles []string
}

// Validate names the first setting, or the first field of a file, that is wrong.
func (c AccessConfig) Validate() error {
	if err := c.Audit.Validate(); err != nil {
		return err
	}
	if _, err := c.tokenKeys(nil); err != nil {
		return err
	}
	if err := kinds.CheckAdmissionFile(c.AdmissionFile); err != nil {
		return err
	}
	if c.AuthenticationFile != "" {
		if err := kinds.CheckAuthenticationFile(c.AuthenticationFile, Issuer); err != nil {
			return err
		}
	}
	if c.AuthorizationFile != "" {
		return kinds.CheckAuthorizationFile(c.AuthorizationFile)
	}
	return nil
}
