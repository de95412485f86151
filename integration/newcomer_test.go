package integration

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rutter-project/rutter/integration/cluster"
)

// web is the application of the walk-through: three replicas behind a Service, with a
// ConfigMap and a Secret as environment and as files.
func web() string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: cfg, namespace: shop}
data: {greeting: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: sec, namespace: shop}
stringData: {password: CANARY-7c1e}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        image: %s:v1
        args: ["echo=started", "serve=8080", "wait"]
        env:
        - {name: GREETING, valueFrom: {configMapKeyRef: {name: cfg, key: greeting}}}
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: sec, key: password}}}
        volumeMounts: [{name: cfg, mountPath: /cfg}, {name: sec, mountPath: /sec}]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
      volumes:
      - {name: cfg, configMap: {name: cfg}}
      - {name: sec, secret: {secretName: sec}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`, image)
}

// TestNewcomer walks the way of somebody who has just cloned Rutter.
func TestNewcomer(t *testing.T) {
	c := cluster.New(t)
	c.Start()
	for _, step := range []struct {
		name string
		run  func(*testing.T, *cluster.Cluster)
	}{
		{"what up leaves", upLeaves},
		{"deploy", deploy},
		{"look around", lookAround},
		{"into the pods", intoPods},
		{"service", service},
		{"change it", change},
		{"the stream", stream},
		{"secrets stay secret", secrets},
		{"delete", remove},
		{"stop and go on", stopAndGoOn},
		{"purge", purge},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, c) }) {
			t.FailNow()
		}
	}
}

func upLeaves(t *testing.T, c *cluster.Cluster) {
	info, err := os.Stat(c.Kubeconfig())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig: %v, mode %v, want 0600", err, info.Mode())
	}
	if info, err := os.Stat(c.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data directory: %v, mode %v, want 0700", err, info.Mode())
	}
	if out := c.Kubectl("get", "nodes"); !regexp.MustCompile(c.Node + `\s+Ready`).MatchString(out) {
		t.Errorf("node is not Ready:\n%s", out)
	}
	for _, step := range []string{"certificates", "etcd", "NATS", "API server", "Ready", "export KUBECONFIG=" + c.Kubeconfig()} {
		if !strings.Contains(c.Output(), step) {
			t.Errorf("up does not print %q:\n%s", step, c.Output())
		}
	}
}

func deploy(t *testing.T, c *cluster.Cluster) {
	stop := c.Tap("-n", "shop")
	c.Apply(web())
	c.Kubectl("-n", "shop", "rollout", "status", "deploy/web", "--timeout=60s")
	c.Kubectl("-n", "shop", "wait", "--for=condition=Available", "deploy/web", "--timeout=30s")
	tapped := stop()
	for _, want := range []string{"deployments.apps/web", "replicasets.apps/web-", "pods/web-", "services/web", "admin", "deployment-controller", "rutter:scheduler", "system:node:" + c.Node} {
		if !strings.Contains(tapped, want) {
			t.Errorf("tap does not show %q:\n%s", want, tapped)
		}
	}
}

func lookAround(t *testing.T, c *cluster.Cluster) {
	for _, look := range []struct {
		want string
		args []string
	}{
		{"10.244.", []string{"-n", "shop", "get", "pods", "-o", "wide"}},
		{"kind: Deployment", []string{"-n", "shop", "get", "deploy", "web", "-o", "yaml"}},
		{`"readyReplicas": 3`, []string{"-n", "shop", "get", "deploy", "web", "-o", "json"}},
		{"Successfully assigned", []string{"-n", "shop", "describe", "pod", anyPod(c)}},
		{"RollingUpdate", []string{"-n", "shop", "describe", "deploy", "web"}},
		{"FIELD: strategy", []string{"explain", "deployment.spec.strategy"}},
		{"deployments", []string{"api-resources", "--api-group=apps"}},
		{"apps/v1", []string{"api-versions"}},
		{"yes", []string{"auth", "can-i", "create", "pods"}},
		{"admin", []string{"auth", "whoami"}},
		{"web", []string{"-n", "shop", "get", "endpoints"}},
		{"kubernetes", []string{"get", "endpointslices"}},
		{"kube-root-ca.crt", []string{"-n", "shop", "get", "cm"}},
		{"serverside-applied", nil},
	} {
		if look.args == nil {
			out, err := c.TryKubectl(web(), "apply", "--server-side", "--force-conflicts", "-f", "-")
			if err != nil || !strings.Contains(out, look.want) {
				t.Errorf("server-side apply: %v\n%s", err, out)
			}
			continue
		}
		if out := c.Kubectl(look.args...); !strings.Contains(out, look.want) {
			t.Errorf("kubectl %s does not show %q:\n%s", strings.Join(look.args, " "), look.want, out)
		}
	}
	c.Kubectl("-n", "shop", "create", "rolebinding", "viewers", "--clusterrole=view", "--user=eve")
	if out := c.Kubectl("-n", "shop", "auth", "can-i", "list", "pods", "--as=eve"); !strings.HasPrefix(out, "yes") {
		t.Errorf("the role view grants nothing: %s", out)
	}
	if out, err := c.TryKubectl("", "-n", "shop", "auth", "can-i", "delete", "pods", "--as=eve"); err == nil {
		t.Errorf("the role view lets delete: %s", out)
	}
	changed := strings.Replace(web(), "replicas: 3", "replicas: 4", 1)
	out, err := c.TryKubectl(changed, "diff", "-f", "-")
	if exitCode(err) != 1 || !strings.Contains(out, "+  replicas: 4") {
		t.Errorf("kubectl diff: %v\n%s", err, out)
	}
}

func intoPods(t *testing.T, c *cluster.Cluster) {
	pod := anyPod(c)
	if out := c.Kubectl("-n", "shop", "logs", pod); !strings.Contains(out, "started") {
		t.Errorf("logs: %q", out)
	}
	out := c.Kubectl("-n", "shop", "exec", pod, "--", "/busy", "env", "cat=/cfg/greeting", "cat=/sec/password")
	for _, want := range []string{"GREETING=hello", "PASSWORD=CANARY-7c1e", "KUBERNETES_SERVICE_HOST=10.96.0.1"} {
		if !strings.Contains(out, want) {
			t.Errorf("exec does not show %q:\n%s", want, out)
		}
	}
	out, err := c.TryKubectl("typed in", "-n", "shop", "exec", "-i", pod, "--", "/busy", "stdin")
	if err != nil || !strings.Contains(out, "typed in") {
		t.Errorf("exec -i: %v %q", err, out)
	}
	if _, err := c.TryKubectl("", "-n", "shop", "exec", pod, "--", "/busy", "exit=7"); exitCode(err) != 7 {
		t.Errorf("exec does not pass on the exit code: %v", err)
	}
	if out := c.Terminal("-n", "shop", "exec", "-it", pod, "--", "/busy", "echo=on a terminal"); !strings.Contains(out, "on a terminal") {
		t.Errorf("exec -it: %q", out)
	}
	forward(t, c, pod)
	follow(t, c)
}

// exitCode is the code a command ended with, 0 if it did not fail by itself.
func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// forward reaches a pod through kubectl port-forward.
func forward(t *testing.T, c *cluster.Cluster, pod string) {
	_, out := c.Background("-n", "shop", "port-forward", pod, ":8080")
	line := make([]byte, 256)
	n, err := out.Read(line)
	found := regexp.MustCompile(`127\.0\.0\.1:(\d+)`).FindStringSubmatch(string(line[:n]))
	if err != nil || found == nil {
		t.Fatalf("port-forward: %v %q", err, line[:n])
	}
	resp, err := http.Get("http://" + net.JoinHostPort("127.0.0.1", found[1]) + "/")
	if err != nil {
		t.Fatalf("through port-forward: %v", err)
	}
	resp.Body.Close()
}

// follow reads a log as it is written.
func follow(t *testing.T, c *cluster.Cluster) {
	c.Kubectl("-n", "shop", "run", "ticker", "--image="+image+":v1", "--restart=Never", "--", "tick=100ms")
	c.Kubectl("-n", "shop", "wait", "--for=condition=Ready", "pod/ticker", "--timeout=30s")
	_, out := c.Background("-n", "shop", "logs", "-f", "ticker")
	buffer, seen := make([]byte, 1024), ""
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(seen, "\n5\n"); {
		n, err := out.Read(buffer)
		seen += string(buffer[:n])
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("logs -f: %v %q", err, seen)
		}
	}
	c.Kubectl("-n", "shop", "delete", "pod", "ticker", "--grace-period=1")
}

func anyPod(c *cluster.Cluster) string {
	return strings.TrimPrefix(strings.Fields(c.Kubectl("-n", "shop", "get", "pods", "-l", "app=web", "-o", "name"))[0], "pod/")
}

// service calls the Service from another pod, by address and by name, while pods go.
func service(t *testing.T, c *cluster.Cluster) {
	c.Kubectl("-n", "shop", "run", "client", "--image="+image+":v1", "--restart=Never", "--", "wait")
	c.Kubectl("-n", "shop", "wait", "--for=condition=Ready", "pod/client", "--timeout=30s")
	ip := c.Kubectl("-n", "shop", "get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}")
	call := func(url string, times int) map[string]int {
		args := []string{"-n", "shop", "exec", "client", "--", "/busy"}
		for range times {
			args = append(args, "get="+url)
		}
		answers := map[string]int{}
		for _, line := range strings.Fields(c.Kubectl(args...)) {
			answers[line]++
		}
		return answers
	}
	if answers := call("http://"+ip+"/", 40); len(answers) != 3 {
		t.Errorf("40 connections to the cluster IP reached %v, want all three pods", answers)
	}
	for _, name := range []string{"web", "web.shop", "web.shop.svc.cluster.local"} {
		if answers := call("http://"+name+"/", 2); len(answers) == 0 {
			t.Errorf("no answer by the name %s", name)
		}
	}
	victim := anyPod(c)
	c.Kubectl("-n", "shop", "delete", "pod", victim, "--wait=false")
	if answers := call("http://"+ip+"/", 40); answers[victim] > 0 {
		t.Errorf("connections after the delete of %s still reach it: %v", victim, answers)
	}
	c.Kubectl("-n", "shop", "rollout", "status", "deploy/web", "--timeout=60s")
	hostToPod(t, c)
	noRules(t)
}

// hostToPod reaches a pod's own address from the machine.
func hostToPod(t *testing.T, c *cluster.Cluster) {
	ip := c.Kubectl("-n", "shop", "get", "pod", anyPod(c), "-o", "jsonpath={.status.podIP}")
	resp, err := (&http.Client{Timeout: 5 * time.Second}).Get("http://" + net.JoinHostPort(ip, "8080") + "/")
	if err != nil {
		t.Errorf("host to pod: %v", err)
		return
	}
	resp.Body.Close()
}

// noRules: no firewall rule takes part in load balancing.
func noRules(t *testing.T) {
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v %s", err, out)
	}
	for _, rule := range []string{"dnat", "redirect to", "KUBE-"} {
		if strings.Contains(string(out), rule) {
			t.Errorf("the ruleset has %q:\n%s", rule, out)
		}
	}
}

func change(t *testing.T, c *cluster.Cluster) {
	_, watched := c.Background("-n", "shop", "get", "deploy", "web", "-w", "-o", "jsonpath={.spec.replicas}{\"\\n\"}")
	c.Kubectl("-n", "shop", "scale", "deploy/web", "--replicas=5")
	c.Kubectl("-n", "shop", "rollout", "status", "deploy/web", "--timeout=60s")
	lines := bufio.NewScanner(watched)
	for lines.Scan() && lines.Text() != "5" {
	}
	if lines.Text() != "5" {
		t.Errorf("get -w did not show the scale: %v", lines.Err())
	}
	c.Kubectl("-n", "shop", "set", "image", "deploy/web", "web="+image+":v2")
	c.Kubectl("-n", "shop", "rollout", "status", "deploy/web", "--timeout=60s")
	images := func() string {
		return c.Kubectl("-n", "shop", "get", "pods", "-l", "app=web", "--field-selector=status.phase=Running", "-o", "jsonpath={range .items[*]}{.metadata.deletionTimestamp}{.spec.containers[0].image} {end}")
	}
	if got := images(); strings.Count(got, " "+image+":v2")+strings.Count(got, image+":v2") == 0 || strings.HasPrefix(got, image+":v1") {
		t.Errorf("after set image: %s", got)
	}
	if out := c.Kubectl("-n", "shop", "rollout", "history", "deploy/web"); !regexp.MustCompile(`(?m)^2\s`).MatchString(out) {
		t.Errorf("history:\n%s", out)
	}
	c.Kubectl("-n", "shop", "rollout", "undo", "deploy/web")
	c.Kubectl("-n", "shop", "rollout", "status", "deploy/web", "--timeout=60s")
	if got := c.Kubectl("-n", "shop", "get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"); got != image+":v1" {
		t.Errorf("after undo: %s", got)
	}
	c.Kubectl("-n", "shop", "scale", "deploy/web", "--replicas=3")
	c.Kubectl("-n", "shop", "rollout", "status", "deploy/web", "--timeout=60s")
}

func stream(t *testing.T, c *cluster.Cluster) {
	log, err := c.Rutter("log", "deploy/web", "-n", "shop")
	if err != nil || !strings.Contains(log, "ADDED") || !strings.Contains(log, "kubectl-set") {
		t.Errorf("log: %v\n%s", err, log)
	}
	if out, err := c.Rutter("log", "deploy/nothing", "-n", "shop"); err == nil || !strings.Contains(out+err.Error(), "No changes of shop deployments.apps/nothing") {
		t.Errorf("log of nothing: %v\n%s", err, out)
	}
	past, err := c.Rutter("log", "rs/"+strings.TrimPrefix(strings.Fields(c.Kubectl("-n", "shop", "get", "rs", "-o", "name"))[0], "replicaset.apps/"), "-n", "shop", "-o", "json")
	if err != nil || !strings.Contains(past, `"cause"`) {
		t.Errorf("log -o json: %v\n%s", err, past)
	}
	verify(t, c)
}

// verify wants zeros.
func verify(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	out, err := c.RutterBus("verify")
	if err != nil || !strings.Contains(out, "0 missing, 0 doubled, 0 out of order, 0 different, 0 unknown") {
		t.Errorf("verify: %v\n%s", err, out)
	}
}

// secrets: the value is nowhere in the data directory, but in the pod's own volume.
func secrets(t *testing.T, c *cluster.Cluster) {
	for _, dir := range []string{"etcd", "bus", "log"} {
		err := filepath.WalkDir(filepath.Join(c.Dir, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil //nolint:nilerr // files come and go
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return nil //nolint:nilerr // files come and go
			}
			for _, canary := range []string{"CANARY-7c1e", "Q0FOQVJZLTdjMWU"} {
				if strings.Contains(string(data), canary) {
					t.Errorf("%s holds the secret value", path)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if got := c.Kubectl("-n", "shop", "get", "secret", "sec", "-o", "jsonpath={.data.password}"); got != "Q0FOQVJZLTdjMWU=" {
		t.Errorf("the API answers %q", got)
	}
}

func remove(t *testing.T, c *cluster.Cluster) {
	c.Kubectl("-n", "shop", "delete", "deploy", "web")
	c.Kubectl("-n", "shop", "wait", "--for=delete", "pod", "-l", "app=web", "--timeout=60s")
	if out := c.Kubectl("-n", "shop", "get", "rs", "-o", "name"); strings.TrimSpace(out) != "" {
		t.Errorf("replica sets are left: %s", out)
	}
	c.Kubectl("delete", "namespace", "shop", "--timeout=60s")
	verify(t, c)
}

func stopAndGoOn(t *testing.T, c *cluster.Cluster) {
	c.Kubectl("create", "configmap", "kept", "--from-literal=a=b")
	if err := c.Stop(); err != nil {
		t.Errorf("Ctrl-C: %v\n%s", err, c.Output())
	}
	c.Start()
	if got := c.Kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}"); got != "b" {
		t.Errorf("after stop and start: %q", got)
	}
	verify(t, c)
}

func purge(t *testing.T, c *cluster.Cluster) {
	c.Kubectl("run", "left", "--image="+image+":v1", "--", "wait")
	c.Kubectl("wait", "--for=condition=Ready", "pod/left", "--timeout=30s")
	if err := c.Stop(); err != nil {
		t.Errorf("Ctrl-C: %v", err)
	}
	if out, err := c.Rutter("down", "--purge", "--node-name", c.Node); err != nil {
		t.Fatalf("down --purge: %v\n%s", err, out)
	}
	for _, path := range []string{c.Dir, c.Run, "/sys/fs/bpf/rutter/" + c.Node, "/sys/fs/cgroup/unified/rutter/" + c.Node, "/sys/fs/cgroup/memory/rutter/" + c.Node} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), c.Dir) || strings.Contains(string(mounts), c.Run) {
		t.Errorf("mounts are left: %v", err)
	}
	if out, err := exec.Command("pgrep", "-f", c.Dir).Output(); err == nil {
		t.Errorf("processes are left: %s", out)
	}
}
