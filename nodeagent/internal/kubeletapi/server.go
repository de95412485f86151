// Package kubeletapi serves the HTTPS API of a node, compatible with
// kubelet's, so that a stock API server proxies logs, exec, attach and
// port-forward to it.
package kubeletapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// LogRequest says which lines of a container's log are wanted.
type LogRequest struct {
	Namespace, Pod, Container string
	Previous, Follow          bool
	Timestamps                bool
	Tail                      int64 // negative means all
	Since                     time.Time
	LimitBytes                int64  // 0 means no limit
	Stream                    string // stdout, stderr, or empty for both
}

// ErrNotFound tells that a pod or container does not exist here.
var ErrNotFound = errors.New("not found")

// ErrBadRequest tells that a request can not be answered as it stands.
var ErrBadRequest = errors.New("bad request")

// Backend is the node behind the API.
type Backend interface {
	remotecommand.Executor
	remotecommand.Attacher
	portforward.PortForwarder
	// PodUID returns the uid of a pod of this node, or ErrNotFound.
	PodUID(namespace, name string) (string, error)
	Pods() []*corev1.Pod
	RunningPods() []*corev1.Pod
	Logs(ctx context.Context, r LogRequest, w io.Writer) error
	Summary(ctx context.Context) (*stats.Summary, error)
	// Healthy returns nil if the node can run pods.
	Healthy() error
	// Config is what configz shows.
	Config() any
}

// Config says how to serve.
type Config struct {
	Listener    net.Listener
	Certificate tls.Certificate
	ClientCAs   *x509.CertPool // who may prove themselves by certificate
	Node        string
	IdleTimeout time.Duration // of streams
}

// Server is the HTTPS server.
type Server struct {
	cfg     Config
	backend Backend
	http    *http.Server
	log     zerolog.Logger
}

// streamCreation is how long a client may take to open its streams.
const streamCreation = 30 * time.Second

// New returns a server that does not serve yet.
func New(cfg Config, backend Backend, client kubernetes.Interface, metrics prometheus.Gatherer, log zerolog.Logger) *Server {
	s := &Server{cfg: cfg, backend: backend, log: log.With().Str("component", "kubeletapi").Logger()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /healthz/{check}", s.healthz)
	mux.HandleFunc("GET /pods", s.pods)
	mux.HandleFunc("GET /runningpods/", s.runningPods)
	mux.HandleFunc("GET /configz", s.configz)
	mux.HandleFunc("GET /stats/summary", s.summary)
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.Handle("GET /metrics/resource", s.resourceMetrics())
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	for _, path := range []string{"/{namespace}/{pod}/{container}", "/{namespace}/{pod}/{uid}/{container}"} {
		mux.HandleFunc("/exec"+path, s.exec)
		mux.HandleFunc("/attach"+path, s.attach)
	}
	mux.HandleFunc("/portForward/{namespace}/{pod}", s.portForward)
	mux.HandleFunc("/portForward/{namespace}/{pod}/{uid}", s.portForward)
	s.http = &http.Server{
		Handler:           newGuard(client, cfg.Node).wrap(mux),
		ReadHeaderTimeout: 30 * time.Second,
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{cfg.Certificate}, MinVersion: tls.VersionTLS12,
			ClientCAs: cfg.ClientCAs, ClientAuth: tls.VerifyClientCertIfGiven,
		},
		// No HTTP/2: upgrades need 1.1, and nothing here gains by it.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	if cfg.ClientCAs == nil {
		s.http.TLSConfig.ClientAuth = tls.NoClientCert
	}
	return s
}

// Run serves until ctx ends, then closes all connections.
func (s *Server) Run(ctx context.Context) error {
	done := make(chan struct{})
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	go func() {
		defer close(done)
		<-ctx.Done()
		_ = s.http.Close()
	}()
	err := s.http.ServeTLS(s.cfg.Listener, "", "")
	if ctx.Err() != nil {
		<-done
		return nil
	}
	return fmt.Errorf("serve node API: %w", err)
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := s.backend.Healthy(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = io.WriteString(w, "ok")
}

func (s *Server) json(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.log.Debug().Err(err).Msg("answer not sent")
	}
}

func podList(pods []*corev1.Pod) *corev1.PodList {
	list := &corev1.PodList{Items: make([]corev1.Pod, 0, len(pods))}
	list.APIVersion, list.Kind = "v1", "PodList"
	for _, p := range pods {
		list.Items = append(list.Items, *p)
	}
	return list
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) { s.json(w, podList(s.backend.Pods())) }

func (s *Server) runningPods(w http.ResponseWriter, _ *http.Request) {
	s.json(w, podList(s.backend.RunningPods()))
}

func (s *Server) configz(w http.ResponseWriter, _ *http.Request) {
	s.json(w, map[string]any{"kubeletconfig": s.backend.Config()})
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	sum, err := s.backend.Summary(r.Context())
	if err != nil {
		s.fail(w, err)
		return
	}
	s.json(w, sum)
}

// fail answers with an error; nothing may have been sent yet.
func (s *Server) fail(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, ErrNotFound):
		http.Error(w, err.Error(), http.StatusNotFound)
	case errors.Is(err, ErrBadRequest):
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// parseLogs reads the options of a log request.
func parseLogs(r *http.Request, now time.Time) (LogRequest, error) {
	q := r.URL.Query()
	l := LogRequest{
		Namespace: r.PathValue("namespace"), Pod: r.PathValue("pod"), Container: r.PathValue("container"), Tail: -1,
	}
	for name, into := range map[string]*bool{"follow": &l.Follow, "previous": &l.Previous, "timestamps": &l.Timestamps} {
		if v := q.Get(name); v != "" {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return l, fmt.Errorf("%w: %s %q", ErrBadRequest, name, v)
			}
			*into = b
		}
	}
	var since int64 = -1
	for name, into := range map[string]*int64{"tailLines": &l.Tail, "limitBytes": &l.LimitBytes, "sinceSeconds": &since} {
		if v := q.Get(name); v != "" {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n < 0 || name == "limitBytes" && n == 0 {
				return l, fmt.Errorf("%w: %s %q", ErrBadRequest, name, v)
			}
			*into = n
		}
	}
	if since >= 0 {
		l.Since = now.Add(-time.Duration(since) * time.Second)
	}
	if v := q.Get("sinceTime"); v != "" {
		t, err := time.Parse(time.RFC3339Nano, v)
		if err != nil {
			return l, fmt.Errorf("%w: sinceTime %q", ErrBadRequest, v)
		}
		l.Since = t
	}
	switch v := q.Get("stream"); v {
	case "", "All":
	case "Stdout":
		l.Stream = "stdout"
	case "Stderr":
		l.Stream = "stderr"
	default:
		return l, fmt.Errorf("%w: stream %q", ErrBadRequest, v)
	}
	return l, nil
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	req, err := parseLogs(r, time.Now())
	if err != nil {
		s.fail(w, err)
		return
	}
	out := &flushWriter{w: w, rc: http.NewResponseController(w), follow: req.Follow}
	w.Header().Set("Content-Type", "text/plain")
	if err := s.backend.Logs(r.Context(), req, out); err != nil {
		if !out.used {
			s.fail(w, err)
			return
		}
		s.log.Debug().Err(err).Msg("log broke off")
	}
}

// flushWriter sends each line of a followed log at once.
type flushWriter struct {
	w            io.Writer
	rc           *http.ResponseController
	follow, used bool
}

func (f *flushWriter) Write(p []byte) (int, error) {
	f.used = true
	n, err := f.w.Write(p)
	if err == nil && f.follow {
		err = f.rc.Flush()
	}
	return n, err
}

// uid returns the uid named in the path, or of the pod of that name.
func (s *Server) uid(r *http.Request) (string, error) {
	have, err := s.backend.PodUID(r.PathValue("namespace"), r.PathValue("pod"))
	if err != nil {
		return "", err
	}
	if want := r.PathValue("uid"); want != "" && want != have {
		return "", fmt.Errorf("pod %s/%s with uid %s: %w", r.PathValue("namespace"), r.PathValue("pod"), want, ErrNotFound)
	}
	return have, nil
}

// session is the pod of a request to run in or attach to, and the streams that the client wants. It is not ok once a
// refusal has been written.
func (s *Server) session(w http.ResponseWriter, r *http.Request) (uid string, streams *remotecommand.Options, ok bool) {
	uid, err := s.uid(r)
	if err != nil {
		s.fail(w, err)
		return "", nil, false
	}
	streams, err = remotecommand.NewOptions(r)
	if err != nil {
		s.fail(w, fmt.Errorf("%w: %w", ErrBadRequest, err))
		return "", nil, false
	}
	return uid, streams, true
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	uid, streams, ok := s.session(w, r)
	if !ok {
		return
	}
	remotecommand.ServeExec(w, r, s.backend, r.PathValue("pod"), uid, r.PathValue("container"), r.URL.Query()["command"],
		streams, s.cfg.IdleTimeout, streamCreation, remotecommand.SupportedStreamingProtocols)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	uid, streams, ok := s.session(w, r)
	if !ok {
		return
	}
	remotecommand.ServeAttach(w, r, s.backend, r.PathValue("pod"), uid, r.PathValue("container"),
		streams, s.cfg.IdleTimeout, streamCreation, remotecommand.SupportedStreamingProtocols)
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	uid, err := s.uid(r)
	if err != nil {
		s.fail(w, err)
		return
	}
	opts, err := portforward.NewV4Options(r)
	if err != nil {
		s.fail(w, fmt.Errorf("%w: %w", ErrBadRequest, err))
		return
	}
	portforward.ServePortForward(w, r, s.backend, r.PathValue("pod"), uid, opts, s.cfg.IdleTimeout, streamCreation, portforward.SupportedProtocols)
}
