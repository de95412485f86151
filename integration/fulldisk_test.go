package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rutter-project/rutter/integration/cluster"
)

// written is what a write left: the revision, and what can be read there.
type written struct{ rev, soup string }

// TestPastOnAFullDisk fills the disk under the streams and asks for instants, of before and
// of then: an answer is right or says that it can't be given, and once there is space again
// every instant answers, nothing is lost and nothing is wrong.
func TestPastOnAFullDisk(t *testing.T) {
	c := &pastCluster{Cluster: cluster.New(t, "--api-only"), t: t, dir: t.TempDir()}
	disk := newDisk(t, filepath.Join(c.Dir, "bus"))
	c.Start()
	c.Kubectl("create", "configmap", "menu", "--from-literal=soup=leek")
	log := []written{c.serve("pea", 0), c.serve("bean", 0)}
	c.settled()

	disk.fill()
	for i := range 30 { // more than is free, while the disk takes less and less
		log = append(log, c.serve(fmt.Sprint("soup-", i), 100<<10))
	}
	c.fullDisk()
	refused := 0
	for _, w := range []written{log[0], log[1], log[2], log[15], log[len(log)-1]} {
		refused += c.check(w, true)
	}
	if refused == 0 {
		t.Error("the stream was full and yet every instant was answered")
	}
	want(t, c.Kubectl("get", "configmap", "menu", "-o", "jsonpath={.data.soup}"), "soup-29")

	disk.free()
	c.settled()
	for _, w := range log {
		c.check(w, false)
	}
	c.sound()
	c.Kill()
	c.Start()
	for _, w := range log {
		c.check(w, false)
	}
	c.sound()
}

// disk is a small file system that can be filled.
type disk struct {
	t    *testing.T
	path string
}

const diskSize = 1 << 30

func newDisk(t *testing.T, path string) disk {
	t.Helper()
	d := disk{t, path}
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, fmt.Sprint("mode=700,size=", diskSize)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

// fill leaves little free, by making the disk smaller.
func (d disk) fill() {
	d.t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.path, &s); err != nil {
		d.t.Fatal(err)
	}
	d.resize((s.Blocks-s.Bfree)*uint64(s.Bsize) + 1<<20)
}

func (d disk) free() { d.resize(diskSize) }

func (d disk) resize(bytes uint64) {
	d.t.Helper()
	if err := syscall.Mount("tmpfs", d.path, "tmpfs", syscall.MS_REMOUNT, fmt.Sprint("size=", bytes)); err != nil {
		d.t.Fatal(err)
	}
}

// serve changes the menu, which then weighs so many bytes.
func (c *pastCluster) serve(soup string, weight int) written {
	c.t.Helper()
	object, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "menu"},
		"data": map[string]string{"soup": soup, "weight": strings.Repeat("x", weight)}})
	if err != nil {
		c.t.Fatal(err)
	}
	rev, err := c.TryKubectl(string(object), "replace", "-f", "-", "-o", "jsonpath={.metadata.resourceVersion}")
	if err != nil {
		c.t.Fatalf("a write is refused: %v\n%s", err, rev)
	}
	return written{rev, soup}
}

// check asks for an instant. While the disk is full the answer may be a refusal, which it
// counts; a wrong answer never is one.
func (c *pastCluster) check(w written, mayRefuse bool) (refused int) {
	c.t.Helper()
	out, err := c.TryKubectl("", "get", "--raw", "/at/rev-"+w.rev+"/api/v1/namespaces/default/configmaps/menu")
	if err != nil {
		if !mayRefuse || (!strings.Contains(out, "(ServiceUnavailable)") && !strings.Contains(out, "(Expired)")) {
			c.t.Errorf("rev-%s: %v\n%s", w.rev, err, out)
		}
		return 1
	}
	var object struct {
		Metadata struct{ ResourceVersion string }
		Data     map[string]string
	}
	if err := json.Unmarshal([]byte(out), &object); err != nil {
		c.t.Errorf("rev-%s: %v\n%s", w.rev, err, out)
	}
	if object.Data["soup"] != w.soup || object.Metadata.ResourceVersion != w.rev {
		c.t.Errorf("rev-%s is answered with %s of revision %s, was %s", w.rev, object.Data["soup"], object.Metadata.ResourceVersion, w.soup)
	}
	return 0
}

// diskPatience is how long the log may take to notice a full disk, or to catch up.
const diskPatience = 3 * time.Minute

// settled waits until the stream has everything.
func (c *pastCluster) settled() {
	c.t.Helper()
	c.until("relay", "ok")
}

// fullDisk waits until `rutter status` says that the stream is behind.
func (c *pastCluster) fullDisk() {
	c.t.Helper()
	c.until("relay", "failed")
}

// until waits for what `rutter status` says of a part.
func (c *pastCluster) until(part, state string) {
	c.t.Helper()
	for deadline := time.Now().Add(diskPatience); ; {
		out, _ := c.RutterBus("status", "--kubeconfig", c.Kubeconfig(), "-o", "json") // its exit code says the same
		var status struct {
			Parts []struct{ Check, State string }
		}
		if err := json.Unmarshal([]byte(out), &status); err != nil {
			c.t.Fatalf("status: %v\n%s", err, out)
		}
		for _, p := range status.Parts {
			if p.Check == part && p.State == state {
				return
			}
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s is not %s after %s:\n%s", part, state, diskPatience, out)
		}
	}
}

// sound checks that the log has all there was, once.
func (c *pastCluster) sound() {
	c.t.Helper()
	out, err := c.RutterBus("verify")
	if err != nil || !strings.Contains(out, "0 missing, 0 doubled, 0 out of order, 0 different, 0 unknown.") {
		c.t.Errorf("verify: %v\n%s", err, out)
	}
	want(c.t, c.operator(0, "history", "status"), "Gaps       none")
}
