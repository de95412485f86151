// Package bpf holds the programs of the datapath: C sources, the committed little-endian object, and the bindings
// generated from it. Run go generate after a change of the C files; the output is the same on every machine with
// the same compiler.
//
// One object holds all programs, so that they share one set of maps:
//
//   - np_connect4/6, np_sendmsg4/6: a socket that asks for a service gets a backend instead
//   - np_recvmsg4/6, np_getpeername4/6: and still sees the service
//   - np_from_pod, np_to_pod: both directions of the host side of a pod's veth
//   - np_from_tunnel, np_to_tunnel: both directions of the node's vxlan device
//   - np_from_uplink, np_to_uplink: both directions of the node's other devices, for clients outside the cluster
//
// What the programs rely on, and what they cannot rely on:
//
//   - A program runs without a pause of its own, but its processor, or the machine, may be taken away between any two
//     instructions: another one may change the maps as often as it likes meanwhile. A second is more than that takes.
//   - A pointer from a lookup in a hash stays readable, but the element may be given to another key at once, and its
//     value copied over it while it is read. Elements of arrays stay what they are until somebody writes them.
//   - An update of a hash puts a new element in the chain and takes the old one out, and a deletion gives the element
//     back: services are updated in place (BPF_F_LOCK), and name their key in an array's element that is never
//     written while it may be read. Elements of LRU maps, affinities, are checked against the backend that they name.
//   - A word of four bytes that is aligned is read and written whole.
//   - Elements of np_nat are not checked so: a packet whose flow is evicted from a full table in the very moment
//     between the lookup and the copy may be sent the way of the flow that took the element. Flows have a size in the
//     configuration that keeps the table from filling.
//   - Programs at cgroups may be interrupted by others of their kind on the same processor, so they have no scratch
//     maps. bpf_redirect_peer delivers from ingress hooks only; from others it drops in silence.
//   - A connection belongs to its socket: programs see connect and the datagrams of unconnected sockets, and nothing
//     of a connected one, whose endpoint's end userspace has to tell (SOCK_DESTROY).
//
// The Go types of keys and values come from the object's type information; nothing is mirrored by hand. Ports are in
// network order, addresses are 16 bytes in network order with IPv4 as ::ffff:a.b.c.d.
package bpf
