// Package health judges what was seen of a machine and of a cluster: what rutter check
// finds and what rutter status calls degraded. It looks at nothing itself.
package health
