package podstate

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Role is the part a container plays in its pod.
type Role int

// The roles.
const (
	Init    Role = iota // runs to its end before the next starts
	Sidecar             // an init container that keeps running beside the others
	App
)

// ContainerSpec is the part of a container's specification that decisions rest on.
type ContainerSpec struct {
	Name         string
	Image        string
	Role         Role
	Policy       corev1.ContainerRestartPolicy // Always, OnFailure or Never
	Rules        []corev1.ContainerRestartRule // go before Policy
	PostStart    bool
	PreStop      bool
	Startup      bool // has a startup probe
	Liveness     bool
	Readiness    bool
	LivenessStop time.Duration // grace after a failed liveness probe
	StartupStop  time.Duration // grace after a failed startup probe
}

// Spec is the part of a pod's specification that decisions rest on, and the
// node's limits for them.
type Spec struct {
	Containers []ContainerSpec // init containers first
	Grace      time.Duration   // terminationGracePeriodSeconds
	Deadline   time.Duration   // activeDeadlineSeconds, 0 for none
	Backoff    Backoff
}

// Backoff says how long to wait between tries.
type Backoff struct {
	First time.Duration // before the second restart and the second pull
	Max   time.Duration // doubling ends here; twice this much healthy time forgets
}

// DefaultBackoff is the back-off of kubelet: 10 s doubling to 5 min.
func DefaultBackoff() Backoff { return Backoff{First: 10 * time.Second, Max: 5 * time.Minute} }

func (b Backoff) next(d time.Duration) time.Duration {
	if d == 0 {
		return b.First
	}
	return min(2*d, b.Max)
}

// SpecOf reads a pod.
func SpecOf(pod *corev1.Pod, backoff Backoff) Spec {
	s := Spec{Grace: seconds(pod.Spec.TerminationGracePeriodSeconds, 30), Backoff: backoff}
	if d := pod.Spec.ActiveDeadlineSeconds; d != nil {
		s.Deadline = time.Duration(*d) * time.Second
	}
	for i := range pod.Spec.InitContainers {
		c := containerSpec(&pod.Spec.InitContainers[i], pod, s.Grace)
		switch {
		case c.Policy == corev1.ContainerRestartPolicyAlways && pod.Spec.InitContainers[i].RestartPolicy != nil:
			c.Role = Sidecar
		case c.Policy == corev1.ContainerRestartPolicyAlways:
			c.Role, c.Policy = Init, corev1.ContainerRestartPolicyOnFailure
		default:
			c.Role = Init
		}
		s.Containers = append(s.Containers, c)
	}
	for i := range pod.Spec.Containers {
		s.Containers = append(s.Containers, containerSpec(&pod.Spec.Containers[i], pod, s.Grace))
	}
	return s
}

func containerSpec(c *corev1.Container, pod *corev1.Pod, grace time.Duration) ContainerSpec {
	out := ContainerSpec{
		Name: c.Name, Image: c.Image, Role: App, Rules: c.RestartPolicyRules,
		Startup: c.StartupProbe != nil, Liveness: c.LivenessProbe != nil, Readiness: c.ReadinessProbe != nil,
		Policy:       corev1.ContainerRestartPolicy(pod.Spec.RestartPolicy),
		LivenessStop: grace, StartupStop: grace,
	}
	if out.Policy == "" {
		out.Policy = corev1.ContainerRestartPolicyAlways
	}
	if c.RestartPolicy != nil {
		out.Policy = *c.RestartPolicy
	}
	if c.Lifecycle != nil {
		out.PostStart, out.PreStop = c.Lifecycle.PostStart != nil, c.Lifecycle.PreStop != nil
	}
	if p := c.LivenessProbe; p != nil && p.TerminationGracePeriodSeconds != nil {
		out.LivenessStop = seconds(p.TerminationGracePeriodSeconds, 0)
	}
	if p := c.StartupProbe; p != nil && p.TerminationGracePeriodSeconds != nil {
		out.StartupStop = seconds(p.TerminationGracePeriodSeconds, 0)
	}
	return out
}

// restarts reports whether the container runs again after this exit code.
func (c ContainerSpec) restarts(code int32) bool {
	for _, r := range c.Rules {
		if r.ExitCodes == nil || r.Action != corev1.ContainerRestartRuleActionRestart {
			continue
		}
		in := slices.Contains(r.ExitCodes.Values, code)
		if in == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return true
		}
	}
	switch c.Policy {
	case corev1.ContainerRestartPolicyNever:
		return false
	case corev1.ContainerRestartPolicyOnFailure:
		return code != 0
	default: // Always is the API's default
		return true
	}
}

func seconds(s *int64, otherwise int64) time.Duration {
	if s == nil {
		return time.Duration(otherwise) * time.Second
	}
	return time.Duration(*s) * time.Second
}
