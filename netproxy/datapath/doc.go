// Package datapath owns what the kernel holds for one node: BPF maps and links, pod links, the tunnel device, routes and
// the masquerade rule. It is told what to hold; package resolve decides that.
//
// Everything is pinned or attached to a device, so the death of the process loses nothing: Open adopts what it finds and
// rebuilds its allocators from the maps, Activate replaces programs in place.
//
// A service entry points at an immutable record, which points at an immutable list of backends. A change writes new
// backends, then a new list, then a new record, then the entry's one word; endpoints that went are marked dead after
// that. Readers see the service before the change or after it. Who meets a dead endpoint has read before, and reads
// again. Records, lists and backends given up rest for Quarantine before they are used again, because a reader may hold
// what it read before.
//
// The entry is written in place. The kernel's usual update of a hash replaces the element, and gives the old one to the
// next key at once: a reader that holds it would find another service there. That happens to an entry that is deleted
// all the same, so the record tells whose it is. See package bpf for what else is asked of the kernel.
//
// Concurrency: a Datapath may be used from several goroutines. Services are applied one batch at a time; pods are made
// and removed in parallel.
package datapath
