package apiserver_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptrace"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/rutter-project/rutter/apiserver"
)

// A connection takes as many requests at a time, and as much of their bodies, as one to
// kube-apiserver.
func TestLimitsOfConnectionsAreUpstreams(t *testing.T) {
	c := server(t)
	settings, err := rest.TLSConfigFor(c.config)
	require.NoError(t, err)
	settings.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", c.server.Address().String(), settings)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	frames := http2.NewFramer(conn, conn)
	require.NoError(t, frames.WriteSettings())
	got, window := map[http2.SettingID]uint32{}, uint32(65535)
	for len(got) == 0 || window == 65535 {
		frame, err := frames.ReadFrame()
		require.NoError(t, err)
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			require.NoError(t, f.ForeachSetting(func(s http2.Setting) error { got[s.ID] = s.Val; return nil }))
		case *http2.WindowUpdateFrame:
			window += f.Increment
		}
	}
	require.EqualValues(t, 100, got[http2.SettingMaxConcurrentStreams])
	require.EqualValues(t, 256<<10, got[http2.SettingMaxFrameSize])
	require.EqualValues(t, 256<<10, got[http2.SettingInitialWindowSize])
	require.EqualValues(t, 100*256<<10, window)
}

// Until the delay is over a server that is told to stop answers everything, watches go on,
// and only readiness fails.
func TestStopWaitsForItsDelay(t *testing.T) {
	const delay = 4 * time.Second
	c, stop, err := startAlone(func(c *apiserver.Config) { c.Serving.ShutdownDelay = delay })
	require.NoError(t, err)
	client, err := rest.HTTPClientFor(c.config)
	require.NoError(t, err)
	w, err := c.client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=none"})
	require.NoError(t, err)
	defer w.Stop()
	begin := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	for status(t, client, c.config.Host+"/readyz") == http.StatusOK {
	}
	if status(t, client, c.config.Host+"/livez"); time.Since(begin) < delay/2 { // else this machine is too slow to tell
		require.Equal(t, http.StatusOK, status(t, client, c.config.Host+"/api/v1/namespaces/default"))
		select {
		case e, ok := <-w.ResultChan():
			require.True(t, ok && time.Since(begin) < delay, "the watch ended or told %v", e)
		default:
		}
	}
	require.NoError(t, <-stopped)
	require.GreaterOrEqual(t, time.Since(begin), delay)
}

// status asks for a URL.
func status(t *testing.T, client *http.Client, url string) int {
	t.Helper()
	resp, err := client.Get(url)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

// Who asks a server that stops is told to come back, also on a new connection, until what
// was asked before is answered.
func TestStopSendsRetryAfter(t *testing.T) {
	c, stop, err := startAlone(func(c *apiserver.Config) { c.Serving.ShutdownRetryAfter = true })
	require.NoError(t, err)
	before, answered := postSlowly(t, c, "before")
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	client, err := rest.HTTPClientFor(c.config)
	require.NoError(t, err)
	url := c.config.Host + "/api/v1/namespaces/default"
	for status(t, client, url) == http.StatusOK {
	}
	resp, err := client.Get(url) // over another connection: the refusal has ended the first
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
	require.Equal(t, "5", resp.Header.Get("Retry-After"))
	before()
	require.Equal(t, http.StatusCreated, <-answered)
	require.NoError(t, <-stopped)
}

// postSlowly begins to create a ConfigMap and returns, when the server has seen that, what
// sends the rest, and where the answer's status will be.
func postSlowly(t *testing.T, c *cluster, name string) (finish func(), answered <-chan int) {
	t.Helper()
	client, err := rest.HTTPClientFor(c.config)
	require.NoError(t, err)
	body, more := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.config.Host+"/api/v1/namespaces/default/configmaps", body)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	got := make(chan int, 1)
	go func() {
		resp, err := client.Do(req)
		if err != nil {
			t.Error(err)
			got <- 0
			return
		}
		defer resp.Body.Close()
		got <- resp.StatusCode
	}()
	_, err = io.WriteString(more, `{"metadata":{"name":"`+name+`"},`)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status(t, client, c.config.Host+"/version")) // on the same connection, so that the server has seen the other
	return func() {
		_, err := io.WriteString(more, `"data":{"a":"b"}}`)
		require.NoError(t, err)
		require.NoError(t, more.Close())
	}, got
}

// With a chance of GOAWAY a client soon asks over another connection, and loses nothing.
func TestGoawayChance(t *testing.T) {
	c, stop, err := startAlone(func(c *apiserver.Config) { c.Serving.GoawayChance = 0.02 })
	require.NoError(t, err)
	defer func() { require.NoError(t, stop()) }()
	client, err := rest.HTTPClientFor(c.config)
	require.NoError(t, err)
	connections := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			connections++
		}
	}})
	for asked := 0; connections < 2; asked++ {
		require.Less(t, asked, 5000, "no request of 5,000 at 2 % each made the client connect anew")
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.config.Host+"/version", nil)
		require.NoError(t, err)
		resp, err := client.Do(req)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
}

func TestServingConfigNamesWhatIsWrong(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*apiserver.ServingConfig)
		want   string
	}{
		"streams":  {func(c *apiserver.ServingConfig) { c.MaxStreams = 0 }, "--http2-max-streams-per-connection 0 is less than 1"},
		"goaway":   {func(c *apiserver.ServingConfig) { c.GoawayChance = 0.5 }, "--goaway-chance 0.5 is not between 0 and 0.02"},
		"negative": {func(c *apiserver.ServingConfig) { c.GoawayChance = -1 }, "--goaway-chance -1 is not between 0 and 0.02"},
		"delay":    {func(c *apiserver.ServingConfig) { c.ShutdownDelay = -time.Second }, "--shutdown-delay-duration -1s is negative"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := apiserver.DefaultServingConfig()
			require.NoError(t, cfg.Validate())
			tt.change(&cfg)
			require.EqualError(t, cfg.Validate(), tt.want)
		})
	}
}
