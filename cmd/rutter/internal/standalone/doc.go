// Package standalone wires a whole cluster on one machine into one process: embedded
// etcd and NATS, API server with relay, reconcilers, scheduler, and a node agent with
// its network. It holds no logic of its own but the order of things: what must be up
// before what, and stopping in reverse.
package standalone
