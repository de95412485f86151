package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/rutter-project/rutter/integration/cluster"
)

// The size of BenchmarkSubscribers. In full:
//
//	go test ./integration -run '^$' -bench Subscribers -benchtime 1x -args -subscribers 10000 -connections 20
var (
	subscribers = flag.Int("subscribers", 100, "that all get every change")
	connections = flag.Int("connections", 10, "that the subscribers share; HTTP makes more if it has to")
	changes     = flag.Int("changes", 50, "to publish")
	perSecond   = flag.Int("rate", 50, "changes in a second")
	profiles    = flag.String("profiles", "", "a folder for profiles of the server's processor time, one for each kind of subscriber")
)

// maxStreams of one HTTP/2 connection, a little below what Go's server allows.
const maxStreams = 200

// fanout is one cluster and what a subscriber of any kind needs to reach it.
type fanout struct {
	c      *cluster.Cluster
	config *rest.Config
	client *kubernetes.Clientset
	seen   chan time.Duration // from the writer's clock before the write to receipt
}

// BenchmarkSubscribers is one object's changes, told to many: over the bus' live subjects,
// by JetStream push consumers, by watches on etcd, and by watches over HTTP. All four are
// served by one process, whose CPU and memory are measured; the subscribers are in
// another, on the same machine. Latency is from before the write.
func BenchmarkSubscribers(b *testing.B) {
	c := cluster.New(b, "--no-node")
	c.Start()
	if out, err := c.RutterBus("verify"); err != nil { // issues the operator's certificate
		b.Fatalf("verify: %v\n%s", err, out)
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	check(b, err)
	config.QPS = -1
	f := &fanout{c: c, config: config, client: kubernetes.NewForConfigOrDie(config)}
	_, err = f.client.CoreV1().ConfigMaps("default").Create(b.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "fanout"}, Data: map[string]string{"pad": fmt.Sprintf("%01000d", 0)},
	}, metav1.CreateOptions{})
	check(b, err)
	for _, kind := range []struct {
		name  string
		start func(*fanout, testing.TB, context.Context)
	}{{"live", (*fanout).live}, {"push", (*fanout).push}, {"etcd", (*fanout).etcd}, {"http", (*fanout).http}} {
		b.Run(kind.name, func(b *testing.B) { f.measure(b, kind.start) })
	}
}

func check(b testing.TB, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (f *fanout) measure(b *testing.B, start func(*fanout, testing.TB, context.Context)) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	pid := f.c.PID()
	idle := rss(b, pid)
	f.seen = make(chan time.Duration, 1<<20)
	start(f, b, ctx)
	profiled := f.profile(b)
	var took []time.Duration
	before, written := cpu(b, pid), 0
	for b.Loop() {
		ticker := time.NewTicker(time.Second / time.Duration(*perSecond))
		for range *changes {
			<-ticker.C
			f.change(b)
			written++
		}
		ticker.Stop()
		for len(took) < written**subscribers {
			select {
			case d := <-f.seen:
				took = append(took, d)
			case <-time.After(time.Minute):
				b.Fatalf("%d of %d deliveries came", len(took), written**subscribers)
			}
		}
	}
	used := cpu(b, pid) - before
	profiled()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(quantile(took, 0.5).Seconds()*1000, "p50-ms")
	b.ReportMetric(quantile(took, 0.99).Seconds()*1000, "p99-ms")
	b.ReportMetric(float64(len(took))/used.Seconds(), "deliveries/CPU-s")
	b.ReportMetric(rss(b, pid)-idle, "RSS-MB")
}

// profile notes what the server uses its processor for, if that is wanted. What it returns
// waits until that is written.
func (f *fanout) profile(b *testing.B) func() {
	if *profiles == "" {
		return func() {}
	}
	seconds := max(*changes / *perSecond, 1)
	done := make(chan error, 1)
	go func() {
		text, err := f.client.RESTClient().Get().AbsPath("/debug/pprof/profile").Param("seconds", strconv.Itoa(seconds)).DoRaw(b.Context())
		if err == nil {
			err = os.WriteFile(filepath.Join(*profiles, filepath.Base(b.Name())+".pprof"), text, 0o600)
		}
		done <- err
	}()
	return func() { check(b, <-done) }
}

// change writes the time into the object.
func (f *fanout) change(b testing.TB) {
	b.Helper()
	patch := fmt.Sprintf(`{"data":{"sent":"%d"}}`, time.Now().UnixNano())
	_, err := f.client.CoreV1().ConfigMaps("default").Patch(b.Context(), "fanout", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	check(b, err)
}

// got takes one delivery. What tells of no change of the benchmark is ignored.
func (f *fanout) got(object []byte) {
	_, rest, ok := bytes.Cut(object, []byte(`"sent":"`))
	if !ok {
		return
	}
	text, _, _ := bytes.Cut(rest, []byte(`"`))
	if nanos, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		f.seen <- time.Since(time.Unix(0, nanos))
	}
}

const fanoutSubject = "h._.configmaps.default.fanout"

// connect makes one connection to the bus as the operator.
func (f *fanout) connect(b testing.TB) *nats.Conn {
	b.Helper()
	file := func(name string) string { return filepath.Join(f.c.Dir, "pki", name) }
	pair, err := tls.LoadX509KeyPair(file("operator.crt"), file("operator.key"))
	check(b, err)
	ca, err := os.ReadFile(file("ca.crt"))
	check(b, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	nc, err := nats.Connect(fmt.Sprintf("tls://127.0.0.1:%d", f.c.Bus), nats.Secure(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}))
	check(b, err)
	return nc
}

func (f *fanout) live(b testing.TB, ctx context.Context) {
	for i := range *connections {
		nc := f.connect(b)
		context.AfterFunc(ctx, nc.Close)
		for range share(i) {
			_, err := nc.Subscribe("live."+fanoutSubject, func(m *nats.Msg) { f.got(m.Data) })
			check(b, err)
		}
		check(b, nc.Flush())
	}
}

// share is how many subscribers the i-th connection has.
func share(i int) int {
	n := *subscribers / *connections
	if i < *subscribers%*connections {
		n++
	}
	return n
}

func (f *fanout) push(b testing.TB, ctx context.Context) {
	for i := range *connections {
		nc := f.connect(b)
		context.AfterFunc(ctx, nc.Close)
		js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(time.Minute))
		check(b, err)
		for range share(i) {
			inbox := nc.NewInbox()
			_, err := nc.Subscribe(inbox, func(m *nats.Msg) { f.got(m.Data) })
			check(b, err)
			// Not STATE: it keeps the last change only, so that a slow consumer skips some.
			_, err = js.CreatePushConsumer(ctx, "HISTORY", jetstream.ConsumerConfig{
				Name: "bench-" + nuid.Next(), DeliverSubject: inbox, FilterSubject: fanoutSubject, DeliverPolicy: jetstream.DeliverNewPolicy,
				AckPolicy: jetstream.AckNonePolicy, MaxDeliver: 1, MemoryStorage: true, InactiveThreshold: time.Minute,
			})
			check(b, err)
		}
	}
}

func (f *fanout) etcd(b testing.TB, ctx context.Context) {
	for i := range *connections {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + filepath.Join(f.c.Dir, "etcd", "client.sock") + ":0"}, Logger: zap.NewNop()})
		check(b, err)
		context.AfterFunc(ctx, func() { _ = client.Close() })
		for range share(i) {
			watch := client.Watch(ctx, "/rutter/registry/core/configmaps/default/fanout", clientv3.WithCreatedNotify())
			if created := <-watch; created.Err() != nil || !created.Created {
				b.Fatalf("watch of etcd: %v", created.Err())
			}
			go func() {
				for resp := range watch {
					for _, e := range resp.Events {
						f.got(e.Kv.Value)
					}
				}
			}()
		}
	}
}

func (f *fanout) http(b testing.TB, ctx context.Context) {
	now, err := f.client.CoreV1().ConfigMaps("default").Get(ctx, "fanout", metav1.GetOptions{})
	check(b, err)
	url := f.config.Host + "/api/v1/namespaces/default/configmaps?watch=1&fieldSelector=metadata.name%3Dfanout&resourceVersion=" + now.ResourceVersion
	var client *http.Client
	for i := range *subscribers {
		if i%min(maxStreams, max(*subscribers / *connections, 1)) == 0 {
			tlsConfig, err := rest.TLSConfigFor(f.config)
			check(b, err)
			client = &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true}}
			context.AfterFunc(ctx, client.CloseIdleConnections)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		check(b, err)
		resp, err := client.Do(req)
		check(b, err)
		if resp.StatusCode != http.StatusOK {
			b.Fatalf("watch: %s", resp.Status)
		}
		go func() {
			defer resp.Body.Close()
			lines := bufio.NewReaderSize(resp.Body, 8<<10)
			for {
				line, err := lines.ReadBytes('\n')
				if err != nil {
					if ctx.Err() == nil {
						b.Errorf("watch ended: %v", errors.Join(err, ctx.Err()))
					}
					return
				}
				f.got(line)
			}
		}()
	}
}
