package remote

import (
	"context"
	"net/http"
	"net/http/httputil"
	"sync/atomic"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Window serves the API of one instant on this machine, without a path in front, with the
// caller's credentials. It is open to those who read its kubeconfig.
type Window struct {
	*Local
	server  *Server
	instant atomic.Pointer[string]
}

// OpenWindow listens on a free port of the loopback device. Run serves, and closes it.
func (s *Server) OpenWindow(instant string) (*Window, error) {
	local, err := ListenLocal("")
	if err != nil {
		return nil, err
	}
	w := &Window{Local: local, server: s}
	w.Show(instant)
	return w, nil
}

// Show moves the window to another instant. What is being answered stays as it is.
func (w *Window) Show(instant string) { w.instant.Store(&instant) }

// Run serves until the context ends.
func (w *Window) Run(ctx context.Context) error { return w.Local.Run(ctx, w.handler()) }

func (w *Window) handler() http.Handler {
	return &httputil.ReverseProxy{
		Transport:     w.server.http.Transport,
		FlushInterval: -1, // a WATCH is answered piece by piece
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.Header.Del("Authorization")
			target := *w.server.base
			prefix := target.Path + "/at/" + *w.instant.Load()
			target.Path = prefix + r.In.URL.Path
			target.RawPath = prefix + r.In.URL.EscapedPath()
			target.RawQuery = r.In.URL.RawQuery
			r.Out.URL, r.Out.Host = &target, target.Host
		},
		ErrorHandler: func(rw http.ResponseWriter, _ *http.Request, err error) {
			http.Error(rw, "the API server does not answer: "+err.Error(), http.StatusBadGateway)
		},
	}
}

// Kubeconfig leads to the window.
func (w *Window) Kubeconfig() *clientcmdapi.Config {
	return w.Local.Kubeconfig(w.server.Cluster()+"@"+*w.instant.Load(), w.server.Namespace())
}

// KubeconfigAt leads to the server itself, with an instant in its path. Its one context,
// cluster and user are called name.
func (s *Server) KubeconfigAt(name, instant string) *clientcmdapi.Config {
	context := *s.flat.Contexts[s.flat.CurrentContext]
	cluster := *s.flat.Clusters[context.Cluster]
	cluster.Server = s.base.String() + "/at/" + instant
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[name] = &cluster
	cfg.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name, Namespace: context.Namespace}
	user := clientcmdapi.NewAuthInfo()
	if known := s.flat.AuthInfos[context.AuthInfo]; known != nil {
		user = known
	}
	cfg.AuthInfos[name] = user
	cfg.CurrentContext = name
	return cfg
}
