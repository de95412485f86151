package apiserver_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/rest"

	"github.com/rutter-project/rutter/schemas"
)

// Run with
//
//	go test ./apiserver -run '^$' -bench . -count=10
//
// and compare with benchstat. Requests go over the server's own pipe, so that neither TLS
// nor the network is in the figures; the client only counts bytes.

const (
	benchPods  = 10_000
	benchNodes = 100
)

// cpu measures the processor time of this process: server, etcd and client. Unlike the
// time, it does not depend on who else uses the machine.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func reportCPU(b *testing.B, begun time.Duration, parts int) {
	b.Helper()
	b.ReportMetric(float64((cpu(b)-begun).Microseconds())/float64(b.N*parts), "cpu-us/op")
}

// crowd is a server with many pods of one shape.
var crowd struct {
	once sync.Once
	c    *cluster
	ns   string
	err  error
}

// crowded returns the server of the benchmarks: benchPods pods on benchNodes nodes, in
// one namespace; a hundred different values of the label "app".
func crowded(b *testing.B) (*cluster, string) {
	b.Helper()
	crowd.once.Do(func() {
		c := server(b)
		crowd.c, crowd.ns = c, c.namespace(b)
		crowd.err = fill(b, c, crowd.ns)
	})
	require.NoError(b, crowd.err)
	return crowd.c, crowd.ns
}

// fill copies one pod, made over the API, in etcd.
func fill(b *testing.B, c *cluster, ns string) error {
	b.Helper()
	pod := benchPod("pod-00000", "node-00000")
	made, err := c.client.CoreV1().Pods(ns).Create(b.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	made.Status = benchStatus()
	if _, err = c.client.CoreV1().Pods(ns).UpdateStatus(b.Context(), made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	key := schemas.Key{Resource: "pods", Namespace: ns, Name: "pod-00000"}
	first, err := c.etcd.Get(b.Context(), key.Path())
	if err != nil {
		return err
	}
	const perTxn = 100
	for i := 0; i < benchPods; i += perTxn {
		var ops []clientv3.Op
		for n := i; n < i+perTxn; n++ {
			key.Name = fmt.Sprintf("pod-%05d", n)
			value := strings.NewReplacer("pod-00000", key.Name, "node-00000", fmt.Sprintf("node-%05d", n%benchNodes), "app-00000", fmt.Sprintf("app-%05d", n%100),
				string(made.UID), string(uuid.NewUUID())).Replace(string(first.Kvs[0].Value))
			ops = append(ops, clientv3.OpPut(key.Path(), value))
		}
		if _, err := c.etcd.Txn(b.Context()).Then(ops...).Commit(); err != nil {
			return err
		}
	}
	return nil
}

func benchPod(name, node string) *corev1.Pod {
	container := func(n string) corev1.Container {
		return corev1.Container{Name: n, Image: "registry.example.org/team/app:v1.2.3", Args: []string{"--listen=:8080", "--log=info"},
			Env:       []corev1.EnvVar{{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}, {Name: "MODE", Value: "production"}},
			Ports:     []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")}},
		}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "app-00000", "tier": "web", "pod-template-hash": "6b7c9d4f5c"},
			Annotations:     map[string]string{"example.org/checksum": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "app-00000", UID: "11111111-2222-3333-4444-555555555555"}}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{container("app"), container("proxy")}},
	}
}

func benchStatus() corev1.PodStatus {
	now := metav1.NewTime(time.Now().Add(-time.Hour))
	status := corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.1.2.3", PodIPs: []corev1.PodIP{{IP: "10.1.2.3"}}, HostIP: "192.0.2.7", StartTime: &now}
	for _, kind := range []corev1.PodConditionType{corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	for _, name := range []string{"app", "proxy"} {
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{Name: name, Ready: true, Image: "registry.example.org/team/app:v1.2.3",
			ImageID: "registry.example.org/team/app@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae", ContainerID: "containerd://2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}})
	}
	return status
}

const (
	acceptProto     = "application/vnd.kubernetes.protobuf,application/json"
	acceptTable     = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
	acceptMetadata  = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
	acceptMetaProto = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
	acceptOneMeta   = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
)

// BenchmarkList is one LIST of 10,000 pods in each form, and of some of them.
func BenchmarkList(b *testing.B) {
	c, ns := crowded(b)
	client, err := rest.HTTPClientFor(c.server.Loopback())
	require.NoError(b, err)
	for _, bench := range []struct{ name, accept, query string }{
		{"json", "application/json", ""},
		{"protobuf", acceptProto, ""},
		{"table", acceptTable, ""},
		{"metadata", acceptMetadata, ""},
		{"metadata-protobuf", acceptMetaProto, ""},
		{"label-1-percent", "application/json", "labelSelector=app%3Dapp-00007"},
		{"label-1-percent-protobuf", acceptProto, "labelSelector=app%3Dapp-00007"},
		{"node-1-percent", "application/json", "fieldSelector=spec.nodeName%3Dnode-00007"},
		{"node-1-percent-protobuf", acceptProto, "fieldSelector=spec.nodeName%3Dnode-00007"},
		{"page-of-500", "application/json", "limit=500"},
		{"page-of-500-protobuf", acceptProto, "limit=500"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			url := c.server.Loopback().Host + "/api/v1/namespaces/" + ns + "/pods?" + bench.query
			size, begun := drain(b, client, url, bench.accept), cpu(b)
			for b.Loop() {
				drain(b, client, url, bench.accept)
			}
			reportCPU(b, begun, 1)
			b.SetBytes(size)
		})
	}
}

func drain(b *testing.B, client *http.Client, url, accept string) int64 {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
	require.NoError(b, err)
	req.Header.Set("Accept", accept)
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := client.Do(req)
	require.NoError(b, err)
	defer resp.Body.Close()
	size, err := io.Copy(io.Discard, resp.Body)
	require.NoError(b, err)
	require.Equal(b, http.StatusOK, resp.StatusCode)
	return size
}

// BenchmarkWatchFanOut is one change of a pod told to 1,000 watchers.
func BenchmarkWatchFanOut(b *testing.B) {
	const watchers = 1000
	c := server(b)
	ns := c.namespace(b)
	c.pod(b, ns, "watched", "node-1")
	for _, bench := range []struct{ name, accept, query string }{
		{"json", "application/json", ""},
		{"protobuf", acceptProto, ""},
		{"metadata-protobuf", acceptOneMeta, ""},
		{"table", acceptTable, ""},
		{"node-json", "application/json", "&fieldSelector=spec.nodeName%3Dnode-1"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			ctx, cancel := context.WithCancel(b.Context())
			var all sync.WaitGroup
			defer all.Wait()
			defer cancel()
			got := make(chan struct{}, watchers)
			begun := make(chan struct{}, watchers)
			rev := fmt.Sprint(c.revision(b))
			for range watchers {
				all.Go(func() { countFrames(ctx, c, ns, rev, bench.accept, bench.query, begun, got) })
			}
			for range watchers {
				<-begun
			}
			n, before := 0, cpu(b)
			for b.Loop() {
				n++
				a := c.send(b, "PATCH", "/api/v1/namespaces/"+ns+"/pods/watched", fmt.Sprintf(`{"metadata":{"annotations":{"n":"%s%d"}}}`, mark, n), "Content-Type: application/merge-patch+json")
				require.Equal(b, 200, a.status)
				for range watchers {
					<-got
				}
			}
			reportCPU(b, before, watchers)
		})
	}
}

const mark = "change-number-"

// countFrames watches and tells of each read that holds a change.
func countFrames(ctx context.Context, c *cluster, ns, rev, accept, query string, begun, got chan<- struct{}) {
	client, err := rest.HTTPClientFor(c.server.Loopback())
	if err != nil {
		return
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server.Loopback().Host+"/api/v1/namespaces/"+ns+"/pods?watch=true&resourceVersion="+rev+query, nil)
	if err != nil {
		return
	}
	req.Header.Set("Accept", accept)
	resp, err := client.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	begun <- struct{}{}
	buf := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buf)
		for range bytes.Count(buf[:n], []byte(mark)) {
			got <- struct{}{}
		}
		if err != nil {
			return
		}
	}
}

// BenchmarkWatchList is the first sync of 20 informers at once: the state of all pods as
// a watch.
func BenchmarkWatchList(b *testing.B) {
	const informers = 20
	c, ns := crowded(b)
	client, err := rest.HTTPClientFor(c.server.Loopback())
	require.NoError(b, err)
	for _, bench := range []struct{ name, accept string }{{"json", "application/json"}, {"protobuf", acceptProto}, {"metadata-protobuf", acceptOneMeta}} {
		b.Run(bench.name, func(b *testing.B) {
			begun := cpu(b)
			for b.Loop() {
				var all sync.WaitGroup
				for range informers {
					all.Go(func() {
						url := c.server.Loopback().Host + "/api/v1/namespaces/" + ns + "/pods?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
						untilBookmark(b, client, url, bench.accept)
					})
				}
				all.Wait()
			}
			reportCPU(b, begun, informers)
		})
	}
}

func untilBookmark(b *testing.B, client *http.Client, url, accept string) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		b.Error(err)
		return
	}
	req.Header.Set("Accept", accept)
	resp, err := client.Do(req)
	if err != nil {
		b.Error(err)
		return
	}
	defer resp.Body.Close()
	end := []byte(metav1.InitialEventsAnnotationKey)
	buf := make([]byte, 0, 512<<10)
	for {
		n, err := resp.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if bytes.Contains(buf, end) {
			return
		}
		if err != nil {
			b.Error(err)
			return
		}
		if keep := len(buf) - len(end); keep > 0 {
			buf = buf[:copy(buf, buf[keep:])]
		}
	}
}

// BenchmarkGet reads one pod.
func BenchmarkGet(b *testing.B) {
	c, ns := crowded(b)
	client, err := rest.HTTPClientFor(c.server.Loopback())
	require.NoError(b, err)
	for _, bench := range []struct{ name, accept string }{
		{"json", "application/json"}, {"protobuf", acceptProto}, {"table", acceptTable},
		{"metadata-protobuf", acceptOneMeta},
	} {
		b.Run(bench.name, func(b *testing.B) {
			begun := cpu(b)
			for b.Loop() {
				drain(b, client, c.server.Loopback().Host+"/api/v1/namespaces/"+ns+"/pods/pod-00042", bench.accept)
			}
			reportCPU(b, begun, 1)
		})
	}
}

// BenchmarkCreate makes pods over TLS, many at a time; etcd does not sync.
func BenchmarkCreate(b *testing.B) {
	c := server(b)
	ns := c.namespace(b)
	var next atomic.Int64
	begun := cpu(b)
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			pod := benchPod(fmt.Sprintf("made-%d", next.Add(1)), "node-1")
			if _, err := c.client.CoreV1().Pods(ns).Create(b.Context(), pod, metav1.CreateOptions{}); err != nil {
				b.Error(err)
			}
		}
	})
	reportCPU(b, begun, 1)
}
