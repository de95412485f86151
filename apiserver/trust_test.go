package apiserver_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/apiserver/pki"
)

// lines is a log that a test reads.
type lines chan string

// Write implements io.Writer.
func (l lines) Write(line []byte) (int, error) {
	select {
	case l <- string(line):
	default: // nobody reads any more
	}
	return len(line), nil
}

// wait returns the first line with all of these words.
func (l lines) wait(t testing.TB, words ...string) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case line := <-l:
			if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
				return line
			}
		case <-deadline:
			require.FailNow(t, "no line was logged", "with %q", words)
		}
	}
}

// put writes a file as a whole, as careful programs do.
func put(t testing.TB, path string, data []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", data, 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

// putPair writes a new pair of a's in the place of another.
func putPair(t testing.TB, a *pki.Authority, leaf pki.Leaf, certFile, keyFile string) *tls.Certificate {
	t.Helper()
	files, err := a.Issue(leaf)
	require.NoError(t, err)
	for from, to := range map[string]string{files.CertFile: certFile, files.KeyFile: keyFile} {
		data, err := os.ReadFile(from)
		require.NoError(t, err)
		put(t, to, data)
	}
	made, err := tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	return &made
}

// shown is the certificate that a new connection is shown, and the authorities whose
// certificates the server wants.
func (c *cluster) shown(t testing.TB) (serial string, wanted int) {
	t.Helper()
	conn, err := tls.Dial("tcp", c.server.Address().String(), &tls.Config{RootCAs: c.ca.Pool(), ServerName: "localhost",
		GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			wanted = len(r.AcceptableCAs)
			return &tls.Certificate{}, nil
		}})
	require.NoError(t, err)
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), wanted
}

// keptOpen is a client that keeps its connection.
func keptOpen(t testing.TB, config *rest.Config) func() int {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	require.NoError(t, err)
	t.Cleanup(client.CloseIdleConnections)
	return func() int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, config.Host+"/api/v1/namespaces/default", nil)
		require.NoError(t, err)
		a, err := client.Do(r)
		require.NoError(t, err)
		require.NoError(t, a.Body.Close())
		return a.StatusCode
	}
}

func TestServingCertificateIsReplacedWhileServing(t *testing.T) {
	log := make(lines, 10_000)
	c := alone(t, func(cfg *apiserver.Config) { cfg.Log = zerolog.New(log).Level(zerolog.InfoLevel) })
	certFile, keyFile := filepath.Join(filepath.Dir(c.ca.CAFile()), "apiserver.crt"), filepath.Join(filepath.Dir(c.ca.CAFile()), "apiserver.key")
	before, _ := c.shown(t)
	kept := keptOpen(t, c.config)
	require.Equal(t, 200, kept())

	fresh := putPair(t, c.ca, pki.Leaf{Name: "fresh", CommonName: "fresh", Hosts: []string{"localhost", "127.0.0.1"}, Server: true}, certFile, keyFile)
	eventually(t, func() error {
		if serial, _ := c.shown(t); serial != fresh.Leaf.SerialNumber.String() {
			return fmt.Errorf("still serves %s", serial)
		}
		return nil
	})
	require.NotEqual(t, before, fresh.Leaf.SerialNumber.String())
	require.Equal(t, 200, kept(), "open connections stay")

	whole, err := os.ReadFile(certFile)
	require.NoError(t, err)
	put(t, certFile, whole[:len(whole)/2])
	require.Contains(t, log.wait(t, `"level":"error"`, "serving certificate"), "apiserver.crt")
	serial, _ := c.shown(t)
	require.Equal(t, fresh.Leaf.SerialNumber.String(), serial)
}

func TestClientAuthoritiesAreReplacedWhileServing(t *testing.T) {
	log := make(lines, 10_000)
	c := alone(t, func(cfg *apiserver.Config) { cfg.Log = zerolog.New(log).Level(zerolog.InfoLevel) })
	other, err := pki.Load(t.TempDir(), "other")
	require.NoError(t, err)
	files, err := other.Issue(pki.Leaf{Name: "root", CommonName: "root", Organizations: []string{"system:masters"}, Client: true})
	require.NoError(t, err)
	foreign := &rest.Config{Host: c.config.Host, TLSClientConfig: rest.TLSClientConfig{CAData: c.ca.CAPEM(), CertFile: files.CertFile, KeyFile: files.KeyFile}}
	status := func() int { return send(t, foreign, "GET", "/api/v1/namespaces/default", "").status }
	require.Equal(t, 401, status())
	_, wanted := c.shown(t)
	require.Equal(t, 1, wanted)
	own := c.ca.CAPEM()

	put(t, c.ca.CAFile(), append(c.ca.CAPEM(), other.CAPEM()...))
	eventually(t, func() error {
		if _, wanted := c.shown(t); wanted != 2 {
			return errors.New("not taken over")
		}
		return nil
	})
	kept := keptOpen(t, foreign)
	require.Equal(t, 200, kept())
	eventually(t, func() error { return c.delegates("client-ca-file", string(own)+string(other.CAPEM())) })

	put(t, c.ca.CAFile(), other.CAPEM())
	log.wait(t, `"level":"error"`, "client authorities", "signs with")
	require.Equal(t, 200, c.send(t, "GET", "/api/v1/namespaces/default", "").status, "the cluster's own certificates stay good")

	put(t, c.ca.CAFile(), own)
	eventually(t, func() error {
		if got := kept(); got != 401 {
			return fmt.Errorf("the open connection gets %d", got)
		}
		return nil
	})
	require.Equal(t, 401, status())
	require.Equal(t, 200, c.send(t, "GET", "/api/v1/namespaces/default", "").status)
	eventually(t, func() error { return c.delegates("client-ca-file", string(own)) })
}

// delegates is an error if aggregated servers are told something else.
func (c *cluster) delegates(key, want string) error {
	told, err := c.client.CoreV1().ConfigMaps("kube-system").Get(context.Background(), "extension-apiserver-authentication", metav1.GetOptions{})
	if err == nil && told.Data[key] != want {
		err = fmt.Errorf("%s is %q", key, told.Data[key])
	}
	return err
}

func TestFrontProxyIsReplacedWhileServing(t *testing.T) {
	c := alone(t)
	c.aggregate(t)
	dir := filepath.Join(filepath.Dir(c.ca.CAFile()), "front-proxy")
	front, err := pki.Load(dir, "front-proxy")
	require.NoError(t, err)
	shows := func(want string) error {
		a := c.send(t, "GET", "/apis/"+aggregatedGroup+"/v1/flavors", "")
		if a.status != 200 || a.object(t)["proxy"] != want {
			return fmt.Errorf("%d %s", a.status, a.body)
		}
		return nil
	}
	eventually(t, func() error { return shows("front-proxy-client") })
	putPair(t, front, pki.Leaf{Name: "next", CommonName: "next", Client: true}, filepath.Join(dir, "front-proxy-client.crt"), filepath.Join(dir, "front-proxy-client.key"))
	eventually(t, func() error { return shows("next") })

	other, err := pki.Load(t.TempDir(), "other")
	require.NoError(t, err)
	both := append(front.CAPEM(), other.CAPEM()...)
	put(t, front.CAFile(), both)
	eventually(t, func() error { return c.delegates("requestheader-client-ca-file", string(both)) })
}
