package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Config says which server.
type Config struct {
	// Kubeconfig is a file; empty for $KUBECONFIG, else Fallback.
	Kubeconfig string
	// Context of the kubeconfig; empty for the current one.
	Context string
	// Fallback is the kubeconfig of this machine's own cluster.
	Fallback string
}

// Server is a client of one API server. Close it.
type Server struct {
	rest      *rest.Config
	http      *http.Client
	base      *url.URL
	flat      *clientcmdapi.Config // the one context, with all files in it
	namespace string
	mapper    meta.RESTMapper // made when first needed
}

var errNoKubeconfig = errors.New("no kubeconfig")

// NoKubeconfig reports that Connect has failed because there is no kubeconfig.
func NoKubeconfig(err error) bool { return errors.Is(err, errNoKubeconfig) }

// Connect reads the kubeconfig. It does not ask the server yet.
func Connect(cfg Config) (*Server, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.WarnIfAllMissing = false
	switch {
	case cfg.Kubeconfig != "":
		rules.ExplicitPath = cfg.Kubeconfig
	case os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "":
		rules.ExplicitPath = cfg.Fallback
	}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: cfg.Context})
	raw, err := loader.RawConfig()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w %s; give --kubeconfig, set KUBECONFIG, or start a cluster with `rutter up`", errNoKubeconfig, rules.ExplicitPath)
	}
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	if file := os.Getenv(clientcmd.RecommendedConfigPathEnvVar); cfg.Kubeconfig == "" && file != "" && len(raw.Clusters)+len(raw.Contexts) == 0 {
		return nil, fmt.Errorf("%w: $KUBECONFIG is %s, which is not there or empty; give --kubeconfig", errNoKubeconfig, file)
	}
	s := &Server{}
	if s.rest, err = loader.ClientConfig(); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	if s.namespace, _, err = loader.Namespace(); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	if cfg.Context != "" {
		raw.CurrentContext = cfg.Context
	}
	if err := clientcmdapi.MinifyConfig(&raw); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	if err := clientcmdapi.FlattenConfig(&raw); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	s.flat = &raw
	return s, s.prepare()
}

func (s *Server) prepare() error {
	var err error
	if s.base, _, err = rest.DefaultServerUrlFor(s.rest); err != nil {
		return fmt.Errorf("kubeconfig: server: %w", err)
	}
	s.base.Path = strings.TrimSuffix(s.base.Path, "/")
	if strings.HasPrefix(s.base.Path, "/at/") {
		return fmt.Errorf("context %q is of the past (%s) and has no history of its own; choose another with --context", s.flat.CurrentContext, s.base.Path)
	}
	s.rest.WarningHandler = rest.NoWarnings{}
	s.rest.QPS = -1 // what is asked one after the other needs no limit
	if s.http, err = rest.HTTPClientFor(s.rest); err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	return nil
}

// Close lets go of connections.
func (s *Server) Close() { s.http.CloseIdleConnections() }

// Namespace is the context's, "default" if it has none.
func (s *Server) Namespace() string { return s.namespace }

// URL is where the server is.
func (s *Server) URL() string { return s.base.String() }

// Trusts reports that the context's server is signed by exactly this authority.
func (s *Server) Trusts(ca []byte) bool {
	own := s.flat.Clusters[s.flat.Contexts[s.flat.CurrentContext].Cluster].CertificateAuthorityData
	return len(own) > 0 && bytes.Equal(bytes.TrimSpace(own), bytes.TrimSpace(ca))
}

// Cluster is the name of the context's cluster.
func (s *Server) Cluster() string { return s.flat.Contexts[s.flat.CurrentContext].Cluster }

// open asks and returns the answer's body, or the Status that refused.
func (s *Server) open(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	r, err := s.request(ctx, path, query)
	if err != nil {
		return nil, err
	}
	return s.answer(r)
}

func (s *Server) request(ctx context.Context, path string, query url.Values) (*http.Request, error) {
	target := *s.base
	target.Path += path
	target.RawQuery = query.Encode()
	return http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
}

// answer sends a request.
func (s *Server) answer(r *http.Request) (io.ReadCloser, error) {
	r.Header.Set("Accept", "application/json")
	answer, err := s.http.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode < http.StatusMultipleChoices {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("answer to %s: %w", r.URL.Path, err)
	}
	var status metav1.Status
	if json.Unmarshal(text, &status) == nil && status.Kind == "Status" {
		return nil, &apierrors.StatusError{ErrStatus: status}
	}
	return nil, fmt.Errorf("%s: %s; is it a Rutter API server?", r.URL.Redacted(), answer.Status)
}

// get reads JSON.
func (s *Server) get(ctx context.Context, path string, query url.Values, into any) error {
	body, err := s.open(ctx, path, query)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return fmt.Errorf("answer to %s: %w", path, err)
	}
	_, _ = io.Copy(io.Discard, body) // else the server takes it for a client that gave up
	return nil
}
