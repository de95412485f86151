package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestJudge(t *testing.T) {
	for name, tc := range map[string]struct {
		p       corev1.Probe
		first   Verdict
		results string // + and -
		changes []int  // after which result the verdict changed
	}{
		"defaults":      {corev1.Probe{}, Healthy, "---", []int{2}},
		"interrupted":   {corev1.Probe{FailureThreshold: 3}, Healthy, "--+--", nil},
		"recovers":      {corev1.Probe{FailureThreshold: 1, SuccessThreshold: 2}, Unhealthy, "+-++", []int{3}},
		"flaps":         {corev1.Probe{FailureThreshold: 1}, Unhealthy, "+-+", []int{0, 1, 2}},
		"first is told": {corev1.Probe{}, Unknown, "+", []int{0}},
		"startup fails": {corev1.Probe{FailureThreshold: 2}, Unknown, "--", []int{1}},
		"says so once":  {corev1.Probe{FailureThreshold: 1}, Healthy, "---", []int{0}},
	} {
		t.Run(name, func(t *testing.T) {
			j := NewJudge(&tc.p, tc.first)
			var got []int
			for i, r := range tc.results {
				if j.Result(r == '+') {
					got = append(got, i)
				}
			}
			require.Equal(t, tc.changes, got)
		})
	}
}

func TestRunKeepsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var asked []time.Duration
		var told []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			Run(ctx, &corev1.Probe{InitialDelaySeconds: 5, PeriodSeconds: 10, TimeoutSeconds: 2, FailureThreshold: 2}, Healthy, func(ctx context.Context) error {
				asked = append(asked, time.Since(began))
				<-ctx.Done()
				return ctx.Err()
			}, func(v Verdict, m string) { told = append(told, fmt.Sprint(v, m)) })
		}()
		time.Sleep(30 * time.Second)
		cancel()
		<-done
		require.Equal(t, []time.Duration{5 * time.Second, 15 * time.Second, 25 * time.Second}, asked)
		require.Equal(t, []string{"2context deadline exceeded"}, told)
	})
}

func target(t *testing.T, addr string) (Target, intstr.IntOrString) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	return Target{IP: host, Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(n)}}, Dial: (&net.Dialer{}).DialContext}, intstr.FromInt(n)
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Who") != "me" || r.Host != "example.com" {
			panic("headers are missing")
		}
	})
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "broken", http.StatusInternalServerError) })
	mux.HandleFunc("/here", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/bad", http.StatusFound) })
	mux.HandleFunc("/there", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
	})
	for _, tls := range []bool{false, true} {
		srv := httptest.NewUnstartedServer(mux)
		scheme := corev1.URISchemeHTTP
		if tls {
			scheme = corev1.URISchemeHTTPS
			srv.StartTLS()
		} else {
			srv.Start()
		}
		defer srv.Close()
		tg, port := target(t, srv.Listener.Addr().String())
		for path, ok := range map[string]bool{"/ok": true, "/bad": false, "/here": false, "/there": true, "/absent": false} {
			err := Check(t.Context(), tg, corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: port, Scheme: scheme,
				HTTPHeaders: []corev1.HTTPHeader{{Name: "X-Who", Value: "me"}, {Name: "Host", Value: "example.com"}}}})
			require.Equal(t, ok, err == nil, "%s %s: %v", scheme, path, err)
		}
		require.NoError(t, Check(t.Context(), tg, corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("web")}}))
	}
	require.Error(t, Check(t.Context(), Target{}, corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("none")}}))
	require.ErrorIs(t, Check(t.Context(), Target{}, corev1.ProbeHandler{}), errNoHandler)
}

func TestExec(t *testing.T) {
	tg := Target{Exec: func(_ context.Context, args []string, out io.Writer) (uint32, error) {
		_, _ = io.WriteString(out, "said")
		switch args[0] {
		case "ok":
			return 0, nil
		case "bad":
			return 3, nil
		default:
			return 0, errors.New("no such program")
		}
	}}
	check := func(arg string) error {
		return Check(t.Context(), tg, corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{arg}}})
	}
	require.NoError(t, check("ok"))
	require.ErrorContains(t, check("bad"), "exited with 3: said")
	require.ErrorContains(t, check("none"), "no such program")
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv, h := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, h)
	h.SetServingStatus("sick", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() { srv.Stop(); require.NoError(t, <-done) })
	tg, port := target(t, l.Addr().String())
	sick := "sick"
	require.NoError(t, Check(t.Context(), tg, corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: port.IntVal}}))
	require.ErrorContains(t, Check(t.Context(), tg, corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: port.IntVal, Service: &sick}}), "NOT_SERVING")
}

func TestSleepHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		require.NoError(t, Hook(t.Context(), Target{}, corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 7}}))
		require.Equal(t, 7*time.Second, time.Since(began))
	})
}
