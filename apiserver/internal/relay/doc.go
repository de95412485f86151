// Package relay copies every committed change from etcd to the bus, once and in
// order. It is the only writer of HISTORY.
//
// # How
//
// The messages are a function of what etcd has committed, and nothing else: the
// same revision always becomes the same messages. A relay that starts reads the
// last message of the stream, follows etcd from there, and appends. Every
// message says which sequence number it expects to follow, so that the stream
// itself refuses whatever does not fit. After any error the relay forgets all it
// knew and starts over.
//
// # Concurrency guarantees
//
//   - Any number of relays may run at once, and may be killed at any moment:
//     nothing is lost, doubled or out of order. Leader election only saves work.
//   - Position never goes ahead of what the stream has acknowledged.
//   - Compaction by the Compactor never passes a position that a relay of this
//     process has reported CompactorConfig.Settle ago, by when the bus has flushed
//     it, unless the bus has been away for MaxHold.
//
// # Gaps
//
// When etcd no longer has the revisions that the stream lacks, or the stream is
// gone, the relay writes the difference between the stream's last state and
// etcd's, marked as such, and closes with a GAP event that names what is missing.
// Until that event is written, the work is repeated from its beginning.
package relay
