// Command bench measures Rutter and, beside it in the same run and on the same objects,
// upstream's kube-apiserver 1.37.2 with its etcd. Both serve on loopback over TLS, both
// sync to disk, and nothing acts on objects but the API servers themselves.
//
// What is compared is work for each second of the server's processor, since the client
// shares the machine; latencies are taken from before the request. See docs/benchmarks.md.
package main
