package apiserver

import "k8s.io/client-go/rest"

// Loopback is how the server reaches itself: over a pipe, without TLS, as itself.
func (s *Server) Loopback() *rest.Config { return s.clientConfig }
