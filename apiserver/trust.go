package apiserver

import (
	"context"
	"crypto/tls"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/rutter-project/rutter/apiserver/internal/bootstrap"
	"github.com/rutter-project/rutter/apiserver/internal/certfile"
	"github.com/rutter-project/rutter/apiserver/pki"
)

// trust is who this server is, and whom it and its like believe, as the files have it now.
type trust struct {
	serving *certfile.Pair   // who this server is to clients
	clients *certfile.Bundle // whose certificates of clients are good
	// proxy is who this server is to aggregated servers, proxies whom these believe. That
	// authority signs nothing else: who holds a certificate of it can act as anybody there.
	proxy   *certfile.Pair
	proxies *certfile.Bundle

	authorities chan struct{} // has room for one: clients or proxies have changed
}

const frontProxyName = "front-proxy-client"

// newTrust reads the files, and makes those that are missing. Hosts are the names in the
// serving certificate.
func newTrust(cluster *pki.Authority, hosts []string) (*trust, error) {
	front, err := pki.Load(filepath.Join(filepath.Dir(cluster.CAFile()), "front-proxy"), "front-proxy")
	if err != nil {
		return nil, err
	}
	t := &trust{authorities: make(chan struct{}, 1)}
	if t.serving, err = pair("serving certificate", cluster, pki.Leaf{Name: "apiserver", CommonName: "kube-apiserver", Hosts: hosts, Server: true}); err != nil {
		return nil, err
	}
	if t.proxy, err = pair("front proxy certificate", front, pki.Leaf{Name: frontProxyName, CommonName: frontProxyName, Client: true}); err != nil {
		return nil, err
	}
	if t.clients, err = certfile.LoadBundle("client authorities", cluster.CAFile(), cluster.Certificate()); err != nil {
		return nil, err
	}
	if t.proxies, err = certfile.LoadBundle("front proxy authorities", front.CAFile(), front.Certificate()); err != nil {
		return nil, err
	}
	t.clients.AddListener(t)
	t.proxies.AddListener(t)
	return t, nil
}

// pair issues a certificate if it is missing.
func pair(name string, by *pki.Authority, leaf pki.Leaf) (*certfile.Pair, error) {
	files, err := by.Issue(leaf)
	if err != nil {
		return nil, err
	}
	return certfile.LoadPair(name, files.CertFile, files.KeyFile)
}

// Enqueue implements dynamiccertificates.Listener.
func (t *trust) Enqueue() {
	select {
	case t.authorities <- struct{}{}:
	default:
	}
}

// follow takes over what changes on disk until the context ends.
func (t *trust) follow(ctx context.Context, told func(string, error)) {
	var g sync.WaitGroup
	for _, follow := range []func(context.Context, func(string, error)){t.serving.Follow, t.clients.Follow, t.proxy.Follow, t.proxies.Follow} {
		g.Go(func() { follow(ctx, told) })
	}
	g.Wait()
}

// tlsConfig is for connections of clients. They are told whose certificates are good, so
// that those who have several can choose.
func (t *trust) tlsConfig() *tls.Config {
	base := &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert,
		NextProtos: []string{"h2", "http/1.1"},
	}
	outer := base.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		present := base.Clone()
		present.Certificates, present.ClientCAs = []tls.Certificate{*t.serving.Certificate()}, t.clients.Pool()
		return present, nil
	}
	return outer
}

// delegation is what aggregated servers read of whom to believe
// (kube-system/extension-apiserver-authentication).
func (t *trust) delegation() map[string]string {
	return map[string]string{
		"client-ca-file":                     string(t.clients.CurrentCABundleContent()),
		"requestheader-client-ca-file":       string(t.proxies.CurrentCABundleContent()),
		"requestheader-allowed-names":        `["` + frontProxyName + `"]`,
		"requestheader-username-headers":     `["X-Remote-User"]`,
		"requestheader-uid-headers":          `["X-Remote-Uid"]`,
		"requestheader-group-headers":        `["X-Remote-Group"]`,
		"requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
	}
}

// tellTrust logs how a change of a file went.
func (s *Server) tellTrust(name string, err error) {
	log := s.cfg.Log.With().Str("component", "certificates").Str("name", name).Logger()
	if err != nil {
		log.Error().Err(err).Msg("changed file not taken over; what was there before holds")
		return
	}
	log.Info().Msg("changed file taken over")
}

// delegationPause is between attempts to tell other servers whom to believe.
const delegationPause = 5 * time.Second

// keepDelegation tells other API servers whom to believe whenever that changes.
func (s *Server) keepDelegation(ctx context.Context) {
	for {
		select {
		case <-s.trust.authorities:
		case <-ctx.Done():
			return
		}
		_ = wait.PollUntilContextCancel(ctx, delegationPause, true, func(ctx context.Context) (bool, error) {
			err := bootstrap.EnsureDelegation(ctx, s.client, s.trust.delegation())
			if err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn().Str("component", "certificates").Err(err).Msg("aggregated servers not told yet whom to believe")
			}
			return err == nil, nil
		}) // ends without an error but the context's
	}
}
