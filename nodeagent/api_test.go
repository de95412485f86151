package nodeagent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

func (n *node) rest() *rest.Config {
	return &rest.Config{Host: "https://" + n.addr, BearerToken: "good", TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

func (n *node) url(verb string, p *corev1.Pod, rest string, q url.Values) *url.URL {
	return &url.URL{Scheme: "https", Host: n.addr, Path: "/" + verb + "/" + p.Namespace + "/" + p.Name + rest, RawQuery: q.Encode()}
}

// exec runs a command as the API server's proxy does.
func (n *node) exec(p *corev1.Pod, stdin io.Reader, command ...string) (code int, out string, err error) {
	q := url.Values{"command": command, "output": {"1"}, "error": {"1"}}
	if stdin != nil {
		q.Set("input", "1")
	}
	e, err := remotecommand.NewSPDYExecutor(n.rest(), http.MethodPost, n.url("exec", p, "/main", q))
	if err != nil {
		return 0, "", err
	}
	var stdout, stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: &stdout, Stderr: &stderr})
	var exit exec.CodeExitError
	if errors.As(err, &exit) {
		return exit.Code, stdout.String() + stderr.String(), nil
	}
	return 0, stdout.String() + stderr.String(), err
}

func TestExec(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("shell")
	n.create(p)
	n.await(p, "ran", ready)
	for name, tc := range map[string]struct {
		stdin io.Reader
		args  []string
		code  int
		out   string
	}{
		"output":    {args: []string{"/bin/busy", "echo=out"}, out: "out\n"},
		"stderr":    {args: []string{"/bin/busy", "err=wrong"}, out: "wrong\n"},
		"exit code": {args: []string{"/bin/busy", "exit=5"}, code: 5},
		"stdin":     {stdin: strings.NewReader("typed"), args: []string{"/bin/busy", "stdin"}, out: "typed"},
		"much":      {args: []string{"/bin/busy", "count=20000", "echo=end"}, out: "19999\nend\n"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, err := n.exec(p, tc.stdin, tc.args...)
			require.NoError(t, err)
			require.Equal(t, tc.code, code)
			require.True(t, strings.HasSuffix(out, tc.out), "%.200q", out)
		})
	}
	_, _, err := n.exec(p, nil, "/bin/absent")
	require.Error(t, err)
}

func TestAttach(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("open", "stdin", "echo=done")
	p.Spec.Containers[0].Stdin, p.Spec.Containers[0].StdinOnce = true, true
	n.create(p)
	n.await(p, "ran", ready)
	e, err := remotecommand.NewSPDYExecutor(n.rest(), http.MethodPost, n.url("attach", p, "/main", url.Values{"input": {"1"}, "output": {"1"}}))
	require.NoError(t, err)
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("first\nsecond\n"), Stdout: &out}))
	require.Equal(t, "first\nsecond\ndone\n", out.String())
	n.await(p, "succeeded", phase(corev1.PodSucceeded))
}

func TestLogs(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("talk", "err=oops", "sleep=200ms", "count=1000", "wait", "echo=bye")
	n.create(p)
	n.await(p, "ran", ready)

	followed := make(chan string, 1)
	go func() {
		_, body := n.get("/containerLogs/test/talk/main?follow=true&tailLines=1", "good")
		followed <- body
	}()
	require.Eventually(t, func() bool { return strings.Contains(n.logs(p, ""), "999\n") }, 5*time.Second, 20*time.Millisecond)
	require.Equal(t, "997\n998\n999\n", n.logs(p, "tailLines=3"))
	require.Equal(t, "oops\n", n.logs(p, "stream=Stderr"))
	require.Equal(t, "oops\n0\n1", n.logs(p, "limitBytes=8"))
	require.Empty(t, n.logs(p, "sinceTime="+time.Now().Add(time.Hour).UTC().Format(time.RFC3339)))
	stamped := n.logs(p, "timestamps=true&tailLines=1")
	_, err := time.Parse(time.RFC3339Nano, strings.Fields(stamped)[0])
	require.NoError(t, err)
	code, body := n.get("/containerLogs/test/talk/main?previous=true", "good")
	require.Equal(t, http.StatusBadRequest, code)
	require.Contains(t, body, "previous terminated container")
	code, _ = n.get("/containerLogs/test/talk/absent", "good")
	require.Equal(t, http.StatusNotFound, code)

	n.api.DeletePod(p.Namespace, p.Name, 5)
	select {
	case body := <-followed:
		require.True(t, strings.HasSuffix(body, "got terminated\nbye\n"), "%q", body)
	case <-time.After(20 * time.Second):
		t.Fatal("following does not end with the container")
	}
	n.awaitGone(p)
}

func TestPortForward(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("web", "serve=8080", "wait")
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}}
	n.create(p)
	n.await(p, "ran", ready)
	rt, upgrader, err := spdy.RoundTripperFor(n.rest())
	require.NoError(t, err)
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: rt}, http.MethodPost, n.url("portForward", p, "", nil))
	stop, opened := make(chan struct{}), make(chan struct{})
	fw, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:8080", "0:9"}, stop, opened, io.Discard, io.Discard)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- fw.ForwardPorts() }()
	select {
	case <-opened:
	case err := <-done:
		require.NoError(t, err)
	}
	ports, err := fw.GetPorts()
	require.NoError(t, err)
	for range 3 {
		tr := &http.Transport{DisableKeepAlives: true}
		resp, err := (&http.Client{Transport: tr}).Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local))
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, "web\n", string(body))
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[1].Local))
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err, "a port nobody listens on is closed")
	require.NoError(t, conn.Close())
	close(stop)
	<-done
}

func TestNodeAPIGuards(t *testing.T) {
	n := newNode(t)
	n.start()
	for name, tc := range map[string]struct {
		path, token string
		want        int
	}{
		"anonymous":     {"/pods", "", http.StatusUnauthorized},
		"bad token":     {"/pods", "wrong", http.StatusUnauthorized},
		"no right":      {"/pods", "poor", http.StatusForbidden},
		"pods":          {"/pods", "good", http.StatusOK},
		"running pods":  {"/runningpods/", "good", http.StatusOK},
		"health":        {"/healthz", "good", http.StatusOK},
		"configuration": {"/configz", "good", http.StatusOK},
		"summary":       {"/stats/summary", "good", http.StatusOK},
		"metrics":       {"/metrics", "good", http.StatusOK},
		"resources":     {"/metrics/resource", "good", http.StatusOK},
		"absent pod":    {"/containerLogs/a/b/c", "good", http.StatusNotFound},
		"absent path":   {"/absent", "good", http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			code, body := n.get(tc.path, tc.token)
			require.Equal(t, tc.want, code, body)
		})
	}
}

func TestNodeRegistersAndKeepsItsLease(t *testing.T) {
	n := newNode(t)
	n.cfg.RenewInterval, n.cfg.LeaseDuration = 200*time.Millisecond, time.Second
	n.start()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var node corev1.Node
	require.NoError(t, n.api.Await(ctx, func() bool { return n.api.Get("nodes/"+n.cfg.NodeName, &node) }))
	require.Equal(t, "192.0.2.1", node.Status.Addresses[0].Address)
	require.Equal(t, int64(110), node.Status.Capacity.Pods().Value())
	require.Contains(t, node.Status.NodeInfo.ContainerRuntimeVersion, "containerd://")
	for _, c := range node.Status.Conditions {
		require.Equal(t, c.Type == corev1.NodeReady, c.Status == corev1.ConditionTrue, "%s", c.Type)
	}
	lease := "namespaces/kube-node-lease/leases/" + n.cfg.NodeName
	require.NoError(t, n.api.Await(ctx, func() bool { return len(n.api.Writes(lease)) >= 4 }))
	require.LessOrEqual(t, len(n.api.Writes("nodes/")), 2, "the status is written only when it changes")
}

// sizes tells one terminal size.
type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

func TestTerminal(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("tty", "echo=hello", "stdin")
	p.Spec.Containers[0].TTY, p.Spec.Containers[0].Stdin, p.Spec.Containers[0].StdinOnce = true, true, true
	n.create(p)
	n.await(p, "ran", ready)
	require.Eventually(t, func() bool { return n.logs(p, "") == "hello\r\n" }, 5*time.Second, 20*time.Millisecond)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	queue := make(sizes, 1)
	queue <- remotecommand.TerminalSize{Width: 100, Height: 30}
	close(queue)
	run := func(u *url.URL, in string) string {
		e, err := remotecommand.NewSPDYExecutor(n.rest(), http.MethodPost, u)
		require.NoError(t, err)
		var out bytes.Buffer
		require.NoError(t, e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(in), Stdout: &out, Tty: true, TerminalSizeQueue: queue}))
		return out.String()
	}
	tty := url.Values{"input": {"1"}, "output": {"1"}, "tty": {"1"}}
	require.Contains(t, run(n.url("attach", p, "/main", tty), "typed\n\x04"), "typed\r\ntyped\r\n", "what is typed shows, then comes back")
	got := n.await(p, "succeeded", phase(corev1.PodSucceeded))
	require.Contains(t, n.logs(p, ""), "hello\r\ntyped\r\n")
	require.Equal(t, int32(0), status(got).State.Terminated.ExitCode)

	q := n.pod("tty-exec", "wait")
	n.create(q)
	n.await(q, "ran", ready)
	tty["command"] = []string{"/bin/busy", "stdin"}
	require.Contains(t, run(n.url("exec", q, "/main", tty), "abc\n\x04"), "abc\r\nabc\r\n")
}
