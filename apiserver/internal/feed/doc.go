// Package feed follows etcd. It holds the one watch that an API server has on
// Rutter's prefix and turns it into ordered batches of entries, which it hands
// to sinks (the view) synchronously and to cursors (the relay) at their pace.
//
// # Order
//
// A batch holds whole revisions: entries of one revision are never spread over
// two batches, and batches have rising revisions. Within a revision, entries are
// in the order of the transaction; Ord and Cnt number those that are objects.
// A batch without entries says that nothing happened up to its revision.
//
// # Loss
//
// A broken watch is resumed after the last revision seen, which loses nothing.
// Only when etcd no longer has that revision, or turns out to be older than it
// was (restored from a backup), the feed reads a new snapshot and calls Reset on
// every sink. Cursors that stood before the snapshot then get ErrTooOld.
//
// # Concurrency guarantees
//
//   - Sinks are called by one goroutine, one call at a time, in order.
//   - Revision and WaitFor speak of what all sinks have taken: when WaitFor(rev)
//     returns nil, Apply has returned for everything up to rev.
//   - A cursor never blocks the watch or another cursor. One that falls behind
//     the log in memory goes on from etcd's history by a watch of its own, until
//     it has caught up.
//   - Entries and their bytes are shared by all readers and must not be changed.
package feed
