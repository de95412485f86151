// Package incident records an incident in a real cluster, and checks the walk-through of
// docs/incident.md against the recording in the repository, byte for byte.
//
// `go test ./integration/incident -run TestRecord -args -record` records anew; the
// revisions and names in the commands of the walk-through are then moved by hand, and
// `-run TestWalkThrough -args -update` writes what they print.
package incident

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/integration/cluster"
)

var (
	record = flag.Bool("record", false, "keep the recording in docs/incident")
	update = flag.Bool("update", false, "rewrite what the walk-through prints")
)

const (
	kept    = "../../docs/incident/outage.bundle"
	maxKept = 200_000
	canary  = "CANARYpassword"
	apiKey  = "CANARYapikey"
)

// shop is a checkout that needs payments.
const shop = `
apiVersion: v1
kind: Secret
metadata: {name: database}
stringData: {password: ` + canary + `}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {log-level: info}
---
apiVersion: v1
kind: Service
metadata: {name: payments}
spec: {selector: {app: payments}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: checkout}
spec: {selector: {app: checkout}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: payments, labels: {team: payments}}
spec:
  replicas: 2
  selector: {matchLabels: {app: payments}}
  template:
    metadata: {labels: {app: payments}}
    spec:
      containers:
      - {name: payments, image: "registry.example/payments:2.3"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: checkout, labels: {team: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: checkout}}
  template:
    metadata: {labels: {app: checkout}}
    spec:
      containers:
      - name: checkout
        image: registry.example/checkout:1.7
        env: [{name: API_KEY, value: ` + apiKey + `}]
        readinessProbe: {httpGet: {path: /health, port: 80}}
`

const node = `
apiVersion: v1
kind: Node
metadata: {name: fake-node, labels: {kubernetes.io/hostname: fake-node}}
`

const nodeStatus = `{"status":{"capacity":{"cpu":"4","memory":"8Gi","pods":"110"},"allocatable":{"cpu":"4","memory":"8Gi","pods":"110"},
"conditions":[{"type":"Ready","status":"True","reason":"FakeKubeletReady","message":"fake kubelet is posting ready status"}]}}`

// story is the cluster in which it happens. Its node is fake: what a kubelet would tell of
// pods, fakeKubelet tells.
type story struct {
	*cluster.Cluster
	t *testing.T
}

// as runs kubectl as one of the people.
func (s *story) as(who string, args ...string) string {
	s.t.Helper()
	return s.Kubectl(append([]string{"--as", who, "--as-group", "system:masters", "-n", "shop"}, args...)...)
}

func (s *story) applyAs(who, manifest string) {
	s.t.Helper()
	out, err := s.TryKubectl(manifest, "--as", who, "--as-group", "system:masters", "-n", "shop", "apply", "-f", "-")
	require.NoError(s.t, err, out)
}

func (s *story) revision() string {
	s.t.Helper()
	var i struct{ Revision int64 }
	require.NoError(s.t, json.Unmarshal([]byte(s.Kubectl("get", "--raw", "/history/instant?at=now")), &i))
	return fmt.Sprint("rev-", i.Revision)
}

// fakeKubelet plays the kubelet of the fake node: it lets pods run and end as soon as it
// sees that they should, until stop is called. Probes of checkout succeed while healthy.
type fakeKubelet struct {
	*story
	watch *exec.Cmd
	done  sync.WaitGroup

	mu      sync.Mutex
	healthy bool            // guarded by mu
	given   map[string]bool // pods that have been told of, by name; guarded by mu
	failed  error           // guarded by mu
}

const asKubelet = "system:node:fake-node"

func (s *story) startKubelet() *fakeKubelet {
	s.t.Helper()
	out, err := s.TryKubectl(node, "create", "--as", asKubelet, "--as-group", "system:masters", "-f", "-")
	require.NoError(s.t, err, out)
	s.as(asKubelet, "patch", "node", "fake-node", "--subresource=status", "--field-manager=fake-kubelet", "-p", nodeStatus)
	k := &fakeKubelet{story: s, healthy: true, given: map[string]bool{}}
	cmd, stream := s.Background("get", "pods", "-n", "shop", "--watch", "-o", "json")
	k.watch = cmd
	k.done.Go(func() {
		events := json.NewDecoder(stream)
		for {
			var p pod
			if events.Decode(&p) != nil {
				return
			}
			if err := k.see(p); err != nil {
				k.mu.Lock()
				k.failed = errors.Join(k.failed, err)
				k.mu.Unlock()
			}
		}
	})
	return k
}

func (k *fakeKubelet) stop() {
	k.t.Helper()
	_ = k.watch.Process.Kill()
	k.done.Wait()
	require.NoError(k.t, k.failed)
}

// pod is what the fake kubelet reads of one.
type pod struct {
	Metadata struct {
		Name, UID         string
		DeletionTimestamp string
		Labels            map[string]string
	}
	Spec struct{ NodeName string }
}

func (k *fakeKubelet) see(p pod) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	name := p.Metadata.Name
	var args []string
	switch {
	case p.Spec.NodeName == "" || k.given[name+p.Metadata.DeletionTimestamp]:
		return nil
	case p.Metadata.DeletionTimestamp != "":
		args = []string{"delete", "pod", name, "--grace-period=0", "--force", "--wait=false"}
	default:
		ready := k.healthy || p.Metadata.Labels["app"] != "checkout"
		args = []string{"patch", "pod", name, "--subresource=status", "--field-manager=fake-kubelet", "-p", running(p.Metadata.Labels["app"], len(k.given)+2, ready)}
	}
	k.given[name+p.Metadata.DeletionTimestamp] = true
	out, err := k.TryKubectl("", append([]string{"--as", asKubelet, "--as-group", "system:masters", "-n", "shop"}, args...)...)
	if err != nil && !strings.Contains(out, "NotFound") {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// running is the status of a pod whose container runs.
func running(app string, address int, ready bool) string {
	condition := `{"type":"Ready","status":"True"},{"type":"ContainersReady","status":"True"}`
	if !ready {
		condition = `{"type":"Ready","status":"False","reason":"ContainersNotReady","message":"containers with unready status: [` + app + `]"},{"type":"ContainersReady","status":"False","reason":"ContainersNotReady"}`
	}
	return fmt.Sprintf(`{"status":{"phase":"Running","podIP":"10.244.0.%d","podIPs":[{"ip":"10.244.0.%d"}],"conditions":[%s],
"containerStatuses":[{"name":%q,"ready":%t,"started":true,"restartCount":0,"image":"","imageID":"","state":{"running":{}}}]}}`, address, address, condition, app, ready)
}

// fail lets the probes of checkout fail, of running pods at once.
func (k *fakeKubelet) fail(message string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.healthy = false
	for _, name := range strings.Fields(k.Kubectl("-n", "shop", "get", "pods", "-l", "app=checkout", "-o", "jsonpath={.items[*].metadata.name}")) {
		uid := k.Kubectl("-n", "shop", "get", "pod", name, "-o", "jsonpath={.metadata.uid}")
		out, err := k.TryKubectl(fmt.Sprintf(`{"apiVersion":"v1","kind":"Event","metadata":{"name":%q,"namespace":"shop"},"involvedObject":{"apiVersion":"v1","kind":"Pod","namespace":"shop","name":%q,"uid":%q},
"type":"Warning","reason":"Unhealthy","message":%q,"source":{"component":"fake-kubelet","host":"fake-node"},"count":1,"firstTimestamp":%q,"lastTimestamp":%q}`,
			name+".unhealthy", name, uid, message, k.now(), k.now()), "--as", asKubelet, "--as-group", "system:masters", "create", "-f", "-")
		require.NoError(k.t, err, out)
		address := k.Kubectl("-n", "shop", "get", "pod", name, "-o", "jsonpath={.status.podIP}")
		var last int
		_, err = fmt.Sscanf(address, "10.244.0.%d", &last)
		require.NoError(k.t, err, address)
		k.as(asKubelet, "patch", "pod", name, "--subresource=status", "--field-manager=fake-kubelet", "-p", running("checkout", last, false))
	}
}

// now is the server's clock, in whole seconds.
func (s *story) now() string {
	var i struct{ Time string }
	require.NoError(s.t, json.Unmarshal([]byte(s.Kubectl("get", "--raw", "/history/instant?at=now")), &i))
	head, _, _ := strings.Cut(i.Time, ".")
	return strings.TrimSuffix(head, "Z") + "Z"
}

// happen plays the incident and returns its first revision.
func (s *story) happen() string {
	k := s.startKubelet()
	defer k.stop()
	s.Kubectl("create", "namespace", "shop")
	s.applyAs("alice", shop)
	for _, deployment := range []string{"payments", "checkout"} {
		s.Kubectl("-n", "shop", "wait", "deploy/"+deployment, "--for=jsonpath={.status.readyReplicas}=2", "--timeout=60s")
	}
	from := s.revision()

	s.as("carol", "set", "image", "deploy/checkout", "checkout=registry.example/checkout:1.8")
	s.Kubectl("-n", "shop", "rollout", "status", "deploy/checkout", "--timeout=60s")
	s.as("dave", "patch", "configmap", "settings", "--field-manager=kubectl-edit", "-p", `{"data":{"log-level":"debug"}}`)
	s.as("ci:janitor", "patch", "deploy", "payments", "--field-manager=janitor", "-p", `{"metadata":{"annotations":{"janitor.example.com/reason":"no traffic for 30 days"}},"spec":{"replicas":0}}`)
	s.Kubectl("-n", "shop", "wait", "pods", "-l", "app=payments", "--for=delete", "--timeout=60s")
	k.fail("Readiness probe failed: GET http://payments/health: connection refused")
	s.Kubectl("-n", "shop", "wait", "deploy/checkout", "--for=jsonpath={.status.unavailableReplicas}=2", "--timeout=60s")
	s.as("carol", "set", "image", "deploy/checkout", "checkout=registry.example/checkout:1.7")
	s.Kubectl("-n", "shop", "wait", "deploy/checkout", "--for=jsonpath={.status.updatedReplicas}=1", "--timeout=60s")
	return from
}

// TestRecord plays the incident, records it, and finds the culprit in the recording when
// the cluster is gone.
func TestRecord(t *testing.T) {
	c := cluster.New(t, "--no-node")
	s := &story{c, t}
	c.Start()
	from := s.happen()
	file := filepath.Join(t.TempDir(), "outage.bundle")
	out, err := c.Rutter("bundle", file, "--from", from, "-n", "shop", "--redact", "env")
	require.NoError(t, err, out)
	c.Kill()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Less(t, len(text), maxKept)

	b := open(t, file)
	require.Contains(t, b.ask(`rutter blame deploy/payments | grep spec.replicas`), "janitor")
	require.Contains(t, b.ask(`rutter bisect --good `+from+` -- sh -c 'kubectl get endpointslices -l kubernetes.io/service-name=payments -o yaml | grep -q 10.244'`), "endpointslices.discovery.k8s.io/payments-")
	require.Contains(t, b.ask(`rutter why $(kubectl get endpointslices -l kubernetes.io/service-name=payments -o name)`), "by ci:janitor\n")
	everything := b.ask(`kubectl get --raw /history/state?at=` + from + `; kubectl get --raw /history/events; kubectl get secrets,pods,deploy -o yaml`)
	require.Contains(t, everything, "redacted-", "the search would find something")
	for _, secret := range []string{canary, apiKey, "Q0FOQVJZ"} {
		require.NotContains(t, everything, secret)
	}
	if *record {
		require.NoError(t, os.MkdirAll(filepath.Dir(kept), 0o755))
		require.NoError(t, os.WriteFile(kept, text, 0o644))
	}
}

// opened is a bundle that is served to a shell.
type opened struct {
	t   *testing.T
	env []string
}

// open serves a bundle until the test ends. It needs no cluster, and no root.
func open(t *testing.T, file string) *opened {
	t.Helper()
	rutter, kubectl := cluster.Binary(t, "RUTTER_BIN", "rutter"), cluster.Binary(t, "KUBECTL_BIN", "kubectl")
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	require.NoError(t, os.Mkdir(bin, 0o755))
	require.NoError(t, errors.Join(os.Symlink(rutter, filepath.Join(bin, "rutter")), os.Symlink(kubectl, filepath.Join(bin, "kubectl"))))
	config := filepath.Join(dir, "kubeconfig")
	cmd := exec.Command(rutter, "open", file, "--kubeconfig", config)
	said, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		require.NoFileExists(t, config)
	})
	line := make([]byte, 4096)
	n, err := said.Read(line) // it says so when it serves
	require.NoError(t, err)
	require.Contains(t, string(line[:n]), "export KUBECONFIG="+config)
	env := append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "KUBECONFIG="+config, "HOME="+dir, "KUBECTL_EXTERNAL_DIFF=")
	return &opened{t, env}
}

// ask runs a line of shell and returns all that it prints.
func (o *opened) ask(line string) string {
	o.t.Helper()
	cmd := exec.CommandContext(o.t.Context(), "bash", "-c", line)
	cmd.Env, cmd.Dir = o.env, "../.."
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		o.t.Fatalf("%s: %v", line, err)
	}
	return out.String()
}
