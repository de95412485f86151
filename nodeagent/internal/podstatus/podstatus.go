// Package podstatus says what the API shows of a pod on this node. It is pure.
package podstatus

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/podstate"
	"github.com/rutter-project/rutter/nodeagent/internal/runspec"
)

// Facts is what a status is made from, beside the API object.
type Facts struct {
	State   podstate.Pod
	Spec    podstate.Spec
	HostIPs []string
	// Shown are the conditions of the status built last: times of conditions
	// that did not change are taken over.
	Shown []corev1.PodCondition
}

// Build returns the whole status of a pod. Conditions that others own are
// taken over from the object.
func Build(pod *corev1.Pod, f Facts, now time.Time) corev1.PodStatus {
	p, spec, hostIPs := f.State, f.Spec, f.HostIPs
	b := &builder{pod: pod, p: p, spec: spec, shown: f.Shown, now: metav1.NewTime(now)}
	s := corev1.PodStatus{
		ObservedGeneration: pod.Generation,
		Phase:              b.phase(),
		QOSClass:           runspec.QoS(pod),
		StartTime:          timestamp(p.StartTime),
		NominatedNodeName:  pod.Status.NominatedNodeName,
		Conditions:         slices.Clone(pod.Status.Conditions),
	}
	if p.Stop != nil && s.Phase == corev1.PodFailed {
		s.Reason, s.Message = p.Stop.Reason, p.Stop.Message
	}
	for _, ip := range hostIPs {
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip})
	}
	if len(hostIPs) > 0 {
		s.HostIP = hostIPs[0]
	}
	ips := p.IPs
	if len(ips) == 0 { // a pod keeps showing the addresses it had
		for _, ip := range pod.Status.PodIPs {
			ips = append(ips, ip.IP)
		}
	}
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		s.PodIP = ips[0]
	}
	for i := range p.Containers {
		cs := b.container(i)
		if spec.Containers[i].Role == podstate.App {
			s.ContainerStatuses = append(s.ContainerStatuses, cs)
		} else {
			s.InitContainerStatuses = append(s.InitContainerStatuses, cs)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		e := &pod.Spec.EphemeralContainers[i]
		s.EphemeralContainerStatuses = append(s.EphemeralContainerStatuses, corev1.ContainerStatus{
			Name: e.Name, Image: e.Image, State: waiting("NotSupported", "this node agent does not run ephemeral containers"),
		})
	}
	b.conditions(&s)
	return s
}

type builder struct {
	pod  *corev1.Pod
	p    podstate.Pod
	spec podstate.Spec

	shown []corev1.PodCondition
	now   metav1.Time
}

func timestamp(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	m := metav1.NewTime(t).Rfc3339Copy()
	return &m
}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

// ended reports whether no container will run any more.
func (b *builder) ended() bool {
	switch b.p.State {
	case podstate.Releasing, podstate.Released, podstate.Removing, podstate.Removed:
		return true
	default:
		return false
	}
}

// initDone reports whether init container i no longer holds up the rest.
func (b *builder) initDone(i int) bool {
	c := &b.p.Containers[i]
	if b.spec.Containers[i].Role == podstate.Sidecar {
		return c.Passed
	}
	return c.State == podstate.Done && c.Exit != nil && c.Exit.Code == 0
}

func (b *builder) initialized() bool {
	for i := range b.p.Containers {
		if b.spec.Containers[i].Role != podstate.App && !b.initDone(i) {
			return false
		}
	}
	return true
}

func (b *builder) phase() corev1.PodPhase {
	if b.ended() {
		if b.p.Stop != nil && b.p.Stop.Failed {
			return corev1.PodFailed
		}
		for i, c := range b.p.Containers {
			if b.spec.Containers[i].Role == podstate.App && (c.Exit == nil || c.Exit.Code != 0) {
				return corev1.PodFailed
			}
		}
		return corev1.PodSucceeded
	}
	if !b.initialized() {
		return corev1.PodPending
	}
	for i, c := range b.p.Containers {
		began := c.Exit != nil || c.Last != nil || c.State.Alive() && c.State != podstate.Starting
		if b.spec.Containers[i].Role == podstate.App && !began {
			return corev1.PodPending
		}
	}
	return corev1.PodRunning
}

func (b *builder) container(i int) corev1.ContainerStatus {
	c, spec := &b.p.Containers[i], b.spec.Containers[i]
	started := c.Started
	cs := corev1.ContainerStatus{
		Name: c.Name, Image: c.Image, RestartCount: int32(c.Restarts),
		Ready: c.Ready, Started: &started,
	}
	if c.ID != "" && c.State != podstate.Starting {
		cs.ContainerID, cs.ImageID = "containerd://"+c.ID, c.ImageID // an image that is only present is no news
	}
	if spec.Role == podstate.Init {
		cs.Ready = b.initDone(i)
	}
	switch c.State {
	case podstate.Greeting, podstate.Running, podstate.PreStop, podstate.Terminating, podstate.Killed:
		cs.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: stamp(c.StartedAt)}}
		b.resources(&cs)
	case podstate.Done:
		if c.Exit != nil {
			cs.State = terminated(c.Exit)
		} else {
			cs.State = waiting(b.idleReason(c, spec), "")
		}
	default:
		cs.State = waiting(b.idleReason(c, spec), c.Message)
	}
	switch {
	case c.Last != nil:
		cs.LastTerminationState = terminated(c.Last)
	case c.Exit != nil && cs.State.Terminated == nil:
		cs.LastTerminationState = terminated(c.Exit)
	}
	return cs
}

// resources shows what a running container was given.
func (b *builder) resources(cs *corev1.ContainerStatus) {
	for _, list := range [][]corev1.Container{b.pod.Spec.InitContainers, b.pod.Spec.Containers} {
		for i := range list {
			if list[i].Name != cs.Name {
				continue
			}
			r := list[i].Resources
			if len(r.Limits) > 0 || len(r.Requests) > 0 {
				cs.AllocatedResources = r.Requests
				cs.Resources = &corev1.ResourceRequirements{Limits: r.Limits, Requests: r.Requests}
			}
		}
	}
}

func (b *builder) idleReason(c *podstate.Container, spec podstate.ContainerSpec) string {
	if c.Reason != "" {
		return c.Reason
	}
	hasInit := len(b.pod.Spec.InitContainers) > 0
	if hasInit && (spec.Role != podstate.App || !b.initialized()) {
		return "PodInitializing"
	}
	return "ContainerCreating"
}

func stamp(t time.Time) metav1.Time { return metav1.NewTime(t).Rfc3339Copy() }

func terminated(e *podstate.Exit) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: e.Code, Reason: e.Reason, Message: e.Message,
		StartedAt: stamp(e.StartedAt), FinishedAt: stamp(e.FinishedAt), ContainerID: "containerd://" + e.ID,
	}}
}

func (b *builder) conditions(s *corev1.PodStatus) {
	b.set(s, corev1.PodReadyToStartContainers, len(b.p.IPs) > 0 && !b.ended(), "", "")
	var uninit, unready []string
	for i := range b.p.Containers {
		c := &b.p.Containers[i]
		switch b.spec.Containers[i].Role {
		case podstate.App:
			if !c.Ready {
				unready = append(unready, c.Name)
			}
		case podstate.Sidecar:
			if !b.initDone(i) {
				uninit = append(uninit, c.Name)
			}
			if !c.Ready {
				unready = append(unready, c.Name)
			}
		case podstate.Init:
			if !b.initDone(i) {
				uninit = append(uninit, c.Name)
			}
		}
	}
	switch {
	case s.Phase == corev1.PodSucceeded:
		b.set(s, corev1.PodInitialized, true, "PodCompleted", "")
	case len(uninit) > 0:
		b.set(s, corev1.PodInitialized, false, "ContainersNotInitialized", names("incomplete", uninit))
	default:
		b.set(s, corev1.PodInitialized, true, "", "")
	}
	reason, message := "", ""
	switch {
	case s.Phase == corev1.PodSucceeded:
		reason = "PodCompleted"
	case s.Phase == corev1.PodFailed:
		reason = "PodFailed"
	case len(unready) > 0:
		reason, message = "ContainersNotReady", names("unready", unready)
	}
	b.set(s, corev1.ContainersReady, reason == "", reason, message)
	if gates := b.closedGates(s); reason == "" && len(gates) > 0 {
		reason = "ReadinessGatesNotReady"
		message = fmt.Sprintf("the status of pod readiness gate %q is not \"True\"", gates[0])
	}
	b.set(s, corev1.PodReady, reason == "", reason, message)
	if !slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodScheduled }) {
		b.set(s, corev1.PodScheduled, true, "", "")
	}
}

func names(what string, list []string) string {
	return "containers with " + what + " status: [" + strings.Join(list, " ") + "]"
}

func (b *builder) closedGates(s *corev1.PodStatus) []string {
	var out []string
	for _, g := range b.pod.Spec.ReadinessGates {
		open := slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == g.ConditionType && c.Status == corev1.ConditionTrue
		})
		if !open {
			out = append(out, string(g.ConditionType))
		}
	}
	return out
}

func (b *builder) set(s *corev1.PodStatus, kind corev1.PodConditionType, ok bool, reason, message string) {
	status := corev1.ConditionFalse
	if ok {
		status = corev1.ConditionTrue
	}
	next := corev1.PodCondition{
		Type: kind, Status: status, Reason: reason, Message: message,
		ObservedGeneration: b.pod.Generation, LastTransitionTime: b.now.Rfc3339Copy(),
	}
	same := func(c corev1.PodCondition) bool { return c.Type == kind && c.Status == status }
	i := slices.IndexFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind })
	if j := slices.IndexFunc(b.shown, same); j >= 0 {
		next.LastTransitionTime = b.shown[j].LastTransitionTime
	} else if i >= 0 && same(s.Conditions[i]) {
		next.LastTransitionTime = s.Conditions[i].LastTransitionTime
	}
	if i < 0 {
		s.Conditions = append(s.Conditions, next)
		return
	}
	s.Conditions[i] = next
}
