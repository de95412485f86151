package nodeagent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func configMap(data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "settings", Namespace: "test"}, Data: data}
}

func secret(data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: "keys", Namespace: "test"}, Data: data}
}

func TestVolumesAndEnvironment(t *testing.T) {
	n := newNode(t)
	n.start()
	n.api.Put("namespaces/test/configmaps/settings", configMap(map[string]string{"color": "red", "shape": "round"}))
	n.api.Put("namespaces/test/secrets/keys", secret(map[string][]byte{"password": []byte("hidden")}))
	p := n.pod("full", "env", "cat=/config/color", "cat=/secret/pw", "cat=/proj/token", "cat=/proj/labels", "cat=/one", "write=/scratch/x=1", "write=/ram/y=2", "cat=/etc/resolv.conf", "cat=/etc/hosts", "wait")
	p.Labels = map[string]string{"app": "full"}
	mode, ttl := int32(0o400), int64(3600)
	p.Spec.Volumes = []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}},
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "keys", DefaultMode: &mode, Items: []corev1.KeyToPath{{Key: "password", Path: "pw"}}}}},
		{Name: "proj", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &ttl}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
		}}}},
		{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "ram", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
	}
	c := &p.Spec.Containers[0]
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: "config", MountPath: "/config"}, {Name: "secret", MountPath: "/secret", ReadOnly: true}, {Name: "proj", MountPath: "/proj"},
		{Name: "scratch", MountPath: "/scratch"}, {Name: "ram", MountPath: "/ram"}, {Name: "config", MountPath: "/one", SubPath: "shape"},
	}
	c.Resources = corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi"), corev1.ResourceCPU: resource.MustParse("500m")}}
	c.Env = []corev1.EnvVar{
		{Name: "PLAIN", Value: "a"}, {Name: "COMBINED", Value: "$(PLAIN)-$(COLOR)-$$(PLAIN)"},
		{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
		{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
		{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "keys"}, Key: "password"}}},
		{Name: "MEMORY", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory"}}},
	}
	c.EnvFrom = []corev1.EnvFromSource{{Prefix: "X_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}
	n.create(p)
	n.await(p, "ran", ready)
	require.Eventually(t, func() bool { return strings.Contains(n.logs(p, ""), "# Kubernetes-managed hosts file") }, 5*time.Second, 20*time.Millisecond)
	out := n.logs(p, "")
	for _, want := range []string{
		"PLAIN=a\n", "COMBINED=a-$(COLOR)-$(PLAIN)\n", "POD=full\n", "IP=127.0.0.1\n", "PASSWORD=hidden\n", "MEMORY=67108864\n", "X_color=red\n",
		"redhidden", "token-1-for-full", `app="full"`, "round", "nameserver 10.96.0.10\n", "search test.svc.cluster.local", "127.0.0.1\tfull\n",
	} {
		require.Contains(t, out, want)
	}

	// A change reaches the volume, not the environment; the token stays.
	n.api.Put("namespaces/test/configmaps/settings", configMap(map[string]string{"color": "blue"}))
	require.Eventually(t, func() bool {
		_, out, err := n.exec(p, nil, "/bin/busy", "cat=/config/color", "cat=/proj/token")
		return err == nil && out == "bluetoken-1-for-full"
	}, 5*time.Second, 50*time.Millisecond)
	_, out, err := n.exec(p, nil, "/bin/busy", "cat=/config/shape")
	require.NoError(t, err)
	require.Contains(t, out, "no such file")
	_, out, err = n.exec(p, nil, "/bin/busy", "write=/config/mine=1")
	require.NoError(t, err)
	require.Contains(t, out, "read-only file system")

	secretOnDisk := false
	require.NoError(t, filepath.WalkDir(n.cfg.DataDir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.Contains(path, "containerd") && !strings.Contains(path, "/io/") {
			data, _ := os.ReadFile(path)
			secretOnDisk = secretOnDisk || strings.Contains(string(data), "hidden") || strings.Contains(string(data), "token-1-")
		}
		return nil
	}))
	require.False(t, secretOnDisk, "secret volumes live in memory")
	n.api.DeletePod(p.Namespace, p.Name, 1)
	n.awaitGone(p)
}

func TestMissingConfigMapThenThere(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("early", "env", "exit=0")
	p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}
	n.create(p)
	got := n.await(p, "lacked its config map", waitingFor("CreateContainerConfigError"))
	require.Contains(t, status(got).State.Waiting.Message, `configmap "settings" not found`)
	n.api.Put("namespaces/test/configmaps/settings", configMap(map[string]string{"color": "red"}))
	n.await(p, "succeeded", phase(corev1.PodSucceeded))
	require.Contains(t, n.logs(p, ""), "color=red")
}

func TestUnsupportedVolumeIsTold(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("claim", "exit=0")
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	n.create(p)
	require.Eventually(t, func() bool {
		for _, w := range n.api.Writes("/events") {
			if strings.Contains(string(w.Body), "FailedMount") && strings.Contains(string(w.Body), "persistentVolumeClaim is not supported") {
				return true
			}
		}
		return false
	}, 5*time.Second, 20*time.Millisecond)
	n.api.DeletePod(p.Namespace, p.Name, 1)
	n.awaitGone(p)
}

func TestSecurityContext(t *testing.T) {
	n := newNode(t)
	n.start()
	user, group, fs, no, yes := int64(1000), int64(1001), int64(3000), false, true
	p := n.pod("secure", "id", "write=/scratch/x=1", "write=/etc/x=1")
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &group, FSGroup: &fs, SupplementalGroups: []int64{4000},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}, Sysctls: []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "1"}}}
	p.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	n.create(p)
	n.await(p, "failed to write its root", phase(corev1.PodFailed))
	out := n.logs(p, "")
	require.Contains(t, out, "uid 1000 gid 1001 groups [1000 1001 2000 3000 4000]")
	require.Contains(t, out, "Seccomp:\t2\n")
	require.Contains(t, out, "NoNewPrivs:\t1\n")
	require.Contains(t, out, "read-only file system")

	root := n.pod("root", "exit=0")
	root.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: &yes}
	n.create(root)
	got := n.await(root, "was refused", waitingFor("CreateContainerConfigError"))
	require.Contains(t, status(got).State.Waiting.Message, "runAsNonRoot")

	unsafe := n.pod("unsafe", "exit=0")
	unsafe.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.panic", Value: "1"}}}
	n.create(unsafe)
	got = n.await(unsafe, "was refused", phase(corev1.PodFailed))
	require.Equal(t, "SysctlForbidden", got.Status.Reason)

	strong := n.pod("strong", "id", "hostname")
	strong.Spec.HostNetwork, strong.Spec.HostPID, strong.Spec.HostIPC = true, true, true
	strong.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	n.create(strong)
	n.await(strong, "succeeded", phase(corev1.PodSucceeded))
	host, err := os.Hostname()
	require.NoError(t, err)
	require.Contains(t, n.logs(strong, ""), "Seccomp:\t0\n")
	require.Contains(t, n.logs(strong, ""), host)
}

func TestSharedProcessNamespace(t *testing.T) {
	n := newNode(t)
	n.start()
	yes := true
	p := n.pod("family", "wait", "exit=0")
	p.Spec.ShareProcessNamespace = &yes
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "sibling", Image: shared.image, Args: []string{"wait"}})
	n.create(p)
	n.await(p, "ran", ready)
	for pid, want := range map[string]string{"1": "/pause", "self": "/bin/busy"} {
		_, out, err := n.exec(p, nil, "/bin/busy", "cat=/proc/"+pid+"/cmdline")
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(out, want), "%s: %q", pid, out)
	}
	require.NoError(t, n.stop())
	n.start() // the next agent finds the namespace
	n.api.DeletePod(p.Namespace, p.Name, 5)
	n.awaitGone(p)
}
