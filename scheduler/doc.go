// Package scheduler places pods on nodes.
//
// A placement is a pure function of a snapshot of the cluster, the pod and the
// configuration (internal/placement): no clock, no I/O, ties broken by the pod's UID,
// so that any decision can be replayed. The snapshot is kept up to date from bus
// events (internal/cluster). This package is the loop around them: a queue of pods, a
// decision at a time, bindings in parallel. A pod that fits nowhere waits for an event
// that can change that; nothing is tried again by a timer alone.
//
// Concurrency: one goroutine decides; informer handlers and bindings run beside it and
// share internal/cluster and internal/queue, which are safe for concurrent use.
package scheduler
