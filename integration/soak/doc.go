// Package soak tries to break the log: it writes to etcd as fast as the API server of a
// busy cluster would, while it kills, doubles and pauses relays, kills NATS, fills its
// disk, kills etcd, and lets the writers' clock jump. Every part is a process of its own,
// so that a kill is a kill.
//
// Afterwards it compares what is in the stream with etcd's own history, record for
// record. The rules are functions without I/O, named after what they guarantee; they
// know the wire format and nothing else of the product.
package soak
