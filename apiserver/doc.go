// Package apiserver is Rutter's Kubernetes API server: gin in front, upstream's kinds
// behind it, etcd as the only truth, and reads from memory.
//
// A write is decoded and admitted by upstream's code, encoded once and committed to
// etcd by internal/store. One etcd watch (internal/feed) brings every committed
// revision back, into the memory that answers reads and watches (internal/view) and,
// on each API server that relays, onto the event bus (internal/relay).
//
// The caller owns the etcd client and the bus; New wires, Run runs until its context
// ends.
package apiserver
