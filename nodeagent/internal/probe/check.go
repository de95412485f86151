// Package probe asks containers how they are, and runs their lifecycle hooks.
//
// Checks over the network are made from inside the pod's network namespace to
// the pod's own address: what is asked is the container, not the datapath.
package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Target is the container that is asked.
type Target struct {
	Ports []corev1.ContainerPort
	IP    string // the pod's
	// Exec runs a command in the container.
	Exec func(ctx context.Context, args []string, out io.Writer) (code uint32, err error)
	// Dial connects from inside the pod's network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// maxAnswer is how much of an answer is read and shown.
const maxAnswer = 10 << 10

var errNoHandler = errors.New("no handler is given")

// Check performs a probe's handler once. A nil error means success.
func Check(ctx context.Context, t Target, h corev1.ProbeHandler) error {
	switch {
	case h.Exec != nil:
		return t.exec(ctx, h.Exec.Command)
	case h.HTTPGet != nil:
		return t.http(ctx, h.HTTPGet, "kube-probe/1.37")
	case h.TCPSocket != nil:
		return t.tcp(ctx, h.TCPSocket)
	case h.GRPC != nil:
		return t.grpc(ctx, h.GRPC)
	default:
		return errNoHandler
	}
}

// Hook performs a lifecycle handler.
func Hook(ctx context.Context, t Target, h corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		return t.exec(ctx, h.Exec.Command)
	case h.HTTPGet != nil:
		return t.http(ctx, h.HTTPGet, "kube-lifecycle/1.37")
	case h.TCPSocket != nil:
		return t.tcp(ctx, h.TCPSocket)
	case h.Sleep != nil:
		select {
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	default:
		return errNoHandler
	}
}

// limited keeps the first bytes written to it.
type limited struct{ b bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.b.Write(p[:min(len(p), maxAnswer-l.b.Len())])
	return len(p), nil
}

func (t Target) exec(ctx context.Context, args []string) error {
	var out limited
	code, err := t.Exec(ctx, args, &out)
	if ctx.Err() != nil {
		return fmt.Errorf("command %q timed out", strings.Join(args, " "))
	}
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("command %q exited with %d: %s", strings.Join(args, " "), code, out.b.String())
	}
	return nil
}

// port resolves a number or a name of the container's ports.
func (t Target) port(p intstr.IntOrString) (string, error) {
	n := p.IntValue()
	if p.Type == intstr.String {
		for _, have := range t.Ports {
			if have.Name == p.StrVal {
				n = int(have.ContainerPort)
			}
		}
	}
	if n <= 0 || n > 65535 {
		return "", fmt.Errorf("invalid port %s", p.String())
	}
	return strconv.Itoa(n), nil
}

func (t Target) address(host string, port intstr.IntOrString) (string, error) {
	if host == "" {
		host = t.IP
	}
	p, err := t.port(port)
	return net.JoinHostPort(host, p), err
}

// dialer returns how to reach a host: the pod itself from inside.
func (t Target) dialer(host string) func(ctx context.Context, network, address string) (net.Conn, error) {
	if host == "" || host == t.IP {
		return t.Dial
	}
	return (&net.Dialer{}).DialContext
}

func (t Target) tcp(ctx context.Context, a *corev1.TCPSocketAction) error {
	addr, err := t.address(a.Host, a.Port)
	if err != nil {
		return err
	}
	conn, err := t.dialer(a.Host)(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (t Target) http(ctx context.Context, a *corev1.HTTPGetAction, agent string) error {
	addr, err := t.address(a.Host, a.Port)
	if err != nil {
		return err
	}
	scheme := strings.ToLower(string(a.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	u, err := url.Parse(a.Path)
	if err != nil {
		return fmt.Errorf("path of probe: %w", err)
	}
	u.Scheme, u.Host = scheme, addr
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", agent)
	req.Header.Set("Accept", "*/*")
	for _, h := range a.HTTPHeaders {
		req.Header.Add(h.Name, h.Value)
		if strings.EqualFold(h.Name, "Host") {
			req.Host = h.Value
		}
	}
	transport := &http.Transport{
		DialContext: t.dialer(a.Host), DisableKeepAlives: true, Proxy: nil,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // probes never check whom they ask, by the API's definition
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: sameHost}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("HTTP probe failed with statuscode: %d: %s", resp.StatusCode, body)
	}
	return nil
}

// sameHost follows redirects within a host only; another host's answer says
// nothing about the container.
func sameHost(req *http.Request, via []*http.Request) error {
	if req.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

func (t Target) grpc(ctx context.Context, a *corev1.GRPCAction) error {
	addr := net.JoinHostPort(t.IP, strconv.Itoa(int(a.Port)))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUserAgent("kube-probe/1.37"),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return t.Dial(ctx, "tcp", addr) }))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	req := &grpc_health_v1.HealthCheckRequest{}
	if a.Service != nil {
		req.Service = *a.Service
	}
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, req)
	if err != nil {
		return err
	}
	if resp.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("service unhealthy (responded with %q)", resp.Status)
	}
	return nil
}
