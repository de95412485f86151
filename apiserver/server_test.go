package apiserver_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	clientv3 "go.etcd.io/etcd/client/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/apiserver/etcd"
	"github.com/rutter-project/rutter/apiserver/pki"
)

func startEtcd(t testing.TB) *clientv3.Client {
	t.Helper()
	e, err := etcd.Start(t.Context(), etcd.Config{Dir: t.TempDir(), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e.Client()
}

// cluster is a running API server and an administrator's access to it.
type cluster struct {
	server *apiserver.Server
	etcd   *clientv3.Client
	config *rest.Config
	client *kubernetes.Clientset
}

func start(t testing.TB) cluster {
	t.Helper()
	store := startEtcd(t)
	dir := t.TempDir()
	ca, err := pki.Load(filepath.Join(dir, "pki"), "test")
	if err != nil {
		t.Fatal(err)
	}
	cfg := apiserver.DefaultConfig()
	cfg.Listen, cfg.Advertise = "127.0.0.1:0", netip.MustParseAddr("192.0.2.1")
	cfg.SealFile = filepath.Join(dir, "seal.key")
	cfg.Etcd, cfg.PKI, cfg.Log = store, ca, zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.InfoLevel)
	s, err := apiserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case err := <-done:
		done <- err
		t.Fatalf("server ended before it was ready: %v", err)
	case <-time.After(2 * time.Minute):
		t.Fatal("server not ready after 2 minutes")
	}
	admin, err := ca.Issue(pki.Leaf{Name: "admin", CommonName: "admin", Organizations: []string{"system:masters"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	config := &rest.Config{Host: "https://" + s.Address().String(), QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: ca.CAFile(), CertFile: admin.CertFile, KeyFile: admin.KeyFile}}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return cluster{server: s, etcd: store, config: config, client: client}
}

func TestServesKubernetes(t *testing.T) {
	begin := time.Now()
	c := start(t)
	t.Logf("ready after %s", time.Since(begin))
	ctx := t.Context()
	if err := os.WriteFile("/tmp/lead/kc", []byte(fmt.Sprintf("%s %s %s %s", c.config.Host, c.config.CAFile, c.config.CertFile, c.config.KeyFile)), 0o600); err != nil {
		t.Log(err)
	}
	one := int32(1)
	_, err := c.client.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d := os.Getenv("HOLD"); d != "" {
		dur, _ := time.ParseDuration(d)
		time.Sleep(dur)
	}
}
