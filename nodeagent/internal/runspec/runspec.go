// Package runspec turns a container of the API into a runtime specification.
// It does no I/O but what containerd's own options do (reading users from the
// image).
package runspec

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
)

// Namespaces are the paths of the pod's namespaces; empty means the host's,
// but for PID: empty means one of its own unless HostPID.
type Namespaces struct {
	Network, IPC, UTS, PID string
}

// Mount is one mount of a container.
type Mount struct {
	Source, Destination string
	ReadOnly            bool
	Recursive           bool // ReadOnly counts for mounts below as well
	Propagation         corev1.MountPropagationMode
}

// Node is what counts for all containers of a node.
type Node struct {
	SeccompDefault bool   // containers that name no profile get the runtime's
	SeccompDir     string // profiles of type Localhost
	PidsLimit      int64  // per container; 0 means none
	MinOOMScore    int    // the lowest oom_score_adj the agent may set
	Capabilities   []string
	CgroupV2       bool
}

// Input is all that decides how a container runs.
type Input struct {
	Pod        *corev1.Pod
	Container  *corev1.Container
	Image      ocispec.ImageConfig
	Env        []string
	Args       []string // command and args of the pod, expanded; see Args
	Namespaces Namespaces
	Mounts     []Mount
	Cgroup     string
	Hostname   string
	Shm        string // the pod's /dev/shm
	OOMScore   int
	Node       Node
}

// Args combines the command of the API with that of the image.
func Args(c *corev1.Container, image ocispec.ImageConfig, expand func([]string) []string) ([]string, error) {
	command, args := expand(c.Command), expand(c.Args)
	switch {
	case len(command) > 0:
		return append(command, args...), nil
	case len(args) > 0:
		return append(slices.Clone(image.Entrypoint), args...), nil
	}
	all := append(slices.Clone(image.Entrypoint), image.Cmd...)
	if len(all) == 0 {
		return nil, errors.New("no command specified")
	}
	return all, nil
}

// Build returns the options that make the specification. An error means that
// the pod asks for something that is wrong or that this node can not do.
func Build(in Input) ([]oci.SpecOpts, error) {
	c := in.Container
	cwd := c.WorkingDir
	if cwd == "" {
		cwd = in.Image.WorkingDir
	}
	if cwd == "" {
		cwd = "/"
	}
	user, err := userOpts(in)
	if err != nil {
		return nil, err
	}
	mounts, err := mountOpts(in)
	if err != nil {
		return nil, err
	}
	secure, err := securityOpts(in)
	if err != nil {
		return nil, err
	}
	opts := []oci.SpecOpts{
		reset, oci.WithoutRunMount, oci.WithProcessCwd(cwd), oci.WithProcessArgs(in.Args...),
		oci.WithEnv(defaultPath(in.Image.Env)), oci.WithEnv([]string{"HOSTNAME=" + in.Hostname}), oci.WithEnv(in.Env),
		oci.WithCgroup(in.Cgroup), namespaces(in), resources(in), oomScore(in), mounts,
	}
	if c.TTY {
		opts = append(opts, oci.WithTTY)
	}
	opts = append(opts, user...)
	opts = append(opts, secure...)
	return append(opts, sysctls(in.Pod)), nil
}

// reset takes back defaults that the API does not have: limits on open files
// come from the daemon, privileges from the security context.
func reset(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
	s.Process.Rlimits = nil
	s.Process.NoNewPrivileges = false
	s.Linux.Devices = nil
	return nil
}

func defaultPath(env []string) []string {
	if slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		return env
	}
	return append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, env...)
}

func namespaces(in Input) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
		add := func(kind specs.LinuxNamespaceType, path string) {
			if path != "" {
				list = append(list, specs.LinuxNamespace{Type: kind, Path: path})
			}
		}
		add(specs.NetworkNamespace, in.Namespaces.Network)
		add(specs.IPCNamespace, in.Namespaces.IPC)
		add(specs.UTSNamespace, in.Namespaces.UTS)
		switch {
		case in.Namespaces.PID != "":
			add(specs.PIDNamespace, in.Namespaces.PID)
		case !in.Pod.Spec.HostPID:
			list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace})
		}
		if in.Node.CgroupV2 {
			list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		}
		s.Linux.Namespaces = list
		return nil
	}
}

func oomScore(in Input) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		score := max(in.OOMScore, in.Node.MinOOMScore)
		s.Process.OOMScoreAdj = &score
		return nil
	}
}

func sysctls(pod *corev1.Pod) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		sc := pod.Spec.SecurityContext
		if sc == nil || len(sc.Sysctls) == 0 {
			return nil
		}
		s.Linux.Sysctl = map[string]string{}
		for _, kv := range sc.Sysctls {
			s.Linux.Sysctl[kv.Name] = kv.Value
		}
		return nil
	}
}

// safeSysctls are those a pod may set without the operator's leave; all of
// them are confined to namespaces.
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

// CheckSysctls returns an error naming a sysctl that is not safe, or that
// would be the host's.
func CheckSysctls(pod *corev1.Pod) error {
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return nil
	}
	for _, kv := range sc.Sysctls {
		name := strings.ReplaceAll(kv.Name, "/", ".")
		switch {
		case !slices.Contains(safeSysctls, name):
			return fmt.Errorf("forbidden sysctl: %q is not allowlisted", kv.Name)
		case strings.HasPrefix(name, "net.") && pod.Spec.HostNetwork:
			return fmt.Errorf("forbidden sysctl: %q not allowed with host net enabled", kv.Name)
		case strings.HasPrefix(name, "kernel.shm") && pod.Spec.HostIPC:
			return fmt.Errorf("forbidden sysctl: %q not allowed with host ipc enabled", kv.Name)
		}
	}
	return nil
}

func mountOpts(in Input) (oci.SpecOpts, error) {
	extra := []specs.Mount{}
	if in.Shm != "" {
		extra = append(extra, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: in.Shm, Options: []string{"rbind", "rprivate", "nosuid", "nodev", "noexec", "rw"}})
	}
	mode := "ro"
	if privileged(in.Container) {
		mode = "rw"
	}
	extra = append(extra, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", mode}})
	for _, m := range in.Mounts {
		options := []string{"rbind", "rprivate"}
		switch m.Propagation {
		case corev1.MountPropagationNone, "":
		case corev1.MountPropagationHostToContainer:
			options[1] = "rslave"
		case corev1.MountPropagationBidirectional:
			options[1] = "rshared"
		default:
			return nil, fmt.Errorf("mount propagation %q is not supported", m.Propagation)
		}
		switch {
		case m.ReadOnly && m.Recursive:
			options = append(options, "rro")
		case m.ReadOnly:
			options = append(options, "ro")
		default:
			options = append(options, "rw")
		}
		extra = append(extra, specs.Mount{Destination: m.Destination, Type: "bind", Source: m.Source, Options: options})
	}
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		for _, m := range extra {
			s.Mounts = slices.DeleteFunc(s.Mounts, func(have specs.Mount) bool {
				return filepath.Clean(have.Destination) == filepath.Clean(m.Destination)
			})
		}
		s.Mounts = append(s.Mounts, extra...)
		s.Linux.RootfsPropagation = propagation(in.Mounts)
		return nil
	}, nil
}

func propagation(mounts []Mount) string {
	out := ""
	for _, m := range mounts {
		switch m.Propagation {
		case corev1.MountPropagationBidirectional:
			return "rshared"
		case corev1.MountPropagationHostToContainer:
			out = "rslave"
		default: // private is the default
		}
	}
	return out
}

// userOpts decides who the process runs as.
func userOpts(in Input) ([]oci.SpecOpts, error) {
	psc, sc := in.Pod.Spec.SecurityContext, in.Container.SecurityContext
	var user, group *int64
	var nonRoot *bool
	var groups []int64
	merge := true
	if psc != nil {
		user, group, nonRoot = psc.RunAsUser, psc.RunAsGroup, psc.RunAsNonRoot
		groups = append(groups, psc.SupplementalGroups...)
		if psc.FSGroup != nil {
			groups = append(groups, *psc.FSGroup)
		}
		if p := psc.SupplementalGroupsPolicy; p != nil && *p == corev1.SupplementalGroupsPolicyStrict {
			merge = false
		}
	}
	if sc != nil {
		if sc.RunAsUser != nil {
			user = sc.RunAsUser
		}
		if sc.RunAsGroup != nil {
			group = sc.RunAsGroup
		}
		if sc.RunAsNonRoot != nil {
			nonRoot = sc.RunAsNonRoot
		}
	}
	if nonRoot != nil && *nonRoot {
		if err := checkNonRoot(user, in.Image.User); err != nil {
			return nil, err
		}
	}
	var opts []oci.SpecOpts
	name := in.Image.User
	if user != nil {
		name = strconv.FormatInt(*user, 10)
		opts = append(opts, oci.WithUserID(uint32(*user)))
	} else if name != "" {
		opts = append(opts, oci.WithUser(name))
	}
	if merge && name != "" {
		base, _, _ := strings.Cut(name, ":")
		opts = append(opts, oci.WithAdditionalGIDs(base))
	}
	return append(opts, func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		u := &s.Process.User
		if group != nil {
			u.GID = uint32(*group)
		}
		for _, g := range append([]int64{int64(u.GID)}, groups...) {
			if !slices.Contains(u.AdditionalGids, uint32(g)) {
				u.AdditionalGids = append(u.AdditionalGids, uint32(g))
			}
		}
		return nil
	}), nil
}

func checkNonRoot(user *int64, image string) error {
	if user != nil {
		if *user == 0 {
			return errors.New("container's runAsUser breaks non-root policy")
		}
		return nil
	}
	name, _, _ := strings.Cut(image, ":")
	uid, err := strconv.ParseInt(name, 10, 64)
	switch {
	case name == "" || err == nil && uid == 0:
		return errors.New("container has runAsNonRoot and image will run as root")
	case err != nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root", name)
	}
	return nil
}

func privileged(c *corev1.Container) bool {
	return c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
}

// securityOpts decides what the process may do.
func securityOpts(in Input) ([]oci.SpecOpts, error) {
	sc := in.Container.SecurityContext
	if privileged(in.Container) {
		return []oci.SpecOpts{
			oci.WithCapabilities(in.Node.Capabilities), oci.WithAmbientCapabilities(nil),
			oci.WithMaskedPaths(nil), oci.WithReadonlyPaths(nil), oci.WithWriteableSysfs, oci.WithApparmorProfile(""),
			oci.WithHostDevices, oci.WithAllDevicesAllowed, readonlyRoot(sc), oci.WithSeccompUnconfined,
		}, nil
	}
	opts := []oci.SpecOpts{oci.WithDefaultUnixDevices, readonlyRoot(sc)}
	if sc != nil {
		if sc.Capabilities != nil {
			opts = append(opts, capabilities(sc.Capabilities, in.Node.Capabilities)...)
		}
		if a := sc.AllowPrivilegeEscalation; a != nil && !*a {
			opts = append(opts, oci.WithNoNewPrivileges)
		}
		if sc.ProcMount != nil && *sc.ProcMount == corev1.UnmaskedProcMount {
			opts = append(opts, oci.WithMaskedPaths(nil), oci.WithReadonlyPaths(nil))
		}
	}
	profile, err := seccompOpt(in)
	if err != nil {
		return nil, err
	}
	return append(opts, profile), nil
}

func readonlyRoot(sc *corev1.SecurityContext) oci.SpecOpts {
	if sc != nil && sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem {
		return oci.WithRootFSReadonly()
	}
	return func(context.Context, oci.Client, *containers.Container, *oci.Spec) error { return nil }
}

func capabilities(c *corev1.Capabilities, all []string) []oci.SpecOpts {
	var opts []oci.SpecOpts
	if has(c.Add, "ALL") {
		opts = append(opts, oci.WithCapabilities(all))
	}
	if has(c.Drop, "ALL") {
		opts = append(opts, oci.WithCapabilities(nil))
	}
	return append(opts, oci.WithAddedCapabilities(capNames(c.Add)), oci.WithDroppedCapabilities(capNames(c.Drop)))
}

func has(list []corev1.Capability, name string) bool {
	return slices.ContainsFunc(list, func(c corev1.Capability) bool { return strings.EqualFold(string(c), name) })
}

func capNames(list []corev1.Capability) []string {
	var out []string
	for _, c := range list {
		name := strings.ToUpper(string(c))
		if name == "ALL" {
			continue
		}
		out = append(out, "CAP_"+strings.TrimPrefix(name, "CAP_"))
	}
	return out
}

// seccompOpt follows the order container, pod, node default.
func seccompOpt(in Input) (oci.SpecOpts, error) {
	var p *corev1.SeccompProfile
	if sc := in.Pod.Spec.SecurityContext; sc != nil {
		p = sc.SeccompProfile
	}
	if sc := in.Container.SecurityContext; sc != nil && sc.SeccompProfile != nil {
		p = sc.SeccompProfile
	}
	kind := corev1.SeccompProfileTypeUnconfined
	switch {
	case p != nil:
		kind = p.Type
	case in.Node.SeccompDefault:
		kind = corev1.SeccompProfileTypeRuntimeDefault
	}
	switch kind {
	case corev1.SeccompProfileTypeUnconfined:
		return oci.WithSeccompUnconfined, nil
	case corev1.SeccompProfileTypeRuntimeDefault:
		return seccomp.WithDefaultProfile(), nil
	case corev1.SeccompProfileTypeLocalhost:
		if p.LocalhostProfile == nil || !filepath.IsLocal(*p.LocalhostProfile) {
			return nil, errors.New("seccomp profile of type Localhost needs a local path")
		}
		return seccomp.WithProfile(filepath.Join(in.Node.SeccompDir, *p.LocalhostProfile)), nil
	default:
		return nil, fmt.Errorf("seccomp profile type %q is not supported", kind)
	}
}
