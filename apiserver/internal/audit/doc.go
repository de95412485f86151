// Package audit records requests as a policy asks: who asked for what, when, and what
// came of it. Policies and records are upstream's (audit.k8s.io/v1); this package reads
// the configuration strictly and owns the files and goroutines.
package audit
