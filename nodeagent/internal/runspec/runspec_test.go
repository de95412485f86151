package runspec

import (
	"context"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	ctdns "github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestArgs(t *testing.T) {
	same := func(l []string) []string { return l }
	image := ocispec.ImageConfig{Entrypoint: []string{"/e"}, Cmd: []string{"c"}}
	for name, tc := range map[string]struct {
		c     corev1.Container
		image ocispec.ImageConfig
		want  []string
	}{
		"image":            {corev1.Container{}, image, []string{"/e", "c"}},
		"args":             {corev1.Container{Args: []string{"a"}}, image, []string{"/e", "a"}},
		"command":          {corev1.Container{Command: []string{"/x"}}, image, []string{"/x"}},
		"command and args": {corev1.Container{Command: []string{"/x"}, Args: []string{"a"}}, image, []string{"/x", "a"}},
		"nothing":          {corev1.Container{}, ocispec.ImageConfig{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Args(&tc.c, tc.image, same)
			require.Equal(t, tc.want == nil, err != nil)
			require.Equal(t, tc.want, got)
		})
	}
}

// build applies the options to a default spec.
func build(t *testing.T, change func(*Input)) *oci.Spec {
	t.Helper()
	in := Input{
		Pod: &corev1.Pod{}, Container: &corev1.Container{Name: "c"}, Args: []string{"/x"}, Cgroup: "/rutter/n/podu/c-0",
		Namespaces: Namespaces{Network: "/net", IPC: "/ipc", UTS: "/uts"}, Shm: "/shm", Hostname: "h",
		Node: Node{Capabilities: []string{"CAP_CHOWN", "CAP_SYS_ADMIN"}, MinOOMScore: 0}, OOMScore: -997,
	}
	change(&in)
	opts, err := Build(in)
	require.NoError(t, err)
	ctx := ctdns.WithNamespace(context.Background(), "test")
	spec, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: "c"}, opts...)
	require.NoError(t, err)
	return spec
}

func TestDefaults(t *testing.T) {
	s := build(t, func(*Input) {})
	require.Equal(t, "/rutter/n/podu/c-0", s.Linux.CgroupsPath)
	require.Equal(t, 0, *s.Process.OOMScoreAdj, "what may not be set is not tried")
	require.Nil(t, s.Linux.Seccomp)
	require.False(t, s.Process.NoNewPrivileges)
	require.Contains(t, s.Process.Env, "HOSTNAME=h")
	require.Nil(t, s.Process.Rlimits)
	require.Equal(t, "/net", namespace(s, specs.NetworkNamespace).Path)
	require.NotNil(t, namespace(s, specs.PIDNamespace))
	require.Nil(t, namespace(s, specs.CgroupNamespace))
	require.Equal(t, "/shm", mount(s, "/dev/shm").Source)
	require.Equal(t, uint64(2), *s.Linux.Resources.CPU.Shares)
	require.Nil(t, mount(s, "/run"))
}

func namespace(s *oci.Spec, kind specs.LinuxNamespaceType) *specs.LinuxNamespace {
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == kind {
			return &s.Linux.Namespaces[i]
		}
	}
	return nil
}

func mount(s *oci.Spec, destination string) *specs.Mount {
	var found *specs.Mount
	for i := range s.Mounts {
		if s.Mounts[i].Destination == destination {
			if found != nil {
				return nil // twice is as wrong as never
			}
			found = &s.Mounts[i]
		}
	}
	return found
}

func TestSecurity(t *testing.T) {
	yes, no := true, false
	t.Run("host namespaces", func(t *testing.T) {
		s := build(t, func(in *Input) {
			in.Namespaces, in.Pod.Spec = Namespaces{}, corev1.PodSpec{HostNetwork: true, HostPID: true, HostIPC: true}
		})
		require.Len(t, s.Linux.Namespaces, 1)
	})
	t.Run("capabilities", func(t *testing.T) {
		s := build(t, func(in *Input) {
			in.Container.SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"net_admin"}}}
		})
		require.Equal(t, []string{"CAP_NET_ADMIN"}, s.Process.Capabilities.Bounding)
	})
	t.Run("all capabilities but one", func(t *testing.T) {
		s := build(t, func(in *Input) {
			in.Container.SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"ALL"}, Drop: []corev1.Capability{"CHOWN"}}}
		})
		require.Equal(t, []string{"CAP_SYS_ADMIN"}, s.Process.Capabilities.Effective)
	})
	t.Run("privileged", func(t *testing.T) {
		s := build(t, func(in *Input) { in.Container.SecurityContext = &corev1.SecurityContext{Privileged: &yes} })
		require.Empty(t, s.Linux.MaskedPaths)
		require.Equal(t, []string{"CAP_CHOWN", "CAP_SYS_ADMIN"}, s.Process.Capabilities.Bounding)
		require.True(t, slices.Contains(mount(s, "/sys/fs/cgroup").Options, "rw"))
	})
	t.Run("confined", func(t *testing.T) {
		s := build(t, func(in *Input) {
			in.Container.SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
		})
		require.True(t, s.Process.NoNewPrivileges)
		require.True(t, s.Root.Readonly)
		require.NotNil(t, s.Linux.Seccomp)
		require.NotEmpty(t, s.Linux.MaskedPaths)
	})
	t.Run("seccomp by default of the node", func(t *testing.T) {
		require.NotNil(t, build(t, func(in *Input) { in.Node.SeccompDefault = true }).Linux.Seccomp)
	})
	t.Run("container unconfined, pod confined", func(t *testing.T) {
		s := build(t, func(in *Input) {
			in.Pod.Spec.SecurityContext = &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
			in.Container.SecurityContext = &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}}
		})
		require.Nil(t, s.Linux.Seccomp)
	})
}

func TestBuildRefuses(t *testing.T) {
	yes, root, outside := true, int64(0), "../x"
	for name, change := range map[string]func(*Input){
		"root by image": func(in *Input) { in.Pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: &yes} },
		"root by user": func(in *Input) {
			in.Container.SecurityContext = &corev1.SecurityContext{RunAsNonRoot: &yes, RunAsUser: &root}
		},
		"user by name": func(in *Input) {
			in.Image.User = "joe"
			in.Container.SecurityContext = &corev1.SecurityContext{RunAsNonRoot: &yes}
		},
		"profile outside": func(in *Input) {
			in.Container.SecurityContext = &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: &outside}}
		},
		"unknown profile": func(in *Input) {
			in.Container.SecurityContext = &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: "Magic"}}
		},
		"odd propagation": func(in *Input) { in.Mounts = []Mount{{Propagation: "Sideways"}} },
	} {
		t.Run(name, func(t *testing.T) {
			in := Input{Pod: &corev1.Pod{}, Container: &corev1.Container{}}
			change(&in)
			_, err := Build(in)
			require.Error(t, err)
		})
	}
}

func TestMounts(t *testing.T) {
	s := build(t, func(in *Input) {
		in.Mounts = []Mount{{Source: "/a", Destination: "/data", ReadOnly: true}, {Source: "/b", Destination: "/dev/shm/"}, {Source: "/c", Destination: "/c", Propagation: corev1.MountPropagationBidirectional}}
	})
	require.Contains(t, mount(s, "/data").Options, "ro")
	require.Equal(t, "rshared", s.Linux.RootfsPropagation)
	require.Contains(t, mount(s, "/c").Options, "rshared")
}

func TestResources(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		out := corev1.ResourceList{}
		if cpu != "" {
			out["cpu"] = resource.MustParse(cpu)
		}
		if memory != "" {
			out["memory"] = resource.MustParse(memory)
		}
		return out
	}
	r := Resources(corev1.ResourceRequirements{Requests: list("250m", ""), Limits: list("500m", "64Mi")}, 100)
	require.Equal(t, uint64(256), *r.CPU.Shares)
	require.Equal(t, int64(50000), *r.CPU.Quota)
	require.Equal(t, int64(64<<20), *r.Memory.Limit)
	require.Equal(t, int64(100), *r.Pids.Limit)
	r = Resources(corev1.ResourceRequirements{Limits: list("1m", "")}, 0)
	require.Equal(t, uint64(2), *r.CPU.Shares, "a limit stands in for the request")
	require.Equal(t, int64(1000), *r.CPU.Quota, "the kernel's least")
	require.Nil(t, r.Pids)
}

func TestQoSAndOOMScore(t *testing.T) {
	q := func(s string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse(s)}
	}
	critical := int32(2000001000)
	for name, tc := range map[string]struct {
		r     corev1.ResourceRequirements
		prio  *int32
		want  corev1.PodQOSClass
		score int
	}{
		"nothing":   {corev1.ResourceRequirements{}, nil, corev1.PodQOSBestEffort, 1000},
		"equal":     {corev1.ResourceRequirements{Requests: q("1Gi"), Limits: q("1Gi")}, nil, corev1.PodQOSGuaranteed, -997},
		"limits":    {corev1.ResourceRequirements{Limits: q("1Gi")}, nil, corev1.PodQOSGuaranteed, -997},
		"less":      {corev1.ResourceRequirements{Requests: q("1Gi"), Limits: q("2Gi")}, nil, corev1.PodQOSBurstable, 750},
		"all of it": {corev1.ResourceRequirements{Requests: q("4Gi")}, nil, corev1.PodQOSBurstable, 3},
		"critical":  {corev1.ResourceRequirements{}, &critical, corev1.PodQOSBestEffort, -997},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Priority: tc.prio, Containers: []corev1.Container{{Resources: tc.r}}}}
			require.Equal(t, tc.want, QoS(pod))
			require.Equal(t, tc.score, OOMScore(pod, &pod.Spec.Containers[0], 4<<30))
		})
	}
}

func TestCheckSysctls(t *testing.T) {
	pod := func(name string, hostNet bool) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{HostNetwork: hostNet, SecurityContext: &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: name}}}}}
	}
	require.NoError(t, CheckSysctls(pod("net.ipv4.tcp_syncookies", false)))
	require.NoError(t, CheckSysctls(pod("net/ipv4/tcp_syncookies", false)))
	require.Error(t, CheckSysctls(pod("net.ipv4.tcp_syncookies", true)))
	require.Error(t, CheckSysctls(pod("kernel.panic", false)))
}
