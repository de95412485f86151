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
// The Go types of keys and values come from the object's type information; nothing is mirrored by hand. Ports are in
// network order, addresses are 16 bytes in network order with IPv4 as ::ffff:a.b.c.d.
package bpf
