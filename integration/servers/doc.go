// Package servers starts the two API servers that are compared with each other, Rutter's
// and upstream's kube-apiserver with its etcd, in the same way and each alone: nothing
// acts on objects but the API server itself.
package servers
