package apiserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/apiserver/etcd"
	"github.com/rutter-project/rutter/apiserver/pki"
	"github.com/rutter-project/rutter/schemas"
)

// update rewrites the golden files in testdata.
var update = flag.Bool("update", false, "rewrite golden files")

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// cluster is a running API server and an administrator's access to it.
type cluster struct {
	server   *apiserver.Server
	ca       *pki.Authority
	etcd     *clientv3.Client
	sealFile string
	config   *rest.Config
	client   *kubernetes.Clientset
}

// shared is the one server of most tests of this package; it is started by the first.
var shared struct {
	once sync.Once
	c    *cluster
	err  error
	stop func() error
}

func TestMain(m *testing.M) {
	flag.Parse()
	klog.SetLogger(logr.Discard())
	code := m.Run()
	if shared.stop != nil {
		if err := shared.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop the server:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// server returns the shared server.
func server(t testing.TB) *cluster {
	t.Helper()
	shared.once.Do(func() { shared.c, shared.stop, shared.err = startAlone() })
	require.NoError(t, shared.err)
	return shared.c
}

// alone returns a server of the test's own, configured by change.
func alone(t testing.TB, change ...func(*apiserver.Config)) *cluster {
	t.Helper()
	c, stop, err := startAlone(change...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, stop()) })
	return c
}

// startAlone starts etcd and an API server on it, and returns what stops both.
func startAlone(change ...func(*apiserver.Config)) (*cluster, func() error, error) {
	dir, err := os.MkdirTemp("", "rutter-apiserver-*")
	if err != nil {
		return nil, nil, err
	}
	e, err := etcd.Start(context.Background(), etcd.Config{Dir: filepath.Join(dir, "etcd"), NoSync: true})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	c := &cluster{etcd: e.Client(), sealFile: filepath.Join(dir, "seal.key")}
	stop, err := c.start(filepath.Join(dir, "pki"), "test", change...)
	clean := func() error { return errors.Join(stop(), e.Close(), os.RemoveAll(dir)) }
	if err != nil {
		return nil, nil, errors.Join(err, clean())
	}
	return c, clean, nil
}

// start runs an API server on the cluster's etcd and fills in the rest. The function it
// returns stops it, whether it came up or not.
func (c *cluster) start(pkiDir, id string, change ...func(*apiserver.Config)) (func() error, error) {
	nothing := func() error { return nil }
	var err error
	if c.ca, err = pki.Load(pkiDir, "test"); err != nil {
		return nothing, err
	}
	cfg := apiserver.DefaultConfig()
	cfg.ID, cfg.Listen, cfg.Advertise = id, "127.0.0.1:0", netip.MustParseAddr("192.0.2.1")
	cfg.SealFile = c.sealFile
	cfg.Etcd, cfg.PKI, cfg.Log = c.etcd, c.ca, zerolog.Nop()
	for _, f := range change {
		f(&cfg)
	}
	if c.server, err = apiserver.New(cfg); err != nil {
		return nothing, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.server.Run(ctx) }()
	stop := func() error { cancel(); return <-done }
	select {
	case <-c.server.Ready():
	case err := <-done:
		done <- err
		return stop, fmt.Errorf("server ended before it was ready: %w", err)
	case <-time.After(patience):
		return stop, fmt.Errorf("server not ready after %s", patience)
	}
	c.config, err = c.access(pki.Leaf{Name: "admin", CommonName: "admin", Organizations: []string{"system:masters"}, Client: true})
	if err == nil {
		c.client, err = kubernetes.NewForConfig(c.config)
	}
	return stop, err
}

// access is a connection with a client certificate.
func (c *cluster) access(leaf pki.Leaf) (*rest.Config, error) {
	pair, err := c.ca.Issue(leaf)
	if err != nil {
		return nil, err
	}
	config := &rest.Config{Host: "https://" + c.server.Address().String(), QPS: -1, UserAgent: "tester/1.0",
		TLSClientConfig: rest.TLSClientConfig{CAFile: c.ca.CAFile(), CertFile: pair.CertFile, KeyFile: pair.KeyFile}}
	config.Wrap(schemas.CauseTransport)
	return config, nil
}

// as is a client that acts for somebody else.
func (c *cluster) as(t testing.TB, user string, groups ...string) *kubernetes.Clientset {
	t.Helper()
	config := rest.CopyConfig(c.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	return clientOf(t, config)
}

// withToken is a connection with a bearer token, "" for none.
func (c *cluster) withToken(token string) *rest.Config {
	return &rest.Config{Host: c.config.Host, QPS: -1, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAFile: c.ca.CAFile()}}
}

func clientOf(t testing.TB, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	return client
}

// namespace makes a namespace, named after the test, with the service account that
// pods in it run as.
func (c *cluster) namespace(t testing.TB) string {
	t.Helper()
	ns, err := c.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = c.client.CoreV1().ServiceAccounts(ns.Name).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	return ns.Name
}

func (c *cluster) configMap(t testing.TB, ns, name string, labels map[string]string) *corev1.ConfigMap {
	t.Helper()
	cm, err := c.client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(name, labels), metav1.CreateOptions{})
	require.NoError(t, err)
	return cm
}

func configMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: map[string]string{"a": "1"}}
}

// pod makes a pod, bound to node if that is given.
func (c *cluster) pod(t testing.TB, ns, name, node string, volumes ...corev1.Volume) *corev1.Pod {
	t.Helper()
	p, err := c.client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Volumes: volumes, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	return p
}

// answer is an HTTP response, read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// object decodes the answer's JSON.
func (a answer) object(t testing.TB) map[string]any {
	t.Helper()
	var m map[string]any
	require.NoError(t, json.Unmarshal(a.body, &m), "%s", a.body)
	return m
}

// apiStatus decodes the answer as a Status.
func (a answer) apiStatus(t testing.TB) metav1.Status {
	t.Helper()
	var s metav1.Status
	require.NoError(t, json.Unmarshal(a.body, &s), "%s", a.body)
	require.Equal(t, "Status", s.Kind, "%s", a.body)
	return s
}

// send makes one request; headers are "Name: value".
func send(t testing.TB, config *rest.Config, method, path, body string, headers ...string) answer {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	require.NoError(t, err)
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, config.Host+path, strings.NewReader(body)) // cleanup sends too
	require.NoError(t, err)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return answer{resp.StatusCode, resp.Header, data}
}

func (c *cluster) send(t testing.TB, method, path, body string, headers ...string) answer {
	t.Helper()
	return send(t, c.config, method, path, body, headers...)
}

// revision is etcd's.
func (c *cluster) revision(t testing.TB) int64 {
	t.Helper()
	resp, err := c.etcd.Get(t.Context(), "/rutter/health")
	require.NoError(t, err)
	return resp.Header.Revision
}

// eventually waits until check passes: for what the server learns by its own informers,
// whose state can't be asked for.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("not after %s: %v", patience, err)
		}
	}
}

// golden compares with a file of testdata, or rewrites it.
func golden(t testing.TB, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	if !bytes.Equal(want, got) {
		require.Equal(t, string(want), string(got), "%s; rewrite it with -update if the change is wanted", path)
	}
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	c := server(t)
	good := apiserver.DefaultConfig()
	good.Advertise, good.SealFile, good.Etcd, good.PKI = netip.MustParseAddr("192.0.2.1"), "seal.key", c.etcd, c.ca
	require.NoError(t, good.Validate())
	for name, tc := range map[string]struct {
		change func(*apiserver.Config)
		want   string
	}{
		"no id":               {func(c *apiserver.Config) { c.ID = "" }, "ID is empty"},
		"no address":          {func(c *apiserver.Config) { c.Listen = "" }, "Listen is empty"},
		"no advertised":       {func(c *apiserver.Config) { c.Advertise = netip.Addr{} }, "Advertise is not an IP address"},
		"network with host":   {func(c *apiserver.Config) { c.ServiceCIDR = netip.MustParsePrefix("10.96.0.1/16") }, "is not a network"},
		"DNS outside":         {func(c *apiserver.Config) { c.DNS = netip.MustParseAddr("10.1.0.10") }, "outside ServiceCIDR"},
		"no seal file":        {func(c *apiserver.Config) { c.SealFile = "" }, "SealFile is empty"},
		"no etcd":             {func(c *apiserver.Config) { c.Etcd = nil }, "Etcd and PKI are required"},
		"no pki":              {func(c *apiserver.Config) { c.PKI = nil }, "Etcd and PKI are required"},
		"events for a moment": {func(c *apiserver.Config) { c.EventTTL = time.Millisecond }, "EventTTL"},
		"no keyframes":        {func(c *apiserver.Config) { c.KeyframeEvents = 0 }, "KeyframeEvents"},
		"no node ports":       {func(c *apiserver.Config) { c.NodePorts = utilnet.PortRange{} }, "NodePorts"},
		"node ports too high": {func(c *apiserver.Config) { c.NodePorts = utilnet.PortRange{Base: 65535, Size: 2} }, "NodePorts"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			tc.change(&cfg)
			require.ErrorContains(t, cfg.Validate(), tc.want)
		})
	}
}

func TestBusyPortFailsAtStart(t *testing.T) {
	c := server(t)
	cfg := apiserver.DefaultConfig()
	cfg.Listen, cfg.Advertise, cfg.SealFile = c.server.Address().String(), netip.MustParseAddr("192.0.2.1"), filepath.Join(t.TempDir(), "seal.key")
	cfg.Etcd, cfg.PKI, cfg.Log = c.etcd, c.ca, zerolog.Nop()
	_, err := apiserver.New(cfg)
	require.ErrorContains(t, err, "listen on "+c.server.Address().String())
}
