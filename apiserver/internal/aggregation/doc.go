// Package aggregation lets other API servers serve groups of their own below this one
// (APIService, apiregistration.k8s.io/v1): requests are passed on over TLS with a client
// certificate of the front proxy and the user's name in headers, and what the others
// serve is merged into discovery and OpenAPI.
//
// It also finds where a Service is served, for whatever the API server itself calls by
// Service: aggregated servers, admission webhooks, conversion webhooks. The API server
// runs outside of the pods' network, where no cluster IP is translated.
package aggregation
