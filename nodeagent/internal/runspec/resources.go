package runspec

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// The kernel's limits of CPU control.
const (
	minShares = 2
	maxShares = 262144
	period    = 100000 // microseconds
	minQuota  = 1000
)

// Shares converts a CPU request to cgroup shares.
func Shares(milli int64) uint64 {
	return uint64(min(max(milli*1024/1000, minShares), maxShares))
}

// Quota converts a CPU limit to microseconds per period; 0 means no limit.
func Quota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*period/1000, minQuota)
}

// Resources converts requests and limits to those of the runtime.
func Resources(r corev1.ResourceRequirements, pids int64) *specs.LinuxResources {
	request := r.Requests.Cpu().MilliValue()
	if _, ok := r.Requests[corev1.ResourceCPU]; !ok {
		request = r.Limits.Cpu().MilliValue()
	}
	shares := Shares(request)
	out := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}, Memory: &specs.LinuxMemory{}}
	if quota := Quota(r.Limits.Cpu().MilliValue()); quota > 0 {
		p := uint64(period)
		out.CPU.Quota, out.CPU.Period = &quota, &p
	}
	if limit := r.Limits.Memory().Value(); limit > 0 {
		out.Memory.Limit = &limit
	}
	if pids > 0 {
		out.Pids = &specs.LinuxPids{Limit: &pids}
	}
	return out
}

func resources(in Input) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		r := Resources(in.Container.Resources, in.Node.PidsLimit)
		r.Devices = s.Linux.Resources.Devices
		s.Linux.Resources = r
		return nil
	}
}

// QoS classifies a pod by its requests and limits.
func QoS(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	any, guaranteed := false, true
	each := func(r corev1.ResourceRequirements) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			limit, hasLimit := r.Limits[name]
			request, hasRequest := r.Requests[name]
			hasLimit, hasRequest = hasLimit && !limit.IsZero(), hasRequest && !request.IsZero()
			any = any || hasLimit || hasRequest
			if !hasLimit || hasRequest && request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	}
	if r := pod.Spec.Resources; r != nil && (len(r.Limits) > 0 || len(r.Requests) > 0) {
		each(*r)
	} else {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				each(list[i].Resources)
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	default:
		return corev1.PodQOSBurstable
	}
}

// OOMScore says how early the kernel kills a container when memory is short:
// the more it uses beyond its request, the earlier.
func OOMScore(pod *corev1.Pod, c *corev1.Container, capacity int64) int {
	const critical = 2000000000 // priority of node-critical pods begins near here
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= critical {
		return -997
	}
	switch QoS(pod) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	default:
		if capacity <= 0 {
			return 999
		}
		score := 1000 - int(1000*c.Resources.Requests.Memory().Value()/capacity)
		return min(max(score, 3), 999)
	}
}

// OwnCapabilities lists the capabilities this process may pass on.
func OwnCapabilities() ([]string, error) {
	caps, err := cap.Current()
	if err != nil {
		return nil, fmt.Errorf("read own capabilities: %w", err)
	}
	return caps, nil
}

// MinOOMScore is the lowest oom_score_adj that may be set: a process without
// CAP_SYS_RESOURCE can not go below its own.
func MinOOMScore(caps []string) int {
	const lowest = -1000
	if slices.Contains(caps, "CAP_SYS_RESOURCE") {
		return lowest
	}
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return n
}

// CgroupV2 reports whether the machine has only the unified hierarchy.
func CgroupV2() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}
