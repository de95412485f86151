package remote

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"sync/atomic"
	"time"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
)

// Window serves the API of one instant on this machine, without a path in front, with the
// caller's credentials. It is open to those who read its kubeconfig.
type Window struct {
	server   *Server
	listener net.Listener
	token    string
	ca       []byte
	instant  atomic.Pointer[string]
}

// OpenWindow listens on a free port of the loopback device. Run serves, and closes it.
func (s *Server) OpenWindow(instant string) (*Window, error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	// kubectl sends a token over TLS only.
	chain, key, err := cert.GenerateSelfSignedCertKey("127.0.0.1", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		return nil, fmt.Errorf("certificate of the local listener: %w", err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("certificate of the local listener: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &Window{server: s, token: hex.EncodeToString(secret), ca: chain}
	w.listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	w.Show(instant)
	return w, nil
}

// Show moves the window to another instant. What is being answered stays as it is.
func (w *Window) Show(instant string) { w.instant.Store(&instant) }

// closeTimeout is how long open requests may take to end. What they asked for is not
// wanted any more.
const closeTimeout = time.Second

// Run serves until the context ends.
func (w *Window) Run(ctx context.Context) error {
	server := &http.Server{Handler: w.handler(), ReadHeaderTimeout: time.Minute}
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(w.listener) }()
	var err error
	select {
	case err = <-stopped:
	case <-ctx.Done():
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if server.Shutdown(closing) != nil {
			_ = server.Close()
		}
		err = <-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (w *Window) handler() http.Handler {
	proxy := &httputil.ReverseProxy{
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
	want := []byte("Bearer " + w.token)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			http.Error(rw, "this listener belongs to a running rutter command", http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(rw, r)
	})
}

// Kubeconfig leads to the window.
func (w *Window) Kubeconfig() *clientcmdapi.Config {
	name := w.server.Cluster() + "@" + *w.instant.Load()
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[name] = &clientcmdapi.Cluster{Server: "https://" + w.listener.Addr().String(), CertificateAuthorityData: w.ca}
	cfg.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: w.token}
	cfg.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name, Namespace: w.server.Namespace()}
	cfg.CurrentContext = name
	return cfg
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
