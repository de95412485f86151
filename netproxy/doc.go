// Package netproxy gives a node's pods their network and makes services work: it turns the Services, EndpointSlices and
// Nodes it is shown into BPF tables, connects pods, and answers cluster DNS.
//
// A Proxy is given informers and follows their events; it asks nobody. What it holds in the kernel outlives it: when
// Run returns, or the process dies, pods and their connections go on, and the next Run adopts all of it.
//
// A change comes by an informer's event to the feed, which notes whose service it is and wakes Run. Run takes all that is
// noted, has package resolve turn each service into what the tables should hold, and hands that to package datapath as
// one batch. On start the order is: wait for the informers' lists and the node's pod range; open the datapath, which
// adopts what it finds, and the pods with it; apply everything; remove what nobody wants any more; and only then
// exchange the programs. Until that last step those of the former process decide, by the same tables.
//
// Concurrency: Run may be called once. Attach and Detach may be called from any goroutine, also before Run: they wait
// until the datapath is ready. Calls for different pods run in parallel, calls for one pod in turn.
package netproxy
