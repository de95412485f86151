package nodeagent_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/rutter-project/rutter/integration/images"
)

func status(p *corev1.Pod) corev1.ContainerStatus {
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == "main" {
			return c
		}
	}
	return corev1.ContainerStatus{}
}

func waitingFor(reason string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		w := status(p).State.Waiting
		return w != nil && w.Reason == reason
	}
}

func TestRestartBacksOff(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("crash", "echo=attempt", "exit=3")
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	n.create(p)
	got := n.await(p, "crash-looped", waitingFor("CrashLoopBackOff"))
	require.Equal(t, int32(3), status(got).LastTerminationState.Terminated.ExitCode)
	got = n.await(p, "restarted twice", func(p *corev1.Pod) bool { return status(p).RestartCount >= 2 })
	require.Equal(t, corev1.PodRunning, got.Status.Phase)
	require.Equal(t, "attempt\n", n.logs(p, "previous=true"))
	n.api.DeletePod(p.Namespace, p.Name, 0)
	n.awaitGone(p)
}

func TestImageThatDoesNotExist(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("absent")
	p.Spec.Containers[0].Image = shared.registry.Host + "/absent:1"
	n.create(p)
	got := n.await(p, "failed to pull", waitingFor("ErrImagePull"))
	require.Equal(t, corev1.PodPending, got.Status.Phase)
	bad := n.pod("bad")
	bad.Spec.Containers[0].Image = "Not An Image"
	n.create(bad)
	n.await(bad, "rejected the name", waitingFor("InvalidImageName"))
	never := n.pod("never")
	never.Spec.Containers[0].Image, never.Spec.Containers[0].ImagePullPolicy = shared.registry.Host+"/absent:2", corev1.PullNever
	n.create(never)
	n.await(never, "refused to pull", waitingFor("ErrImageNeverPull"))
	n.api.DeletePod(p.Namespace, p.Name, 30)
	n.awaitGone(p)
}

func TestPullWithAuth(t *testing.T) {
	n := newNode(t)
	private, err := images.Serve("robot", "secret word")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, private.Close()) })
	img, err := images.Assemble(images.Options{Files: map[string]string{"bin/busy": filepath.Join(shared.dir, "busy")}, Entrypoint: []string{"/bin/busy"}})
	require.NoError(t, err)
	ref, err := private.Push(t.Context(), "team/busy:1", img)
	require.NoError(t, err)
	n.start()

	denied := n.pod("denied", "exit=0")
	denied.Spec.Containers[0].Image = ref
	n.create(denied)
	n.await(denied, "was denied", waitingFor("ErrImagePull"))

	n.api.Put("namespaces/test/secrets/pull", &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: "pull", Namespace: "test"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, private.Host+"/team",
			base64.StdEncoding.EncodeToString([]byte("robot:secret word")))},
	})
	p := n.pod("allowed", "exit=0")
	p.Spec.Containers[0].Image = ref
	p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	n.create(p)
	n.await(p, "succeeded", phase(corev1.PodSucceeded))
}

func TestGracefulTermination(t *testing.T) {
	n := newNode(t)
	n.start()
	dir := t.TempDir()
	p := n.pod("polite", "wait", "append=/out/order=stopped", "exit=0")
	p.Spec.Volumes = []corev1.Volume{{Name: "out", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}}
	c := &p.Spec.Containers[0]
	c.VolumeMounts = []corev1.VolumeMount{{Name: "out", MountPath: "/out"}}
	c.Lifecycle = &corev1.Lifecycle{
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/busy", "append=/out/order=greeted"}}},
		PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/busy", "append=/out/order=hooked"}}},
	}
	stubborn := n.pod("stubborn", "stubborn")
	n.create(p)
	n.create(stubborn)
	n.await(p, "ran", ready)
	n.await(stubborn, "ran", ready)
	began := time.Now()
	n.api.DeletePod(p.Namespace, p.Name, 20)
	n.api.DeletePod(stubborn.Namespace, stubborn.Name, 2)
	n.awaitGone(p)
	require.Less(t, time.Since(began), 15*time.Second, "a container that ends by itself is not waited for")
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	require.NoError(t, err)
	require.Equal(t, "greeted\nhooked\nstopped\n", string(order))
	n.awaitGone(stubborn)
	require.GreaterOrEqual(t, time.Since(began), 2*time.Second, "the grace period is granted")
	var last string
	for _, w := range n.api.Writes(path(stubborn) + "/status") {
		last = string(w.Body)
	}
	require.Contains(t, last, `"exitCode":137`)
	require.Contains(t, last, `"phase":"Failed"`)
}

func TestInitAndSidecarOrder(t *testing.T) {
	n := newNode(t)
	n.start()
	dir := t.TempDir()
	always := corev1.ContainerRestartPolicyAlways
	p := n.pod("ordered", "append=/out/order=app", "exit=0")
	p.Spec.Volumes = []corev1.Volume{{Name: "out", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}}
	mounts := []corev1.VolumeMount{{Name: "out", MountPath: "/out"}}
	p.Spec.Containers[0].VolumeMounts = mounts
	p.Spec.InitContainers = []corev1.Container{
		{Name: "first", Image: shared.image, Args: []string{"append=/out/order=first"}, VolumeMounts: mounts},
		{Name: "side", Image: shared.image, Args: []string{"append=/out/order=side", "write=/out/up=1", "wait", "append=/out/order=side ended"}, VolumeMounts: mounts, RestartPolicy: &always,
			StartupProbe: &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 20, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/busy", "cat=/out/up"}}}}},
		{Name: "last", Image: shared.image, Args: []string{"append=/out/order=last"}, VolumeMounts: mounts},
	}
	n.create(p)
	got := n.await(p, "succeeded", phase(corev1.PodSucceeded))
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	require.NoError(t, err)
	require.Equal(t, "first\nside\nlast\napp\nside ended\n", string(order))
	require.Len(t, got.Status.InitContainerStatuses, 3)
}

func TestProbes(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("probed", "serve=8080", "wait")
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	get := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("web")}}
	c := &p.Spec.Containers[0]
	c.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}
	c.ReadinessProbe = &corev1.Probe{ProbeHandler: get, PeriodSeconds: 1, FailureThreshold: 1}
	c.LivenessProbe = &corev1.Probe{ProbeHandler: get, PeriodSeconds: 1, FailureThreshold: 3}
	c.StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1, FailureThreshold: 30}
	n.create(p)
	n.await(p, "ready", ready)
	code, _, err := n.exec(p, nil, "/bin/busy", "write=/tmp/unhealthy=1")
	require.NoError(t, err)
	require.Zero(t, code)
	n.await(p, "unready", func(p *corev1.Pod) bool { return !ready(p) && status(p).State.Running != nil })
	got := n.await(p, "restarted and ready", func(p *corev1.Pod) bool { return status(p).RestartCount == 1 && ready(p) })
	require.Equal(t, int32(0), status(got).LastTerminationState.Terminated.ExitCode)
}

func TestKilledAgentIsSucceeded(t *testing.T) {
	n := newNode(t)
	kill := n.spawn()
	ticker := n.pod("ticker", "tick=2ms")
	ender := n.pod("ender", "echo=begin", "wait", "echo=last words", "exit=7")
	ender.Spec.Containers[0].TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	n.create(ticker)
	n.create(ender)
	before := n.await(ticker, "ran", ready)
	n.await(ender, "ran", ready)
	n.awaitLog(ender, "begin\n")
	for range 3 {
		kill()
		kill = n.spawn()
	}
	kill()
	// While no agent runs, one container ends and the other goes on.
	signalSteps(t, "echo=last words")
	deleted := n.pod("unseen", "wait")
	n.create(deleted) // created while the agent was away
	kill = n.spawn()
	got := n.await(ender, "failed", phase(corev1.PodFailed))
	require.Equal(t, int32(7), status(got).State.Terminated.ExitCode)
	require.Contains(t, status(got).State.Terminated.Message, "last words")
	require.Contains(t, n.logs(ender, ""), "begin\ngot terminated\nlast words\n")
	n.await(deleted, "ran", ready)
	after := n.await(ticker, "ran", ready)
	require.Equal(t, status(before).ContainerID, status(after).ContainerID, "the container was not touched")
	require.Zero(t, status(after).RestartCount)
	lines := strings.Fields(n.logs(ticker, ""))
	require.Greater(t, len(lines), 20)
	for i, l := range lines {
		if l != strconv.Itoa(i) {
			t.Fatalf("line %d is %q: a line was lost or doubled", i, l)
		}
	}
	n.api.DeletePod(ticker.Namespace, ticker.Name, 5)
	n.awaitGone(ticker)
	kill()
}

// signalSteps sends SIGTERM to the process that has this step and waits for its end.
func signalSteps(t *testing.T, step string) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, d := range dirs {
		data, err := os.ReadFile(d)
		if err != nil || !strings.HasPrefix(string(data), "/bin/busy\x00") || !strings.Contains(string(data), step) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(d)))
		require.NoError(t, err)
		fd, err := unix.PidfdOpen(pid, 0)
		require.NoError(t, err)
		defer func() { _ = unix.Close(fd) }()
		require.NoError(t, unix.Kill(pid, unix.SIGTERM))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10000)
		require.NoError(t, err)
		require.Equal(t, 1, n, "process %d does not end", pid)
		return
	}
	t.Fatalf("no process with step %q", step)
}

// awaitLog returns when the container said something: then it also listens to
// signals, which is a moment later than runc calls it started.
func (n *node) awaitLog(p *corev1.Pod, want string) {
	n.t.Helper()
	require.Eventually(n.t, func() bool { return strings.Contains(n.logs(p, ""), want) }, 5*time.Second, 10*time.Millisecond)
}

func TestContainerdDies(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("steady", "tick=5ms")
	n.create(p)
	before := n.await(p, "ran", ready)
	pid := n.containerd()
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	next := n.pod("next", "exit=0")
	n.create(next)
	n.await(next, "succeeded", phase(corev1.PodSucceeded))
	require.NotEqual(t, pid, n.containerd())
	n.api.DeletePod(p.Namespace, p.Name, 5)
	n.awaitGone(p)
	require.Zero(t, status(before).RestartCount)
}

func (n *node) containerd() int {
	n.t.Helper()
	data, err := os.ReadFile(filepath.Join(n.cfg.RunDir, n.cfg.NodeName, "containerd", "rutter-containerd.pid"))
	require.NoError(n.t, err)
	pid, err := strconv.Atoi(string(data))
	require.NoError(n.t, err)
	return pid
}

func TestAPIAway(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("lonely", "echo=up", "wait", "exit=4")
	n.create(p)
	n.await(p, "ran", ready)
	n.awaitLog(p, "up\n")
	n.api.SetAway(true)
	signalSteps(t, "exit=4")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tries := len(n.api.Writes(path(p)))
	n.api.SetAway(false)
	require.NoError(t, n.api.Await(ctx, func() bool {
		var got corev1.Pod
		return n.api.Get(path(p), &got) && got.Status.Phase == corev1.PodFailed
	}), "after %d writes", tries)
}

func TestStatusWriteNamesItsCause(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("caused", "exit=0")
	n.create(p)
	n.await(p, "succeeded", phase(corev1.PodSucceeded))
	writes := n.api.Writes(path(p) + "/status")
	require.NotEmpty(t, writes)
	for _, w := range writes {
		require.NotEmpty(t, w.Cause, "each write names the revision of the pod that led to it")
	}
	require.LessOrEqual(t, len(writes), 3, "a pod's start and end take few writes: %s", writes)
}

// BenchmarkPodStart measures from the moment the source tells of a pod to the
// moment the API has its status Running, with the image present. Compare with
// benchstat over -count=10; the metric is milliseconds at the median.
func BenchmarkPodStart(b *testing.B) {
	n := newNode(b)
	n.start()
	warm := n.pod("warm", "wait")
	n.create(warm)
	n.await(warm, "ran", phase(corev1.PodRunning))
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		p := n.pod("bench-"+strconv.Itoa(i), "wait")
		began := time.Now()
		n.create(p)
		n.await(p, "ran", phase(corev1.PodRunning))
		took = append(took, time.Since(began))
		b.StopTimer()
		n.api.DeletePod(p.Namespace, p.Name, 1)
		n.awaitGone(p)
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms-max")
}

// BenchmarkIdleMemory reports the resident memory of an agent with ten pods.
func BenchmarkIdleMemory(b *testing.B) {
	n := newNode(b)
	n.spawn()
	for i := range 10 {
		p := n.pod("idle-"+strconv.Itoa(i), "wait")
		n.create(p)
		n.await(p, "ran", ready)
	}
	for b.Loop() {
		b.ReportMetric(rss(b, n.pid), "agent-MB")
		b.ReportMetric(rss(b, n.containerd()), "containerd-MB")
	}
}

func rss(tb testing.TB, pid int) float64 {
	tb.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(tb, err)
	for _, line := range strings.Split(string(data), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			require.NoError(tb, err)
			return float64(kb) / 1024
		}
	}
	return 0
}
