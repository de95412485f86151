package nodeagent_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/rutter-project/rutter/integration/images"
	"github.com/rutter-project/rutter/nodeagent"
	"github.com/rutter-project/rutter/nodeagent/internal/netns"
	"github.com/rutter-project/rutter/nodeagent/internal/testapi"
)

// childEnv makes the test binary be an agent; see child.
const childEnv = "RUTTER_TEST_AGENT"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		if err := child(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if shared.registry != nil {
		_ = shared.registry.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"),
			// A closed stream connection lingers until its peer's timeout.
			goleak.IgnoreAnyFunction("github.com/moby/spdystream.(*Connection).shutdown")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// childSpec is what an agent in another process needs.
type childSpec struct {
	Config nodeagent.Config
	API    string
}

func child(spec string) error {
	var s childSpec
	if err := json.Unmarshal([]byte(spec), &s); err != nil {
		return err
	}
	agent, err := newAgent(s.Config, s.API, os.Stderr)
	if err != nil {
		return err
	}
	go func() {
		<-agent.Ready()
		fmt.Println("ready", agent.Addr())
	}()
	return agent.Run(context.Background())
}

func newAgent(cfg nodeagent.Config, api string, out *os.File) (*nodeagent.Agent, error) {
	client, err := testapi.Client(api)
	if err != nil {
		return nil, err
	}
	log := zerolog.Nop()
	if os.Getenv("RUTTER_TEST_LOG") != "" {
		log = zerolog.New(zerolog.ConsoleWriter{Out: out, NoColor: true, TimeFormat: "15:04:05.000"}).With().Timestamp().Logger()
	}
	return nodeagent.New(cfg, nodeagent.Dependencies{
		Client: client, Pods: source{api}, Changes: source{api}.changes(), Network: loopback{filepath.Join(cfg.RunDir, "net")}, Log: log,
	})
}

// source follows testapi's stream.
type source struct{ api string }

func (s source) follow(ctx context.Context, node string, each func(testapi.Event)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.api+"/stream?node="+node, nil)
	if err != nil {
		return err
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		var e testapi.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		each(e)
	}
}

func (s source) Run(ctx context.Context, node string, sink nodeagent.PodSink) error {
	return s.follow(ctx, node, func(e testapi.Event) {
		switch e.Type {
		case "SYNC":
			sink.Replace(e.Pods, e.Rev)
		case "UPSERT":
			sink.Upsert(e.Pod, e.Rev)
		case "REMOVE":
			sink.Remove(e.Pod, e.Rev)
		}
	})
}

type changes struct{ source }

func (s source) changes() nodeagent.ObjectChanges { return changes{s} }

func (c changes) Run(ctx context.Context, changed func(nodeagent.ObjectRef), missed func()) error {
	return c.follow(ctx, "-", func(e testapi.Event) {
		switch e.Type {
		case "SYNC":
			missed()
		case "CHANGED":
			changed(nodeagent.ObjectRef{Kind: e.Kind, Namespace: e.NS, Name: e.Name})
		}
	})
}

// loopback gives pods a network namespace with a loopback device only.
type loopback struct{ dir string }

func (l loopback) Attach(_ context.Context, pod nodeagent.PodRef) (nodeagent.PodNetwork, error) {
	path := filepath.Join(l.dir, pod.UID)
	if err := netns.PinNet(path); err != nil {
		return nodeagent.PodNetwork{}, err
	}
	return nodeagent.PodNetwork{IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, NetNSPath: path}, nil
}

func (l loopback) Detach(_ context.Context, uid string) error {
	return netns.Unpin(filepath.Join(l.dir, uid))
}

// shared is what all tests use: the registry with the test image.
var shared struct {
	once     sync.Once
	err      error
	dir      string
	registry *images.Registry
	image    string
	stopped  string // the same program with its own stop signal and user
}

func busyImage(t testing.TB) string {
	t.Helper()
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "rutter-images"); shared.err != nil {
			return
		}
		var program string
		if program, shared.err = images.Build(context.Background(), images.Program, shared.dir); shared.err != nil {
			return
		}
		if shared.registry, shared.err = images.Serve("", ""); shared.err != nil {
			return
		}
		img, err := images.Assemble(images.Options{
			Files: map[string]string{"bin/busy": program}, Entrypoint: []string{"/bin/busy"}, Env: []string{"FROM_IMAGE=yes"},
			Texts: map[string]string{"etc/passwd": "root:x:0:0::/:/bin/busy\nplain:x:1000:1000::/:/bin/busy\n", "etc/group": "root:x:0:\nplain:x:1000:\nextra:x:2000:plain\n"},
		})
		if err == nil {
			shared.image, err = shared.registry.Push(context.Background(), "busy:1", img)
		}
		shared.err = err
	})
	require.NoError(t, shared.err)
	return shared.image
}

// node is a node under test.
type node struct {
	t    testing.TB
	cfg  nodeagent.Config
	api  *testapi.Server
	stop func() error // ends the agent that runs in this process
	addr string
	pid  int // of the agent that runs in a process of its own
}

// needRoot skips tests that a plain user can not run, and says why.
func needRoot(t testing.TB) {
	t.Helper()
	if uid := os.Geteuid(); uid != 0 {
		t.Skipf("not root: uid=%d", uid)
	}
}

// newNode prepares a node; everything it makes is removed when the test ends,
// also when the test failed.
func newNode(t testing.TB) *node {
	t.Helper()
	needRoot(t)
	busyImage(t)
	dir, err := os.MkdirTemp("/var/tmp", "rut")
	require.NoError(t, err)
	cfg := nodeagent.DefaultConfig()
	cfg.NodeName = "test-" + filepath.Base(dir)
	cfg.DataDir, cfg.RunDir, cfg.LogDir = filepath.Join(dir, "d"), filepath.Join(dir, "r"), filepath.Join(dir, "l")
	cfg.CgroupRoot = "/rutter-test"
	cfg.Listen = "127.0.0.1:0"
	cfg.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	cfg.CertFile, cfg.KeyFile = certificate(t, dir)
	cfg.BackoffFirst, cfg.BackoffMax = 300*time.Millisecond, 2*time.Second
	n := &node{t: t, cfg: cfg, api: testapi.New()}
	t.Cleanup(func() {
		if n.stop != nil {
			_ = n.stop()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := nodeagent.Purge(ctx, cfg, zerolog.Nop()); err != nil {
			t.Errorf("purge: %v", err)
		}
		_ = netns.UnmountBelow(dir)
		n.api.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove %s: %v", dir, err)
		}
		assertClean(t, cfg.NodeName, dir)
	})
	return n
}

// assertClean checks that nothing of a node is left on the machine.
func assertClean(t testing.TB, name, dir string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	if strings.Contains(string(mounts), dir) {
		t.Errorf("mounts of %s are left", dir)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/rutter-test/" + name, "/sys/fs/cgroup/*/rutter-test/" + name} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("cgroups are left: %v", left)
		}
	}
}

func certificate(t testing.TB, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600))
	return certFile, keyFile
}

// start runs an agent in this process until the test ends or stop is called.
func (n *node) start() {
	n.t.Helper()
	agent, err := newAgent(n.cfg, n.api.HTTP.URL, os.Stderr)
	require.NoError(n.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx) }()
	n.stop = func() error {
		n.stop = nil
		cancel()
		return <-done
	}
	select {
	case <-agent.Ready():
		n.addr = agent.Addr().String()
	case err := <-done:
		n.stop = nil
		require.NoError(n.t, err)
	case <-time.After(30 * time.Second):
		n.t.Fatal("agent does not become ready")
	}
}

// spawn runs an agent in a process of its own and returns how to kill it.
func (n *node) spawn() (kill func()) {
	n.t.Helper()
	spec, err := json.Marshal(childSpec{n.cfg, n.api.HTTP.URL})
	require.NoError(n.t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(spec))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(n.t, err)
	require.NoError(n.t, cmd.Start())
	n.pid = cmd.Process.Pid
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(n.t, err)
	_, n.addr, _ = strings.Cut(strings.TrimSpace(line), " ")
	var once sync.Once
	kill = func() {
		once.Do(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	n.t.Cleanup(kill)
	return kill
}

// pod returns a pod of one container whose steps are given; see cmd/busy.
func (n *node) pod(name string, steps ...string) *corev1.Pod {
	grace, no := int64(5), false
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "test", UID: types.UID(uuid.NewUUID()), Generation: 1},
		Spec: corev1.PodSpec{
			NodeName: n.cfg.NodeName, RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace,
			EnableServiceLinks: &no, ServiceAccountName: "default", DNSPolicy: corev1.DNSClusterFirst,
			Containers: []corev1.Container{{
				Name: "main", Image: shared.image, Args: steps, ImagePullPolicy: corev1.PullIfNotPresent,
				TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
			}},
		},
	}
}

func path(p *corev1.Pod) string { return "namespaces/" + p.Namespace + "/pods/" + p.Name }

func (n *node) create(p *corev1.Pod) { n.api.Put(path(p), p) }

// await returns the pod when its status satisfies cond.
func (n *node) await(p *corev1.Pod, what string, cond func(*corev1.Pod) bool) *corev1.Pod {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	got := &corev1.Pod{}
	err := n.api.Await(ctx, func() bool {
		got = &corev1.Pod{}
		return n.api.Get(path(p), got) && cond(got)
	})
	if err != nil {
		data, _ := json.MarshalIndent(got.Status, "", " ")
		n.t.Fatalf("pod %s never %s: %s", p.Name, what, data)
	}
	return got
}

func (n *node) awaitGone(p *corev1.Pod) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var got corev1.Pod
	require.NoError(n.t, n.api.Await(ctx, func() bool { return !n.api.Get(path(p), &got) }), "pod %s stays: %+v", p.Name, got.Status)
}

func phase(want corev1.PodPhase) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return p.Status.Phase == want }
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// get asks the node's API.
func (n *node) get(path, token string) (int, string) {
	n.t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodGet, "https://"+n.addr+path, nil)
	require.NoError(n.t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	require.NoError(n.t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(n.t, err)
	return resp.StatusCode, string(body)
}

// logs reads a pod's log through the node's API.
func (n *node) logs(p *corev1.Pod, query string) string {
	n.t.Helper()
	code, body := n.get("/containerLogs/"+p.Namespace+"/"+p.Name+"/main?"+query, "good")
	require.Equal(n.t, http.StatusOK, code, body)
	return body
}
