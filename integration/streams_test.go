package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream" //nolint:staticcheck // deprecated, but client-go and apimachinery still speak in its types
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/portforward"
	clientremote "k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"

	"github.com/rutter-project/rutter/integration/cluster"
)

const hostPod = `
apiVersion: v1
kind: Pod
metadata: {name: host}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: %s:v1, args: ["serve=8080", wait]}
  - {name: open, image: %s:v1, args: [stdin, wait], stdin: true}
`

// TestStreamingProtocols runs commands and forwards ports through the API server by every
// protocol that a kubectl of today or of the years before may try.
func TestStreamingProtocols(t *testing.T) {
	c := cluster.New(t)
	c.Start()
	c.Apply(fmt.Sprintf(hostPod, image, image))
	c.Kubectl("wait", "--for=condition=Ready", "pod/host", "--timeout=60s")
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Run("exec", func(t *testing.T) { execs(t, config) })
	t.Run("attach", func(t *testing.T) { attaches(t, config) })
	t.Run("port-forward", func(t *testing.T) { forwards(t, config) })
}

// streamOf opens a subresource of the pod; protocol is "spdy" or "websocket" with a version.
func streamOf(config *rest.Config, protocol, subresource string, query url.Values) (clientremote.Executor, error) {
	u, err := url.Parse(config.Host + "/api/v1/namespaces/default/pods/host/" + subresource + "?" + query.Encode())
	if err != nil {
		return nil, err
	}
	kind, version, _ := strings.Cut(protocol, " ")
	if kind == "websocket" {
		return clientremote.NewWebSocketExecutorForProtocols(config, http.MethodGet, u.String(), version)
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	return clientremote.NewSPDYExecutorForProtocols(transport, upgrader, http.MethodPost, u, version)
}

func execs(t *testing.T, config *rest.Config) {
	for _, tc := range []struct {
		protocol string
		codes    bool // the client learns exit codes
		fails    bool // the client learns that a command failed
		ends     bool // the command learns that no more will be typed
	}{
		{"spdy " + remotecommand.StreamProtocolV4Name, true, true, true},
		{"spdy " + remotecommand.StreamProtocolV3Name, false, true, true},
		{"spdy " + remotecommand.StreamProtocolV2Name, false, true, true},
		{"spdy " + remotecommand.StreamProtocolV1Name, false, false, false},
		{"websocket " + remotecommand.StreamProtocolV5Name, true, true, true},
		{"websocket " + remotecommand.StreamProtocolV4Name, true, true, false},
	} {
		t.Run(tc.protocol, func(t *testing.T) {
			out, stderr, err := execute(t, config, tc.protocol, nil, "/busy", "echo=out", "err=wrong", "exit=5")
			if out != "out\n" || stderr != "wrong\n" {
				t.Errorf("stdout %q, stderr %q", out, stderr)
			}
			var exit exec.CodeExitError
			if tc.codes && (!errors.As(err, &exit) || exit.Code != 5) || tc.fails && err == nil {
				t.Errorf("ended with %v, want exit code 5", err)
			}
			if !tc.ends {
				return
			}
			typed := strings.Repeat("what is typed comes back\n", 20000)
			if out, _, err = execute(t, config, tc.protocol, strings.NewReader(typed), "/busy", "stdin"); err != nil || out != typed {
				t.Errorf("%d bytes came back of %d: %v", len(out), len(typed), err)
			}
		})
	}
	if _, _, err := execute(t, config, "spdy v9.channel.k8s.io", nil, "/busy", "echo=out"); err == nil {
		t.Error("a protocol that nobody knows was accepted")
	}
}

func execute(t *testing.T, config *rest.Config, protocol string, stdin io.Reader, command ...string) (string, string, error) {
	t.Helper()
	query := url.Values{"container": {"main"}, "command": command, "stdout": {"true"}, "stderr": {"true"}}
	if stdin != nil {
		query.Set("stdin", "true")
	}
	e, err := streamOf(config, protocol, "exec", query)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, stderr bytes.Buffer
	err = e.StreamWithContext(ctx, clientremote.StreamOptions{Stdin: stdin, Stdout: &out, Stderr: &stderr})
	return out.String(), stderr.String(), err
}

// attaches types into a running container and reads until it comes back.
func attaches(t *testing.T, config *rest.Config) {
	for _, protocol := range []string{"spdy " + remotecommand.StreamProtocolV4Name, "websocket " + remotecommand.StreamProtocolV5Name, "websocket " + remotecommand.StreamProtocolV4Name} {
		t.Run(protocol, func(t *testing.T) {
			e, err := streamOf(config, protocol, "attach", url.Values{"container": {"open"}, "stdin": {"true"}, "stdout": {"true"}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			typing, typist := io.Pipe()
			screen, display := io.Pipe()
			done := make(chan error, 1)
			go func() {
				done <- e.StreamWithContext(ctx, clientremote.StreamOptions{Stdin: typing, Stdout: display})
				display.Close()
			}()
			line := "typed by " + protocol + "\n"
			if _, err := io.WriteString(typist, line); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(line))
			if _, err := io.ReadFull(screen, got); err != nil || string(got) != line {
				t.Errorf("came back %q: %v", got, err)
			}
			cancel() // detaching leaves the container alone
			typist.Close()
			screen.Close()
			<-done
		})
	}
}

func forwards(t *testing.T, config *rest.Config) {
	u, err := url.Parse(config.Host + "/api/v1/namespaces/default/pods/host/portforward")
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		t.Fatal(err)
	}
	tunnel, err := portforward.NewSPDYOverWebsocketDialer(u, config)
	if err != nil {
		t.Fatal(err)
	}
	for name, dialer := range map[string]httpstream.Dialer{
		"spdy":      spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u),
		"websocket": tunnel,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			ready, done := make(chan struct{}), make(chan error, 1)
			f, err := portforward.NewOnAddressesWithContext(ctx, dialer, []string{"127.0.0.1"}, []string{"0:8080"}, ready, io.Discard, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			go func() { done <- f.ForwardPorts() }()
			defer func() { cancel(); <-done }()
			select {
			case <-ready:
			case err := <-done:
				done <- err
				t.Fatalf("ended before it was ready: %v", err)
			}
			ports, err := f.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			for range 5 { // each on a connection of its own
				resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local))
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || !strings.HasPrefix(string(body), "host") {
					t.Errorf("answered %q: %v", body, err)
				}
			}
		})
	}
}
