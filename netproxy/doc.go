// Package netproxy gives a node's pods their network and makes services work: it turns the Services, EndpointSlices and
// Nodes it is shown into BPF tables, connects pods, and answers cluster DNS.
//
// A Proxy is given informers and follows their events; it asks nobody. What it holds in the kernel outlives it: when
// Run returns, or the process dies, pods and their connections go on, and the next Run adopts all of it.
//
// Concurrency: Run may be called once. Attach and Detach may be called from any goroutine, also before Run: they wait
// until the datapath is ready. Calls for different pods run in parallel, calls for one pod in turn.
package netproxy
