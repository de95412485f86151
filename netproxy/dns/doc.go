// Package dns answers the cluster's names on its node: CoreDNS as a library with a handler of our own, which reads
// services and endpoint slices from memory. Other names go to the node's upstream servers, through a cache.
//
// Names follow the Kubernetes DNS specification 1.1.0: services, headless services with their endpoints, SRV,
// ExternalName, pods by address, and reverse names of services and endpoints.
package dns
