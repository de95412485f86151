// Package history answers what the cluster was at any instant that the log still holds.
//
// The state at a revision is the newest keyframe at or before it, plus the changes that
// ARCHIVE has up to it. Keyframes are whole states, written from memory while the relay
// is up to date; states that were asked for are kept, bounded by bytes, since clients
// ask for the same instant many times.
//
// # Instants
//
// A revision is itself. A time is the last revision that the log had recorded by then;
// changes that follow it and were recorded late, because the log was away, count by the
// clock of the API server that wrote them. Commit order decides: no change is left out
// that comes before one that counts.
//
// # Gaps
//
// What lies in a gap, or before the first state that can be made, is refused by an
// Error, which says what is held instead. No state is ever made across changes that the
// log does not have.
//
// # Concurrency
//
// All methods may be called from any number of goroutines. A state is made once for
// all who wait for it; few are made at a time.
package history
