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
	"time"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
)

// Local is a listener on the loopback device. It is open to those who read its kubeconfig.
type Local struct {
	listener net.Listener
	token    string
	ca       []byte
}

// ListenLocal listens on an address of the loopback device; empty is 127.0.0.1 and a free
// port. Run serves, and closes it.
func ListenLocal(address string) (*Local, error) {
	if address == "" {
		address = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("local listener: %w", err)
	}
	ip := net.ParseIP(host)
	if !ip.IsLoopback() {
		return nil, fmt.Errorf("local listener: %q is not an address of the loopback device, such as 127.0.0.1", host)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("local listener: %w", err)
	}
	l := &Local{}
	config, err := l.identity(ip)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("local listener: %w", err), listener.Close())
	}
	l.listener = tls.NewListener(listener, config)
	return l, nil
}

// identity makes certificate and token: kubectl sends a token over TLS only.
func (l *Local) identity(ip net.IP) (*tls.Config, error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	l.token = hex.EncodeToString(secret)
	chain, key, err := cert.GenerateSelfSignedCertKey(ip.String(), []net.IP{ip}, nil)
	if err != nil {
		return nil, err
	}
	l.ca = chain
	pair, err := tls.X509KeyPair(chain, key)
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, err
}

// Close closes a listener that Run was not called of.
func (l *Local) Close() error { return l.listener.Close() }

// URL is where the listener is.
func (l *Local) URL() string { return "https://" + l.listener.Addr().String() }

// Address is host and port of it.
func (l *Local) Address() string { return l.listener.Addr().String() }

// closeTimeout is how long open requests may take to end. What they asked for is not
// wanted any more.
const closeTimeout = time.Second

// Run serves until the context ends.
func (l *Local) Run(ctx context.Context, handler http.Handler) error {
	server := &http.Server{Handler: l.guarded(handler), ReadHeaderTimeout: time.Minute}
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(l.listener) }()
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

// guarded lets in who has the token.
func (l *Local) guarded(next http.Handler) http.Handler {
	want := []byte("Bearer " + l.token)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			http.Error(rw, "this listener belongs to a running rutter command", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(rw, r)
	})
}

// Kubeconfig leads to the listener. Its one context, cluster and user are called name.
func (l *Local) Kubeconfig(name, namespace string) *clientcmdapi.Config {
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[name] = &clientcmdapi.Cluster{Server: l.URL(), CertificateAuthorityData: l.ca}
	cfg.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: l.token}
	cfg.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name, Namespace: namespace}
	cfg.CurrentContext = name
	return cfg
}
