// Package bus is how every part of Rutter learns of changes. It runs NATS with
// JetStream inside the process, or connects to an external one, keeps the
// streams, and offers the ways to read them: informers for reconcilers and the
// scheduler, routes for node agents, taps and logs for people.
//
// # Streams
//
// HISTORY is the log: every committed change, once and in the order of etcd's
// revisions. Only a relay appends to it, through a Window. The others are
// mirrors that keep its sequence numbers:
//
//	STATE    the last change of every object       informers begin here
//	ARCHIVE  the past, compressed                  taps and logs read here
//	LASTN    the last message of every node route  node agents check it
//
// Beside them, an object store holds keyframes: whole states from which ARCHIVE goes on.
// PACKS repeats ARCHIVE, some hundred events to a message, for ReadRange. MENDED has what
// ARCHIVE has lost and others still had, which all who read ARCHIVE are given in its place.
//
// Nothing here is a truth. Whatever the streams lose, the relay makes again from
// etcd, or names as a gap.
//
// # Concurrency guarantees
//
//   - All exported methods may be called from any number of goroutines, except
//     those of a Window, which belong to one.
//   - A Window appends all of its messages in order and without anything in
//     between, or fails; after a failure a prefix of them is stored. Two windows on
//     the same end of the stream: one of them fails at its first message.
//   - An informer's store and handlers see the changes of one object in the order
//     of revisions. Between objects, order is that of the stream. No change is
//     skipped without a new list, but several changes of one object that happen
//     while the informer is away may be seen as the last one of them.
//   - An informer has synced when it holds everything that STATE held when it
//     began; changes made meanwhile follow at once.
//   - After WaitForRevision(rev) returns nil, the stores of all informers asked for
//     before the call hold every change up to rev, and their handlers have run.
//   - A RouteHandler is called by one goroutine. After Sync(pods, rev) it gets
//     every change after rev exactly once, in order, whatever is lost on the way.
//   - A tap calls its function from one goroutine, each change once and in order. A
//     GAP comes in order with the changes that are not filtered out, except that
//     it may be told a little early or late among changes published within the
//     same moment.
//   - A tap that is so slow that the stream drops what it has not read is given a GAP
//     in its place. An informer that loses its place begins anew with a snapshot, logs
//     it, and counts it in Relists. A node's route lists the pods again.
//   - A slow reader holds up nobody: informers are stalled by flow control, taps
//     pull at their pace, and a node's live subject drops what does not fit, which
//     the node notices and reads again.
//
// # Consistency with the API
//
// A change is on the bus after it was committed, typically within a millisecond.
// Whoever reads the bus and then the API sees the same or a newer state; the
// other way round it may be an older one. WaitForRevision bridges that.
//
// # Security
//
// The account CORE is for the system's components: they authenticate by a
// credential that only this process knows, or by a client certificate. All
// others are in the account EDGE, from which no message can get into a stream,
// not even by way of a reply subject. Nodes reach their own route only, taps what
// their Authorizer grants. Consumers are made for them by a gate that reads what they ask
// for: none delivers by itself, lasts, or costs without bound. Connections, subscriptions,
// messages and requests of each user are bounded, so that none takes what others need.
package bus
