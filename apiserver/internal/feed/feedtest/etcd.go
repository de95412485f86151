// Package feedtest runs etcd inside a test and writes to it the way the API
// server's store does.
package feedtest

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/rutter-project/rutter/schemas"
)

const startTimeout = 30 * time.Second

// Etcd is one etcd server that lives as long as the test.
type Etcd struct {
	Client *clientv3.Client

	dir    string
	addr   url.URL
	server *embed.Etcd
}

// Start starts etcd on a free port of the loopback interface.
func Start(t testing.TB) *Etcd {
	t.Helper()
	e := &Etcd{dir: t.TempDir(), addr: url.URL{Scheme: "http", Host: "127.0.0.1:0"}}
	e.start(t)
	e.addr.Host = e.server.Clients[0].Addr().String()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{e.addr.Host}, DialTimeout: startTimeout})
	if err != nil {
		t.Fatal(err)
	}
	e.Client = client
	t.Cleanup(func() {
		_ = client.Close()
		e.server.Close()
	})
	return e
}

func (e *Etcd) start(t testing.TB) {
	t.Helper()
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg := embed.NewConfig()
	cfg.Dir = e.dir
	cfg.LogLevel = "fatal" // stopping is loud otherwise
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{e.addr}, []url.URL{e.addr}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.UnsafeNoFsync = true
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(startTimeout):
		t.Fatal("etcd did not start")
	}
	e.server = server
}

// InProcess is a client that calls the server without a network, as the API
// server with an embedded etcd does.
func (e *Etcd) InProcess(t testing.TB) *clientv3.Client {
	t.Helper()
	client := v3client.New(e.server.Server)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// Restart stops etcd and starts it again on the same address and data.
func (e *Etcd) Restart(t testing.TB) {
	t.Helper()
	e.server.Close()
	e.start(t)
}

// Put writes one object and returns its revision.
func (e *Etcd) Put(ctx context.Context, t testing.TB, key schemas.Key, object string) int64 {
	t.Helper()
	return e.Txn(ctx, t, PutOp(t, key, object))
}

// Delete removes one object and returns the revision.
func (e *Etcd) Delete(ctx context.Context, t testing.TB, key schemas.Key) int64 {
	t.Helper()
	return e.Txn(ctx, t, DeleteOps(t, key)...)
}

// Txn commits operations at one revision, which it returns.
func (e *Etcd) Txn(ctx context.Context, t testing.TB, ops ...clientv3.Op) int64 {
	t.Helper()
	resp, err := e.Client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.Revision
}

// Compact makes etcd forget everything before rev.
func (e *Etcd) Compact(ctx context.Context, t testing.TB, rev int64) {
	t.Helper()
	if _, err := e.Client.Compact(ctx, rev, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
}

// Header is the header that the writes of this package carry.
func Header(verb string) schemas.Header {
	return schemas.Header{
		V: schemas.HeaderVersion, Time: time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC), Verb: verb, User: "jane",
	}
}

// PutOp writes one object.
func PutOp(t testing.TB, key schemas.Key, object string) clientv3.Op {
	t.Helper()
	value, err := schemas.EncodeValue(Header("update"), []byte(object))
	if err != nil {
		t.Fatal(err)
	}
	return clientv3.OpPut(key.Path(), string(value))
}

// DeleteOps removes objects and says why, as the store does.
func DeleteOps(t testing.TB, keys ...schemas.Key) []clientv3.Op {
	t.Helper()
	line, err := Header("delete").Encode()
	if err != nil {
		t.Fatal(err)
	}
	ops := []clientv3.Op{clientv3.OpPut(schemas.CausePrefix+"test", string(line))}
	for _, key := range keys {
		ops = append(ops, clientv3.OpDelete(key.Path()))
	}
	return ops
}

// Pod is a small stored pod, bound to node unless that is empty.
func Pod(name, node string, generation int) string {
	var b strings.Builder
	b.WriteString(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"` + name + `","namespace":"default","generation":`)
	b.WriteString(strings.Repeat("1", max(1, generation%8)))
	b.WriteString(`},"spec":{`)
	if node != "" {
		b.WriteString(`"nodeName":"` + node + `"`)
	}
	b.WriteString(`}}`)
	return b.String()
}

// PodKey names a pod in the namespace "default".
func PodKey(name string) schemas.Key {
	return schemas.Key{Resource: "pods", Namespace: "default", Name: name}
}
