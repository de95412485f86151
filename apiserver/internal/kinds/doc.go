// Package kinds is the one door to k8s.io/kubernetes: the kinds that Kubernetes
// 1.37 serves at GA with their storages, strategies, defaulting, conversion,
// validation, table columns and OpenAPI, the admission plugins, RBAC and Node
// authorizers and service-account tokens, all as libraries.
//
// Nothing else in Rutter imports k8s.io/kubernetes, and this package never imports
// the generic API server, its etcd storage or its watch cache: storage is handed in
// as generic.RESTOptionsGetter. What comes out is a route table per group version
// that knows nothing of sockets.
package kinds
