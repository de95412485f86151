package apiserver

import (
	"github.com/rutter-project/rutter/apiserver/internal/audit"
	"github.com/rutter-project/rutter/apiserver/internal/kinds"
)

// AuditConfig says which requests are recorded, and where.
type AuditConfig = audit.Config

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
}

// Validate names the first setting, or the first field of a file, that is wrong.
func (c AccessConfig) Validate() error {
	if err := c.Audit.Validate(); err != nil {
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
