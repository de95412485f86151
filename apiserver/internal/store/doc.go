// Package store is Kubernetes' storage.Interface on etcd, written the way the
// rest of Rutter needs it: every value carries who wrote it and why, a delete
// leaves its header at the API server's cause key in the same transaction, and
// reads come from the in-memory view instead of etcd wherever the API's
// consistency rules allow it.
//
// Writes are optimistic etcd transactions on the key's mod revision; a write is
// acknowledged when etcd has committed it, never earlier (invariant 1). The
// object is serialised once, by the storage codec, and those bytes are what
// etcd, the view, the event stream and the history move (invariant 5).
package store
