// Package view is the API server's memory: for every resource an ordered,
// copy-on-write tree of stored objects and one bounded log of recent changes,
// shared by all who watch.
//
// The feed is the only writer; batches arrive in revision order. Readers never
// block the feed: a LIST walks a snapshot of the tree, a WATCH is a cursor into
// the log that lags alone when its client is slow and is told ErrGone when the
// log no longer holds what it still needs (invariant 6). Objects are kept as the
// bytes etcd holds and decoded at most once while somebody uses them (invariant 5).
//
// Concurrency: Reset and Apply are called by one goroutine; everything else is
// safe for any number of goroutines. Items and events are immutable.
package view
