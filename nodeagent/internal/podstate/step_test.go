package podstate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// at is a time so many seconds into the story.
func at(seconds float64) time.Time { return t0.Add(time.Duration(seconds * float64(time.Second))) }

// app, initc and sidecar make container specs.
func app(name string) ContainerSpec {
	return ContainerSpec{Name: name, Image: "img", Role: App, Policy: corev1.ContainerRestartPolicyAlways, LivenessStop: 30 * time.Second, StartupStop: 30 * time.Second}
}

func with(c ContainerSpec, change func(*ContainerSpec)) ContainerSpec { change(&c); return c }

func never(c ContainerSpec) ContainerSpec {
	c.Policy = corev1.ContainerRestartPolicyNever
	return c
}

func onFailure(c ContainerSpec) ContainerSpec {
	c.Policy = corev1.ContainerRestartPolicyOnFailure
	return c
}

func initc(name string) ContainerSpec {
	c := onFailure(app(name))
	c.Role = Init
	return c
}

func sidecar(name string) ContainerSpec {
	c := app(name)
	c.Role = Sidecar
	return c
}

func specOf(containers ...ContainerSpec) Spec {
	return Spec{Containers: containers, Grace: 30 * time.Second, Backoff: DefaultBackoff()}
}

// story drives a pod and remembers what it was told to do.
type story struct {
	t    *testing.T
	spec Spec
	pod  Pod
	now  time.Time
	last []Action
}

func begin(t *testing.T, spec Spec) *story {
	s := &story{t: t, spec: spec, pod: New("uid", spec, t0), now: t0}
	s.tell(0, Begin{})
	return s
}

// tell advances the clock to so many seconds and brings an event.
func (s *story) tell(seconds float64, ev Event) *story {
	s.now = at(seconds)
	s.pod, s.last = Step(s.pod, s.spec, ev, s.now)
	return s
}

func (s *story) id(c int) string { return s.pod.Containers[c].ID }

func (s *story) pulled(seconds float64, c int) *story {
	return s.tell(seconds, Pulled{C: c, ImageID: "sha"})
}

func (s *story) started(seconds float64, c int) *story {
	return s.tell(seconds, Started{C: c, ID: s.id(c), At: at(seconds)})
}

func (s *story) exited(seconds float64, c int, code int32) *story {
	return s.tell(seconds, Exited{C: c, Exit: Exit{ID: s.id(c), Code: code, Reason: "Error", StartedAt: s.pod.Containers[c].StartedAt, FinishedAt: at(seconds)}})
}

// running brings container c all the way to Running.
func (s *story) running(seconds float64, c int) *story {
	return s.pulled(seconds, c).started(seconds, c)
}

// states renders pod and containers as "Active: Running Done".
func (s *story) states() string {
	out := []string{string(s.pod.State) + ":"}
	for _, c := range s.pod.Containers {
		out = append(out, string(c.State))
	}
	return strings.Join(out, " ")
}

// acts renders the last actions without announcements.
func (s *story) acts() string {
	var out []string
	for _, a := range s.last {
		switch a := a.(type) {
		case Announce, StopProbes:
		case Pull:
			out = append(out, fmt.Sprintf("pull%d", a.C))
		case Start:
			out = append(out, fmt.Sprintf("start%d", a.C))
		case Signal:
			name := "term"
			if a.Force {
				name = "kill"
			}
			out = append(out, fmt.Sprintf("%s%d", name, a.C))
		case RunPreStop:
			out = append(out, fmt.Sprintf("prestop%d(%s)", a.C, a.Timeout))
		case RunPostStart:
			out = append(out, fmt.Sprintf("poststart%d", a.C))
		case Forget:
			out = append(out, fmt.Sprintf("forget%d", a.C))
		case StartProbe:
			out = append(out, fmt.Sprintf("%s%d", a.Kind, a.C))
		default:
			out = append(out, strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", a), "podstate.")))
		}
	}
	return strings.Join(out, " ")
}

func (s *story) want(states, acts string) *story {
	s.t.Helper()
	require.Equal(s.t, states, s.states())
	require.Equal(s.t, acts, s.acts())
	return s
}

func (s *story) announced(reason string) bool {
	for _, a := range s.last {
		if a, ok := a.(Announce); ok && a.Reason == reason {
			return true
		}
	}
	return false
}

func TestPlainPodRunsAndEnds(t *testing.T) {
	s := begin(t, specOf(never(app("a"))))
	s.want("Preparing: Pulling", "prepare pull0")
	s.pulled(1, 0).want("Preparing: Queued", "")
	s.tell(2, Prepared{IPs: []string{"10.0.0.1"}}).want("Active: Starting", "start0")
	s.started(3, 0).want("Active: Running", "")
	require.True(t, s.pod.Containers[0].Ready)
	require.True(t, s.announced("Started"))
	s.exited(4, 0, 0).want("Releasing: Done", "forget0 release")
	s.tell(5, ReleasedAll{}).want("Released: Done", "")
	require.Equal(t, []string{"10.0.0.1"}, s.pod.IPs, "a pod that ended keeps showing its address")
	s.tell(6, DeleteAsked{Grace: time.Second}).want("Removing: Done", "remove")
	s.tell(7, RemovedObject{}).want("Removed: Done", "")
}

func TestPreparedFirst(t *testing.T) {
	s := begin(t, specOf(app("a")))
	s.tell(1, Prepared{}).want("Active: Pulling", "")
	s.pulled(2, 0).want("Active: Starting", "start0")
}

func TestPrepareFails(t *testing.T) {
	s := begin(t, specOf(app("a")))
	s.tell(1, PrepareFailed{"FailedMount", "no such thing"})
	require.True(t, s.announced("FailedMount"))
	require.Equal(t, at(2), s.pod.NextWake(s.spec))
	s.tell(1.5, Tick{}).want("Preparing: Pulling", "")
	s.tell(2, Tick{}).want("Preparing: Pulling", "prepare")
	s.tell(3, PrepareFailed{"FailedMount", "no such thing"})
	require.False(t, s.announced("FailedMount"), "the same failure is told once")
	require.Equal(t, at(5), s.pod.NextWake(s.spec), "the wait doubles")
	s.tell(3.5, Retry{}).want("Preparing: Pulling", "prepare")
	s.tell(6, DeleteAsked{}).want("Releasing: Done", "release")
}

func TestAppsStartInOrder(t *testing.T) {
	s := begin(t, specOf(with(app("a"), func(c *ContainerSpec) { c.PostStart = true }), app("b")))
	s.want("Preparing: Pulling Pulling", "prepare pull0 pull1")
	s.tell(1, Prepared{})
	s.pulled(2, 1).want("Active: Pulling Queued", "")
	s.pulled(3, 0).want("Active: Starting Queued", "start0")
	s.started(4, 0).want("Active: Greeting Queued", "poststart0")
	s.tell(5, PostStartDone{C: 0, ID: s.id(0)}).want("Active: Running Starting", "start1")
}

func TestAFailedContainerDoesNotHoldUpTheNext(t *testing.T) {
	s := begin(t, specOf(app("a"), app("b"))).tell(1, Prepared{})
	s.pulled(2, 1)
	s.tell(3, PullFailed{0, "ErrImagePull", "no"}).want("Active: PullBackoff Starting", "start1")
}

func TestInitContainers(t *testing.T) {
	s := begin(t, specOf(initc("i"), initc("j"), app("a"))).tell(1, Prepared{})
	s.want("Active: Pulling Waiting Waiting", "")
	s.running(2, 0).want("Active: Running Waiting Waiting", "")
	s.exited(3, 0, 0).want("Active: Done Pulling Waiting", "forget0 pull1")
	s.running(4, 1).exited(5, 1, 1).want("Active: Done Pulling Waiting", "forget1 pull1")
	require.Equal(t, 1, s.pod.Containers[1].Restarts)
	s.running(6, 1).exited(7, 1, 0).want("Active: Done Done Pulling", "forget1 pull2")
}

func TestInitContainerFailsForGood(t *testing.T) {
	s := begin(t, specOf(never(initc("i")), app("a"))).tell(1, Prepared{})
	s.running(2, 0).exited(3, 0, 1).want("Releasing: Done Done", "forget0 release")
	require.True(t, s.pod.Stop.Failed)
}

func TestSidecars(t *testing.T) {
	probed := with(sidecar("s"), func(c *ContainerSpec) { c.Startup = true })
	s := begin(t, specOf(probed, sidecar("u"), never(app("a")))).tell(1, Prepared{})
	s.running(2, 0).want("Active: Running Waiting Waiting", "startup0")
	s.tell(3, Probed{C: 0, ID: s.id(0), Kind: Startup, Healthy: true}).want("Active: Running Pulling Waiting", "pull1")
	s.running(4, 1).want("Active: Running Running Pulling", "pull2")
	s.running(5, 2)
	s.exited(6, 0, 1).want("Active: Pulling Running Running", "forget0 pull0")
	s.running(7, 0)
	s.exited(8, 2, 0).want("Stopping: Running Terminating Done", "forget2 term1")
	s.exited(9, 1, 0).want("Stopping: Terminating Done Done", "forget1 term0")
	s.exited(10, 0, 0).want("Releasing: Done Done Done", "forget0 release")
}

func TestRestartBackoff(t *testing.T) {
	s := begin(t, specOf(app("a"))).tell(0, Prepared{}).running(0, 0)
	s.exited(1, 0, 1).want("Active: Pulling", "forget0 pull0")
	require.Equal(t, 1, s.pod.Containers[0].Restarts)
	require.NotNil(t, s.pod.Containers[0].Last)
	now := 1.0
	for _, wait := range []float64{10, 20, 40, 80, 160, 300, 300} {
		s.running(now, 0).exited(now, 0, 1).want("Active: Crashed", "forget0")
		require.Equal(t, at(now+wait), s.pod.NextWake(s.spec))
		require.Equal(t, "CrashLoopBackOff", s.pod.Containers[0].Reason)
		s.tell(now+wait-1, Tick{}).want("Active: Crashed", "")
		now += wait
		s.tell(now, Tick{}).want("Active: Pulling", "pull0")
	}
	s.running(now, 0)
	s.exited(now+601, 0, 1).want("Active: Pulling", "forget0 pull0")
}

func TestRestartPolicies(t *testing.T) {
	rule := func(action corev1.ContainerRestartRuleAction, op corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) corev1.ContainerRestartRule {
		return corev1.ContainerRestartRule{Action: action, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}}
	}
	restart := corev1.ContainerRestartRuleActionRestart
	for name, tc := range map[string]struct {
		spec ContainerSpec
		code int32
		want bool
	}{
		"always, 0":      {app("a"), 0, true},
		"always, 1":      {app("a"), 1, true},
		"on failure, 0":  {onFailure(app("a")), 0, false},
		"on failure, 1":  {onFailure(app("a")), 1, true},
		"never, 0":       {never(app("a")), 0, false},
		"never, 1":       {never(app("a")), 1, false},
		"rule in":        {with(never(app("a")), func(c *ContainerSpec) { c.Rules = append(c.Rules, rule(restart, "In", 42)) }), 42, true},
		"rule not in":    {with(never(app("a")), func(c *ContainerSpec) { c.Rules = append(c.Rules, rule(restart, "NotIn", 42)) }), 1, true},
		"rule no match":  {with(never(app("a")), func(c *ContainerSpec) { c.Rules = append(c.Rules, rule(restart, "In", 42)) }), 1, false},
		"unknown action": {with(never(app("a")), func(c *ContainerSpec) { c.Rules = append(c.Rules, rule("Dance", "In", 42)) }), 42, false},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tc.want, tc.spec.restarts(tc.code)) })
	}
}

func TestPullBackoff(t *testing.T) {
	s := begin(t, specOf(app("a"))).tell(0, Prepared{})
	s.tell(1, PullFailed{0, "ErrImagePull", "not found"}).want("Active: PullBackoff", "")
	require.Equal(t, "ErrImagePull", s.pod.Containers[0].Reason)
	s.tell(3, Tick{}).want("Active: PullBackoff", "")
	require.Equal(t, "ImagePullBackOff", s.pod.Containers[0].Reason)
	require.Contains(t, s.pod.Containers[0].Message, "not found")
	require.Equal(t, at(11), s.pod.NextWake(s.spec))
	s.tell(11, Tick{}).want("Active: Pulling", "pull0")
	s.tell(12, PullFailed{0, "ErrImagePull", "not found"})
	s.tell(14, Tick{})
	require.Equal(t, at(32), s.pod.NextWake(s.spec))
	s.tell(32, Tick{})
	s.running(33, 0).want("Active: Running", "")
}

func TestStartFails(t *testing.T) {
	s := begin(t, specOf(app("a"))).tell(0, Prepared{}).pulled(1, 0)
	s.tell(2, StartFailed{C: 0, ID: s.id(0), Reason: "CreateContainerConfigError", Message: "no config map"}).want("Active: StartBackoff", "")
	require.Zero(t, s.pod.Containers[0].Restarts)
	s.tell(3, Retry{}).want("Active: Pulling", "pull0")
	s.pulled(4, 0).tell(5, StartFailed{C: 0, ID: s.id(0), Reason: "StartError", Message: "no such file", Ran: true, At: at(5)})
	s.want("Active: Pulling", "forget0 pull0")
	require.Equal(t, int32(128), s.pod.Containers[0].Last.Code)
	require.Equal(t, 1, s.pod.Containers[0].Restarts)
}

func TestDelete(t *testing.T) {
	hook := with(app("a"), func(c *ContainerSpec) { c.PreStop = true })
	t.Run("signal, exit", func(t *testing.T) {
		s := begin(t, specOf(app("a"))).tell(0, Prepared{}).running(1, 0)
		s.tell(2, DeleteAsked{10 * time.Second}).want("Stopping: Terminating", "term0")
		require.Equal(t, at(12), s.pod.NextWake(s.spec))
		s.exited(3, 0, 0).want("Releasing: Done", "forget0 release")
		s.tell(4, ReleasedAll{}).want("Removing: Done", "remove")
		s.tell(5, RemoveFailed{"away"}).want("Removing: Done", "")
		s.tell(6, Tick{}).want("Removing: Done", "remove")
		s.tell(7, Vanished{}).want("Removed: Done", "")
	})
	t.Run("force after grace", func(t *testing.T) {
		s := begin(t, specOf(app("a"))).tell(0, Prepared{}).running(1, 0).tell(2, DeleteAsked{10 * time.Second})
		s.tell(11, Tick{}).want("Stopping: Terminating", "")
		s.tell(12, Tick{}).want("Stopping: Killed", "kill0")
		s.exited(13, 0, 137).want("Releasing: Done", "forget0 release")
	})
	t.Run("hook counts", func(t *testing.T) {
		s := begin(t, specOf(hook)).tell(0, Prepared{}).running(1, 0)
		s.tell(2, DeleteAsked{10 * time.Second}).want("Stopping: PreStop", "prestop0(10s)")
		s.tell(5, PreStopDone{C: 0, ID: s.id(0), Err: "failed"}).want("Stopping: Terminating", "term0")
		require.True(t, s.announced("FailedPreStopHook"))
		require.Equal(t, at(12), s.pod.NextWake(s.spec))
	})
	t.Run("hook uses all", func(t *testing.T) {
		s := begin(t, specOf(hook)).tell(0, Prepared{}).running(1, 0).tell(2, DeleteAsked{10 * time.Second})
		s.tell(12, Tick{}).want("Stopping: Terminating", "term0")
		require.Equal(t, at(14), s.pod.NextWake(s.spec), "a little time is left to end in order")
	})
	t.Run("exit during hook", func(t *testing.T) {
		s := begin(t, specOf(hook)).tell(0, Prepared{}).running(1, 0).tell(2, DeleteAsked{10 * time.Second})
		s.exited(3, 0, 0).want("Releasing: Done", "forget0 release")
		s.tell(4, PreStopDone{C: 0, ID: s.id(0)}).want("Releasing: Done", "")
	})
	t.Run("at once", func(t *testing.T) {
		s := begin(t, specOf(hook)).tell(0, Prepared{}).running(1, 0)
		s.tell(2, DeleteAsked{0}).want("Stopping: Killed", "kill0")
	})
	t.Run("asked again with less", func(t *testing.T) {
		s := begin(t, specOf(app("a"))).tell(0, Prepared{}).running(1, 0).tell(2, DeleteAsked{30 * time.Second})
		s.tell(3, DeleteAsked{60 * time.Second}).want("Stopping: Terminating", "")
		require.Equal(t, at(32), s.pod.NextWake(s.spec), "a longer grace changes nothing")
		s.tell(4, DeleteAsked{time.Second}).want("Stopping: Terminating", "")
		s.tell(5, Tick{}).want("Stopping: Killed", "kill0")
	})
	t.Run("while starting", func(t *testing.T) {
		s := begin(t, specOf(app("a"))).tell(0, Prepared{}).pulled(1, 0)
		s.tell(2, DeleteAsked{10 * time.Second}).want("Stopping: Starting", "")
		s.started(3, 0).want("Stopping: Terminating", "term0")
	})
	t.Run("start fails", func(t *testing.T) {
		s := begin(t, specOf(app("a"))).tell(0, Prepared{}).pulled(1, 0).tell(2, DeleteAsked{10 * time.Second})
		s.tell(3, StartFailed{C: 0, ID: s.id(0), Ran: true}).want("Releasing: Done", "forget0 release")
	})
	t.Run("while pulling", func(t *testing.T) {
		s := begin(t, specOf(app("a"))).tell(0, Prepared{})
		s.tell(2, DeleteAsked{10 * time.Second}).want("Releasing: Done", "release")
		s.pulled(3, 0).want("Releasing: Done", "")
	})
	t.Run("while crashed", func(t *testing.T) {
		s := begin(t, specOf(app("a"))).tell(0, Prepared{}).running(1, 0).exited(1, 0, 1).running(1, 0).exited(1, 0, 1)
		s.tell(2, DeleteAsked{10 * time.Second}).want("Releasing: Done", "release")
		require.NotNil(t, s.pod.Containers[0].Exit)
	})
	t.Run("vanished", func(t *testing.T) {
		s := begin(t, specOf(app("a"))).tell(0, Prepared{}).running(1, 0)
		s.tell(2, Vanished{time.Second}).want("Stopping: Terminating", "term0")
		s.exited(3, 0, 0).tell(4, ReleasedAll{}).want("Removed: Done", "")
	})
	t.Run("release fails", func(t *testing.T) {
		s := begin(t, specOf(app("a"))).tell(0, Prepared{}).tell(1, DeleteAsked{})
		s.tell(2, ReleaseFailed{"busy"}).want("Releasing: Done", "")
		s.tell(3, Tick{}).want("Releasing: Done", "release")
	})
}

func TestProbeVerdicts(t *testing.T) {
	all := with(app("a"), func(c *ContainerSpec) {
		c.Startup, c.Liveness, c.Readiness, c.LivenessStop = true, true, true, 5*time.Second
	})
	s := begin(t, specOf(all)).tell(0, Prepared{})
	s.running(1, 0).want("Active: Running", "startup0")
	require.False(t, s.pod.Containers[0].Started)
	s.tell(2, Probed{C: 0, ID: s.id(0), Kind: Startup, Healthy: true}).want("Active: Running", "liveness0 readiness0")
	require.True(t, s.pod.Containers[0].Started)
	require.False(t, s.pod.Containers[0].Ready)
	s.tell(3, Probed{C: 0, ID: s.id(0), Kind: Readiness, Healthy: true})
	require.True(t, s.pod.Containers[0].Ready)
	s.tell(4, Probed{C: 0, ID: s.id(0), Kind: Readiness})
	require.False(t, s.pod.Containers[0].Ready)
	require.True(t, s.announced("Unhealthy"))
	s.tell(5, Probed{C: 0, ID: "old", Kind: Liveness}).want("Active: Running", "")
	s.tell(6, Probed{C: 0, ID: s.id(0), Kind: Liveness}).want("Active: Terminating", "term0")
	require.True(t, s.announced("Killing"))
	require.Equal(t, at(11), s.pod.NextWake(s.spec), "the probe's own grace counts")
	s.exited(7, 0, 143).want("Active: Pulling", "forget0 pull0")
}

func TestUnhealthyWithoutRestart(t *testing.T) {
	s := begin(t, specOf(never(with(app("a"), func(c *ContainerSpec) { c.Liveness = true })))).tell(0, Prepared{}).running(1, 0)
	s.tell(2, Probed{C: 0, ID: s.id(0), Kind: Liveness}).exited(3, 0, 137).want("Releasing: Done", "forget0 release")
}

func TestPostStartFails(t *testing.T) {
	s := begin(t, specOf(with(app("a"), func(c *ContainerSpec) { c.PostStart = true }))).tell(0, Prepared{}).running(1, 0)
	s.tell(2, PostStartDone{C: 0, ID: s.id(0), Err: "boom"}).want("Active: Terminating", "term0")
	require.True(t, s.announced("FailedPostStartHook"))
	s.exited(3, 0, 0).want("Active: Pulling", "forget0 pull0")
}

func TestDeadline(t *testing.T) {
	spec := specOf(app("a"))
	spec.Deadline = time.Minute
	s := begin(t, spec).tell(0, Prepared{}).running(1, 0)
	require.Equal(t, at(60), s.pod.NextWake(spec))
	s.tell(60, Tick{}).want("Stopping: Terminating", "term0")
	require.Equal(t, "DeadlineExceeded", s.pod.Stop.Reason)
	s.exited(61, 0, 0).tell(62, ReleasedAll{}).want("Released: Done", "")
	require.True(t, s.pod.Stop.Failed)
}

func TestEvicted(t *testing.T) {
	s := begin(t, specOf(app("a"))).tell(1, Evicted{Reason: "SysctlForbidden"}).want("Releasing: Done", "release")
	s.tell(2, PrepareFailed{"FailedMount", "late"}).want("Releasing: Done", "")
	s.tell(2, Prepared{}).want("Releasing: Done", "")
	s.tell(3, ReleasedAll{}).want("Released: Done", "")
}

func TestChangedImage(t *testing.T) {
	s := begin(t, specOf(never(app("a")))).tell(0, Prepared{}).running(1, 0)
	s.tell(2, Changed{}).want("Active: Running", "")
	s.spec.Containers[0].Image = "other"
	s.tell(3, Changed{}).want("Active: Terminating", "term0")
	s.exited(4, 0, 0).want("Active: Pulling", "forget0 pull0")
	require.Equal(t, "other", s.pod.Containers[0].Image)
}

func TestAdoption(t *testing.T) {
	running := func(t *testing.T) *story {
		return begin(t, specOf(with(app("a"), func(c *ContainerSpec) { c.Readiness, c.PreStop = true, true }))).tell(0, Prepared{}).running(1, 0)
	}
	t.Run("runs", func(t *testing.T) {
		s := running(t)
		s.tell(2, Probed{C: 0, ID: s.id(0), Kind: Readiness, Healthy: true})
		s.tell(9, Adopted{Running: map[string]time.Time{s.id(0): at(1)}}).want("Active: Running", "readiness0 prepare")
		require.True(t, s.pod.Containers[0].Ready, "a ready pod stays ready")
	})
	t.Run("exited", func(t *testing.T) {
		s := running(t)
		s.tell(9, Adopted{Exited: map[string]Exit{s.id(0): {ID: s.id(0), Code: 2, FinishedAt: at(5)}}}).want("Preparing: Pulling", "forget0 prepare pull0")
		require.Equal(t, int32(2), s.pod.Containers[0].Last.Code)
	})
	t.Run("lost", func(t *testing.T) {
		s := running(t)
		s.tell(9, Adopted{Lost: true}).want("Preparing: Pulling", "forget0 prepare pull0")
		require.Equal(t, "ContainerStatusUnknown", s.pod.Containers[0].Last.Reason)
	})
	t.Run("was starting, runs", func(t *testing.T) {
		s := begin(t, specOf(app("a"))).tell(0, Prepared{}).pulled(1, 0)
		s.tell(9, Adopted{Running: map[string]time.Time{s.id(0): at(1)}}).want("Active: Running", "prepare")
	})
	t.Run("was starting, absent", func(t *testing.T) {
		s := begin(t, specOf(app("a"))).tell(0, Prepared{}).pulled(1, 0)
		s.tell(9, Adopted{}).want("Active: Starting", "start0 prepare")
	})
	t.Run("was pulling", func(t *testing.T) {
		s := begin(t, specOf(app("a"))).tell(0, Prepared{})
		s.tell(9, Adopted{}).want("Preparing: Pulling", "pull0 prepare")
	})
	t.Run("was terminating", func(t *testing.T) {
		s := running(t)
		s.tell(2, DeleteAsked{10 * time.Second}).tell(3, PreStopDone{C: 0, ID: s.id(0)})
		s.tell(9, Adopted{Running: map[string]time.Time{s.id(0): at(1)}}).want("Stopping: Terminating", "term0")
		require.Equal(t, at(12), s.pod.NextWake(s.spec), "the grace goes on where it was")
	})
	t.Run("was in its hook", func(t *testing.T) {
		s := running(t)
		s.tell(2, DeleteAsked{10 * time.Second})
		s.tell(9, Adopted{Running: map[string]time.Time{s.id(0): at(1)}}).want("Stopping: PreStop", "prestop0(3s)")
	})
	t.Run("was killed", func(t *testing.T) {
		s := running(t).tell(2, DeleteAsked{0})
		s.tell(9, Adopted{Exited: map[string]Exit{s.id(0): {ID: s.id(0), Code: 137}}}).want("Releasing: Done", "forget0 release")
	})
	t.Run("was releasing", func(t *testing.T) {
		s := running(t).tell(2, DeleteAsked{0}).exited(3, 0, 137)
		s.tell(9, Adopted{}).want("Releasing: Done", "release")
	})
	t.Run("was removing", func(t *testing.T) {
		s := running(t).tell(2, DeleteAsked{0}).exited(3, 0, 137).tell(4, ReleasedAll{})
		s.tell(9, Adopted{}).want("Removing: Done", "remove")
	})
	t.Run("init runs again after a reboot", func(t *testing.T) {
		s := begin(t, specOf(initc("i"), app("a"))).tell(0, Prepared{}).running(1, 0).exited(2, 0, 0).running(3, 1)
		s.tell(9, Adopted{Lost: true})
		s.want("Preparing: Pulling Waiting", "forget1 prepare pull0")
	})
	t.Run("finished stays finished", func(t *testing.T) {
		s := begin(t, specOf(never(app("a")))).tell(0, Prepared{}).running(1, 0).exited(2, 0, 0).tell(3, ReleasedAll{})
		s.tell(9, Adopted{Lost: true}).want("Released: Done", "")
	})
}

func TestLateNewsChangesNothing(t *testing.T) {
	s := begin(t, specOf(app("a"))).tell(0, Prepared{}).running(1, 0)
	old := s.id(0)
	s.exited(2, 0, 1).running(3, 0)
	before := s.states()
	for _, ev := range []Event{
		Exited{C: 0, Exit: Exit{ID: old, Code: 9}}, Started{C: 0, ID: old}, StartFailed{C: 0, ID: old, Ran: true},
		PostStartDone{C: 0, ID: old, Err: "x"}, PreStopDone{C: 0, ID: old}, Probed{C: 0, ID: old, Kind: Liveness}, RemovedObject{}, ReleasedAll{},
	} {
		s.tell(4, ev)
		require.Equal(t, before, s.states(), "%T", ev)
		require.Empty(t, s.acts(), "%T", ev)
	}
}

func TestStepLeavesItsInputAlone(t *testing.T) {
	spec := specOf(app("a"))
	p := New("uid", spec, t0)
	_, _ = Step(p, spec, Begin{}, t0)
	require.Equal(t, New("uid", spec, t0), p)
}

func TestSpecOf(t *testing.T) {
	always, ten, deadline := corev1.ContainerRestartPolicyAlways, int64(10), int64(60)
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: &ten, ActiveDeadlineSeconds: &deadline,
		InitContainers: []corev1.Container{{Name: "i"}, {Name: "s", RestartPolicy: &always}},
		Containers:     []corev1.Container{{Name: "a", LivenessProbe: &corev1.Probe{TerminationGracePeriodSeconds: &ten}}},
	}}
	s := SpecOf(pod, DefaultBackoff())
	require.Equal(t, []Role{Init, Sidecar, App}, []Role{s.Containers[0].Role, s.Containers[1].Role, s.Containers[2].Role})
	require.Equal(t, corev1.ContainerRestartPolicyOnFailure, s.Containers[0].Policy, "an init container that succeeded is done")
	require.Equal(t, 10*time.Second, s.Grace)
	require.Equal(t, time.Minute, s.Deadline)
	require.Equal(t, 10*time.Second, s.Containers[2].LivenessStop)
}
