package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/cert"
)

// Version is the Kubernetes version that the server says it is, and by how much its clock is
// ahead of this machine's.
func (s *Server) Version(ctx context.Context) (version string, ahead time.Duration, err error) {
	began := time.Now()
	answer, err := s.raw(ctx, "/version")
	if err != nil {
		return "", 0, err
	}
	defer answer.Body.Close()
	ended := time.Now()
	var is struct{ GitVersion string }
	if err := json.NewDecoder(answer.Body).Decode(&is); err != nil || is.GitVersion == "" {
		return "", 0, fmt.Errorf("%s/version: %s; is it an API server?", s.base, answer.Status)
	}
	if date, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		ahead = clockAhead(date, began, ended)
	}
	return is.GitVersion, ahead, nil
}

// clockAhead compares a date, which has whole seconds, with when it was written.
func clockAhead(date, began, ended time.Time) time.Duration {
	switch {
	case date.After(ended):
		return date.Sub(ended)
	case date.Add(time.Second).Before(began):
		return date.Add(time.Second).Sub(began)
	default:
		return 0
	}
}

// raw asks and returns whatever the answer is.
func (s *Server) raw(ctx context.Context, path string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base.String()+path, nil)
	if err != nil {
		return nil, err
	}
	return s.http.Do(r)
}

// maxReport bounds answers that are read as text.
const maxReport = 32 << 20

func (s *Server) text(ctx context.Context, path string, also ...int) (string, error) {
	answer, err := s.raw(ctx, path)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxReport))
	if err != nil {
		return "", fmt.Errorf("answer to %s: %w", path, err)
	}
	for _, code := range append(also, http.StatusOK) {
		if answer.StatusCode == code {
			return string(text), nil
		}
	}
	return "", fmt.Errorf("%s: %s", path, answer.Status)
}

// Unready are the conditions of readiness that the server says it does not meet.
func (s *Server) Unready(ctx context.Context) ([]string, error) {
	text, err := s.text(ctx, "/readyz?verbose", http.StatusInternalServerError)
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(text) {
		if rest, bad := strings.CutPrefix(line, "[-]"); bad {
			out = append(out, strings.TrimSpace(rest))
		}
	}
	return out, nil
}

// Metrics are the server's, in Prometheus' text format.
func (s *Server) Metrics(ctx context.Context) (string, error) { return s.text(ctx, "/metrics") }

// Committed is the newest revision that etcd has committed.
func (s *Server) Committed(ctx context.Context) (int64, error) {
	var list struct{ Metadata metav1.ListMeta }
	if err := s.get(ctx, "/api/v1/namespaces", map[string][]string{"limit": {"1"}}, &list); err != nil {
		return 0, err
	}
	return strconv.ParseInt(list.Metadata.ResourceVersion, 10, 64)
}

// Ends are when the certificates of the connection end: the server's, and the client's if
// it shows one.
func (s *Server) Ends(ctx context.Context) (map[string]time.Time, error) {
	answer, err := s.raw(ctx, "/version")
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	out := map[string]time.Time{}
	if answer.TLS != nil && len(answer.TLS.PeerCertificates) > 0 {
		out["API server"] = answer.TLS.PeerCertificates[0].NotAfter
	}
	if user := s.rest; len(user.CertData) > 0 {
		own, err := cert.ParseCertsPEM(user.CertData)
		if err != nil {
			return nil, fmt.Errorf("the kubeconfig's client certificate: %w", err)
		}
		out["kubeconfig"] = own[0].NotAfter
	}
	return out, nil
}
