package integration

import (
	"os"
	"path/filepath"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/rutter-project/rutter/integration/cluster"
)

// TestLostStream deletes all streams of a stopped cluster. While etcd still has its
// revisions the relay tells them all again; when etcd has forgotten them too, the gap is
// named, what etcd has stays, and everything from then on has a past again.
func TestLostStream(t *testing.T) {
	c := &pastCluster{Cluster: cluster.New(t, "--no-node"), t: t, dir: t.TempDir()}
	c.Start()
	c.Kubectl("create", "configmap", "kept", "--from-literal=soup=leek")
	c.Kubectl("create", "configmap", "gone", "--from-literal=soup=pea")
	lived := c.revision()
	c.Kubectl("delete", "configmap", "gone")

	loseStreams(t, c)
	want(t, c.must(lived, "get", "configmap", "gone", "-o", "jsonpath={.data.soup}"), "pea")
	want(t, c.operator(0, "history", "status"), "Oldest     rev-2 ", "Gaps       none")

	compact(t, c)
	loseStreams(t, c)
	want(t, c.Kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.soup}"), "leek")
	out, err := c.at(lived, "get", "configmap", "gone")
	if err == nil {
		t.Errorf("an instant that was lost answers:\n%s", out)
	}
	want(t, out, "the oldest instant held is rev-")
	c.Kubectl("create", "configmap", "new", "--from-literal=soup=bean")
	c.Kubectl("patch", "configmap", "kept", "-p", `{"data":{"soup":"tomato"}}`)
	now := c.revision()
	c.Kubectl("delete", "configmap", "new", "kept")
	want(t, c.must(now, "get", "configmap", "kept", "new", "-o", "jsonpath={.items[*].data.soup}"), "tomato bean")
	out, err = c.RutterBus("verify")
	if err != nil {
		t.Errorf("verify after the loss: %v", err)
	}
	want(t, out, "0 missing, 0 doubled, 0 out of order, 0 different", "Named gap: ")
	want(t, c.operator(1, "history", "status"), "Gap        behind rev-0 ", "etcd has compacted the revisions")
}

// loseStreams kills the cluster, deletes all that JetStream had, and starts it again.
func loseStreams(t *testing.T, c *pastCluster) {
	t.Helper()
	c.Kill()
	if err := os.RemoveAll(filepath.Join(c.Dir, "bus")); err != nil {
		t.Fatal(err)
	}
	c.Start()
}

// compact lets etcd forget all revisions but the present one.
func compact(t *testing.T, c *pastCluster) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + filepath.Join(c.Dir, "etcd", "client.sock") + ":0"}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	now, err := client.Get(t.Context(), "x")
	if err == nil {
		_, err = client.Compact(t.Context(), now.Header.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
}
