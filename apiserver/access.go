package apiserver

import (
	"github.com/rutter-project/rutter/apiserver/internal/audit"
)

// AuditConfig says which requests are recorded, and where.
type AuditConfig = audit.Config

// AccessConfig is who is let in, and what is recorded of it.
type AccessConfig struct {
	Audit AuditConfig
}

// Validate names the first setting, or the first field of a file, that is wrong.
func (c AccessConfig) Validate() error {
	return c.Audit.Validate()
}
