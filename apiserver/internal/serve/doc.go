// Package serve turns HTTP requests into calls of the kinds' handlers. gin stands in
// front and owns the fixed paths (health, version, metrics, OpenAPI, token issuer
// discovery); everything below /api and /apis is found by RequestInfo, because the
// set of resources changes while the server runs and gin's tree can't.
//
// The order of a request is that of kube-apiserver: who is it, may he, is there room,
// then the handler. Whoever writes, and because of which event, is noted in the
// request's context on the way and ends up in the stored header.
package serve
