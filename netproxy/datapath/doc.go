// Package datapath owns what the kernel holds for one node: BPF maps and links, pod links, the tunnel device, routes and
// the masquerade rule. It is told what to hold; package resolve decides that.
//
// Everything is pinned or attached to a device, so the death of the process loses nothing: Open adopts what it finds and
// rebuilds its allocators from the maps, Activate replaces programs in place.
//
// A service entry points at an immutable list of backends. A change writes new backends, then a new list, then one
// entry; readers see the old list or the new one. Lists and backends given up rest for Quarantine before they are used
// again, because a reader may hold an entry that it read before.
//
// Concurrency: a Datapath may be used from several goroutines. Services are applied one batch at a time; pods are made
// and removed in parallel.
package datapath
