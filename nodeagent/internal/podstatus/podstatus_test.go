package podstatus

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/rutter-project/rutter/nodeagent/internal/podstate"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func pod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u", Generation: 3}, Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "i"}}, Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}, RestartPolicy: corev1.RestartPolicyNever}}
}

func facts(p *corev1.Pod, state podstate.State, containers ...podstate.Container) Facts {
	spec := podstate.SpecOf(p, podstate.DefaultBackoff())
	s := podstate.New("u", spec, t0)
	s.State, s.IPs = state, []string{"10.0.0.1", "fd00::1"}
	for i, c := range containers {
		c.Name = s.Containers[i].Name
		s.Containers[i] = c
	}
	return Facts{State: s, Spec: spec, HostIPs: []string{"192.0.2.1"}}
}

func exit(code int32) *podstate.Exit { return &podstate.Exit{ID: "x", Code: code, Reason: "Error"} }

func condition(s corev1.PodStatus, kind corev1.PodConditionType) corev1.PodCondition {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.PodCondition{}
}

func TestPhaseAndReadiness(t *testing.T) {
	type c = podstate.Container
	done := c{State: podstate.Done, Exit: exit(0)}
	runs := c{State: podstate.Running, ID: "x", Ready: true, Started: true}
	for name, tc := range map[string]struct {
		state      podstate.State
		containers []c
		phase      corev1.PodPhase
		ready      bool
	}{
		"preparing":   {podstate.Preparing, []c{{State: podstate.Pulling}, {State: podstate.Waiting}, {State: podstate.Waiting}}, corev1.PodPending, false},
		"init runs":   {podstate.Active, []c{runs, {State: podstate.Waiting}, {State: podstate.Waiting}}, corev1.PodPending, false},
		"one starts":  {podstate.Active, []c{done, runs, {State: podstate.Starting}}, corev1.PodPending, false},
		"both run":    {podstate.Active, []c{done, runs, runs}, corev1.PodRunning, true},
		"one unready": {podstate.Active, []c{done, runs, {State: podstate.Running}}, corev1.PodRunning, false},
		"one crashed": {podstate.Active, []c{done, runs, {State: podstate.Crashed, Exit: exit(1)}}, corev1.PodRunning, false},
		"one done":    {podstate.Active, []c{done, runs, done}, corev1.PodRunning, false},
		"stopping":    {podstate.Stopping, []c{done, {State: podstate.Terminating, ID: "x"}, done}, corev1.PodRunning, false},
		"succeeded":   {podstate.Releasing, []c{done, done, done}, corev1.PodSucceeded, false},
		"failed":      {podstate.Released, []c{done, done, {State: podstate.Done, Exit: exit(2)}}, corev1.PodFailed, false},
		"never began": {podstate.Released, []c{{State: podstate.Done}, {State: podstate.Done}, {State: podstate.Done}}, corev1.PodFailed, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := pod()
			s := Build(p, facts(p, tc.state, tc.containers...), t0)
			require.Equal(t, tc.phase, s.Phase)
			require.Equal(t, tc.ready, condition(s, corev1.PodReady).Status == corev1.ConditionTrue)
			require.Equal(t, int64(3), s.ObservedGeneration)
			require.Equal(t, "10.0.0.1", s.PodIP)
			require.Len(t, s.PodIPs, 2)
			require.Equal(t, "192.0.2.1", s.HostIP)
			require.Len(t, s.ContainerStatuses, 2)
			require.Len(t, s.InitContainerStatuses, 1)
		})
	}
}

func TestWaitingReasons(t *testing.T) {
	p := pod()
	s := Build(p, facts(p, podstate.Active, podstate.Container{State: podstate.PullBackoff, Reason: "ErrImagePull", Message: "no"}), t0)
	require.Equal(t, "ErrImagePull", s.InitContainerStatuses[0].State.Waiting.Reason)
	require.Equal(t, "PodInitializing", s.ContainerStatuses[0].State.Waiting.Reason)
	s = Build(p, facts(p, podstate.Active, podstate.Container{State: podstate.Done, Exit: exit(0)},
		podstate.Container{State: podstate.Crashed, Reason: "CrashLoopBackOff", Restarts: 2, Exit: exit(1), Last: exit(3)}), t0)
	a := s.ContainerStatuses[0]
	require.Equal(t, "CrashLoopBackOff", a.State.Waiting.Reason)
	require.Equal(t, int32(3), a.LastTerminationState.Terminated.ExitCode)
	require.Equal(t, int32(2), a.RestartCount)
	require.Equal(t, "ContainerCreating", s.ContainerStatuses[1].State.Waiting.Reason)
}

func TestConditionsOfOthersAndTimesStay(t *testing.T) {
	p := pod()
	p.Status.Conditions = []corev1.PodCondition{{Type: "example.com/gate", Status: corev1.ConditionFalse}, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
	p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}}
	run := podstate.Container{State: podstate.Running, Ready: true, Started: true, Passed: true}
	f := facts(p, podstate.Active, podstate.Container{State: podstate.Done, Exit: exit(0)}, run, run)
	s := Build(p, f, t0)
	require.Equal(t, corev1.ConditionTrue, condition(s, corev1.ContainersReady).Status)
	require.Equal(t, "ReadinessGatesNotReady", condition(s, corev1.PodReady).Reason)
	require.Equal(t, corev1.ConditionFalse, condition(s, "example.com/gate").Status)
	f.Shown = s.Conditions
	again := Build(p, f, t0.Add(time.Hour))
	require.Equal(t, s, again, "nothing changed, nothing differs")
}

func TestPatchTurnsOneIntoTheOther(t *testing.T) {
	p := pod()
	run := podstate.Container{State: podstate.Running, Ready: true}
	from := Build(p, facts(p, podstate.Preparing), t0)
	to := Build(p, facts(p, podstate.Active, podstate.Container{State: podstate.Done, Exit: exit(0)}, run, run), t0.Add(time.Minute))
	patch, err := Patch("u", from, to)
	require.NoError(t, err)
	require.Contains(t, string(patch), `"uid":"u"`)
	before, err := json.Marshal(corev1.Pod{Status: from})
	require.NoError(t, err)
	after, err := strategicpatch.StrategicMergePatch(before, patch, corev1.Pod{})
	require.NoError(t, err)
	var got corev1.Pod
	require.NoError(t, json.Unmarshal(after, &got))
	want, err := json.Marshal(to)
	require.NoError(t, err)
	is, err := json.Marshal(got.Status)
	require.NoError(t, err)
	require.JSONEq(t, string(want), string(is))
	none, err := Patch("u", to, to)
	require.NoError(t, err)
	require.Nil(t, none)
}
