package integration

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rutter-project/rutter/integration/cluster"
)

func itoa(i int) string { return strconv.Itoa(i) }

// TestBadManifest: each wrong manifest is refused with a message that names the field.
func TestBadManifest(t *testing.T) {
	c := cluster.New(t, "--no-node")
	c.Start()
	pod := func(spec string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  " + spec
	}
	for name, test := range map[string]struct{ manifest, want string }{
		"unknown field": {pod("containers: [{name: c, image: i, imagePullPolice: Always}]"), `unknown field "spec.containers[0].imagePullPolice"`},
		"wrong type":    {pod("containers: [{name: c, image: i}]\n  hostNetwork: \"yes\""), "hostNetwork"},
		"name too long": {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + strings.Repeat("a", 254) + "}", "must be no more than 253"},
		"no image":      {pod("containers: [{name: c}]"), "spec.containers[0].image"},
		"bad selector":  {"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: i}]}}}", "selector"},
		"not yaml":      {"{]", "error parsing STDIN"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := c.TryKubectl(test.manifest, "apply", "-f", "-")
			if err == nil || !strings.Contains(strings.ToLower(out), strings.ToLower(test.want)) {
				t.Errorf("err %v, want a message with %q:\n%s", err, test.want, out)
			}
		})
	}
	verify(t, c)
}

// TestPodsThatCannotRun: each says what is wrong, and nothing else suffers.
func TestPodsThatCannotRun(t *testing.T) {
	c := cluster.New(t)
	c.Start()
	c.Kubectl("run", "lost", "--image="+image+"-nowhere:v9", "--restart=Never")
	c.Kubectl("wait", "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff", "pod/lost", "--timeout=60s")
	if out := c.Kubectl("describe", "pod", "lost"); !strings.Contains(out, "nowhere:v9") || !strings.Contains(out, "Failed") {
		t.Errorf("describe does not tell:\n%s", out)
	}
	c.Apply(fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: ported}\nspec: {containers: [{name: c, image: %s:v1, args: [wait], ports: [{containerPort: 80, hostPort: 8099}]}]}", image))
	c.Kubectl("wait", "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}", "pod/ported", "--timeout=60s")
	if out := c.Kubectl("get", "pod", "ported", "-o", "jsonpath={.status.containerStatuses[0].state.waiting.message}"); !strings.Contains(out, "hostPort 8099") {
		t.Errorf("a host port that nobody serves is not refused: %q", out)
	}
	c.Kubectl("run", "found", "--image="+image+":v1", "--restart=Never", "--", "wait")
	c.Kubectl("wait", "--for=condition=Ready", "pod/found", "--timeout=30s")
}

// TestUpRefuses: one clear line, an exit code, and nothing left behind.
func TestUpRefuses(t *testing.T) {
	path := os.Getenv("PATH")
	c := cluster.New(t)
	taken, err := net.Listen("tcp", fmt.Sprintf(":%d", c.API))
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.Rutter(c.UpArgs()...)
	taken.Close()
	if exitCode(err) != 2 || !strings.Contains(out, fmt.Sprintf("port %d", c.API)) || !strings.Contains(out, "--api-port") {
		t.Errorf("port taken: %v\n%s", err, out)
	}
	if out, err := c.RutterAs(65534, c.UpArgs()...); err == nil || !strings.Contains(out, "not root (uid 65534)") {
		t.Errorf("not root: %v\n%s", err, out)
	}
	t.Setenv("PATH", t.TempDir())
	if out, err := c.TryRutter(c.UpArgs()...); err == nil || !strings.Contains(out, "containerd is not installed") {
		t.Errorf("no containerd: %v\n%s", err, out)
	}
	t.Setenv("PATH", path)
	if out, err := c.Rutter("verify"); err == nil || !strings.Contains(out, "no cluster runs on") {
		t.Errorf("verify without a cluster: %v\n%s", err, out)
	}
	for _, dir := range []string{c.Dir, c.Run} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left behind", dir)
		}
	}
	for flag, value := range map[string]string{"--node-name": "Not_A_Name", "--address": "not-an-ip", "--data-dir": "relative"} {
		out, err := c.TryRutter(append(c.UpArgs(), flag, value)...)
		if err == nil || !strings.Contains(out, value) {
			t.Errorf("%s %s: %v\n%s", flag, value, err, out)
		}
	}
	c.Start()
	out, err = c.Rutter(c.UpArgs()...)
	if err == nil || !strings.Contains(out, "another rutter runs on") {
		t.Errorf("second up on the same directory: %v\n%s", err, out)
	}
}

// TestIdleIsQuiet: nothing polls. Over 30 idle seconds the API sees heartbeats only,
// and etcd is not read.
func TestIdleIsQuiet(t *testing.T) {
	c := cluster.New(t)
	c.Start()
	settle := time.After(5 * time.Second) // start-up writes events with a delay
	<-settle
	before := counters(c)
	<-time.After(30 * time.Second)
	after := counters(c)
	for name, n := range after {
		delta := n - before[name]
		if delta <= 0 || strings.Contains(name, `resource="leases"`) || strings.Contains(name, `verb="WATCH"`) {
			continue
		}
		switch {
		case strings.HasPrefix(name, "apiserver_request_total") && !strings.Contains(name, `resource=""`):
			t.Errorf("%v idle requests: %s", delta, name)
		case strings.HasPrefix(name, "etcd_debugging_mvcc_range_total") && delta > 20:
			t.Errorf("%v reads of etcd while idle", delta)
		}
	}
}

// counters reads the API server's metrics.
func counters(c *cluster.Cluster) map[string]float64 {
	m := map[string]float64{}
	for _, line := range strings.Split(c.Kubectl("get", "--raw", "/metrics"), "\n") {
		name, value, ok := strings.Cut(line, "} ")
		if !ok {
			name, value, ok = strings.Cut(line, " ")
		}
		if f, err := strconv.ParseFloat(value, 64); ok && err == nil && !strings.HasPrefix(line, "#") {
			m[name] = f
		}
	}
	return m
}
