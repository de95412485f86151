package apiserver_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// clientOver speaks only one version of HTTP, and takes answers as they are.
func (c *cluster) clientOver(t testing.TB, protocols func(*http.Protocols)) *http.Client {
	t.Helper()
	tls, err := rest.TLSConfigFor(c.config)
	require.NoError(t, err)
	transport := &http.Transport{TLSClientConfig: tls, Protocols: new(http.Protocols), DisableCompression: true}
	protocols(transport.Protocols)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// text makes a ConfigMap that holds n letters.
func (c *cluster) text(t testing.TB, ns, name string, n int) {
	t.Helper()
	held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"text": strings.Repeat("x", n)}}
	_, err := c.client.CoreV1().ConfigMaps(ns).Create(t.Context(), held, metav1.CreateOptions{})
	require.NoError(t, err)
}

// list asks for what is at an address.
func list(t testing.TB, client *http.Client, url string, header http.Header) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	req.Header = header
	resp, err := client.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// TestLongLists: what goes past net/http's HTTP/2 server is what goes through HTTP/1.1, and
// is counted.
func TestLongLists(t *testing.T) {
	c := alone(t)
	ns := c.namespace(t)
	for _, name := range []string{"a", "b", "c"} {
		c.text(t, ns, name, 300_000)
	}
	c.text(t, ns, "short", 1)
	one, two := c.clientOver(t, func(p *http.Protocols) { p.SetHTTP1(true) }), c.clientOver(t, func(p *http.Protocols) { p.SetHTTP2(true) })
	const size = `apiserver_response_sizes_sum{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="LIST",version="v1"}`
	for name, tc := range map[string]struct {
		query, accept, encoding string
		zipped                  bool
	}{
		"JSON":           {"", "application/json", "gzip", false},
		"protobuf":       {"", "application/vnd.kubernetes.protobuf", "", false},
		"compressed":     {"", "application/vnd.kubernetes.protobuf", "gzip", true},
		"a short answer": {"?fieldSelector=metadata.name%3Dshort", "application/json", "gzip", false},
		"a page":         {"?limit=2", "application/json", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			url := c.config.Host + "/api/v1/namespaces/" + ns + "/configmaps" + tc.query
			header := http.Header{"Accept": {tc.accept}, "User-Agent": {"tester/1.0"}, "Accept-Encoding": {tc.encoding}}
			before := c.metrics(t)[size]
			resp := list(t, two, url, header)
			require.Equal(t, "HTTP/2.0", resp.Proto)
			got, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Eventually(t, func() bool { return c.metrics(t)[size] == before+float64(len(got)) }, patience, 10*time.Millisecond)

			through := list(t, one, url, header)
			require.Equal(t, "HTTP/1.1", through.Proto)
			want, err := io.ReadAll(through.Body)
			require.NoError(t, err)
			require.Equal(t, tc.zipped, resp.Header.Get("Content-Encoding") == "gzip")
			for _, name := range []string{"Content-Type", "Content-Encoding", "Vary", "Cache-Control"} {
				require.Equal(t, through.Header.Values(name), resp.Header.Values(name))
			}
			require.True(t, bytes.Equal(unzipped(t, through.Header, want), unzipped(t, resp.Header, got)), "%d bytes are not the other %d", len(got), len(want))
		})
	}
}

func unzipped(t testing.TB, header http.Header, body []byte) []byte {
	t.Helper()
	if header.Get("Content-Encoding") != "gzip" {
		return body
	}
	z, err := gzip.NewReader(bytes.NewReader(body))
	require.NoError(t, err)
	out, err := io.ReadAll(z)
	require.NoError(t, err)
	return out
}

// TestLateListBreaksOff: a client that has not taken a list when its time is over does not
// get the end of a part.
func TestLateListBreaksOff(t *testing.T) {
	c := alone(t)
	ns := c.namespace(t)
	for i := range 14 { // more than a client takes at once
		c.text(t, ns, string(rune('a'+i)), 1_000_000)
	}
	const broken = `apiserver_request_aborts_total{group="",resource="configmaps",scope="namespace",subresource="",verb="LIST",version="v1"}`
	before := c.metrics(t)[broken]
	resp := list(t, c.clientOver(t, func(p *http.Protocols) { p.SetHTTP2(true) }), c.config.Host+"/api/v1/namespaces/"+ns+"/configmaps?timeout=1s",
		http.Header{"Accept": {"application/json"}, "User-Agent": {"tester/1.0"}})
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Eventually(t, func() bool { return c.metrics(t)[broken] > before }, patience, 50*time.Millisecond)
	n, err := io.Copy(io.Discard, resp.Body)
	require.Error(t, err, "after %d bytes", n)
}
