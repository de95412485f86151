// Package remote asks an API server, through a kubeconfig, what happened and what was:
// events, instants, and objects as they were then. What it may see is what the caller's
// RBAC says.
package remote
