package podstate

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"time"
)

// State names what is being done with the pod as a whole.
type State string

// The states of a pod, see the diagram of the package.
const (
	Preparing State = "Preparing" // network, volumes and namespaces are being made
	Active    State = "Active"    // containers are started, watched and restarted
	Stopping  State = "Stopping"  // containers are being ended
	Releasing State = "Releasing" // no container is left; what Preparing made is being undone
	Released  State = "Released"  // nothing is left on the node, the API object stays
	Removing  State = "Removing"  // the API object is being deleted with grace period 0
	Removed   State = "Removed"   // nothing is left anywhere
)

// ContainerState names what is being done with one container.
type ContainerState string

// The states of a container, see the diagram of the package.
const (
	Waiting      ContainerState = "Waiting"      // its turn has not come
	Pulling      ContainerState = "Pulling"      // its image is being made present
	PullBackoff  ContainerState = "PullBackoff"  // the pull failed; tried again at RetryAt
	Queued       ContainerState = "Queued"       // its image is present, an earlier container comes first
	Starting     ContainerState = "Starting"     // it is being created and started
	StartBackoff ContainerState = "StartBackoff" // it could not be created; tried again at RetryAt
	Greeting     ContainerState = "Greeting"     // it runs, its postStart hook is under way
	Running      ContainerState = "Running"
	PreStop      ContainerState = "PreStop"     // its preStop hook is under way until KillAt
	Terminating  ContainerState = "Terminating" // it got its stop signal and may live until KillAt
	Killed       ContainerState = "Killed"      // it got SIGKILL
	Crashed      ContainerState = "Crashed"     // it ended and starts again at RetryAt
	Done         ContainerState = "Done"        // it ended, or never began, for good
)

// Alive reports whether a process of the container may exist in this state.
func (s ContainerState) Alive() bool {
	switch s {
	case Starting, Greeting, Running, PreStop, Terminating, Killed:
		return true
	default:
		return false
	}
}

// Wanted says what the API server wants of the pod.
type Wanted string

// What the API server can want.
const (
	Present Wanted = ""        // the pod is to run to its end
	Deleted Wanted = "Deleted" // deletion was asked for; the object waits for us
	Gone    Wanted = "Gone"    // the object no longer exists
)

// Exit is how one attempt of a container ended.
type Exit struct {
	ID         string    `json:"id"`
	Code       int32     `json:"code"`
	Reason     string    `json:"reason"`
	Message    string    `json:"message,omitempty"`
	StartedAt  time.Time `json:"startedAt"`
	FinishedAt time.Time `json:"finishedAt"`
}

// Container is what must be known of a container after a restart of the agent.
type Container struct {
	Name     string         `json:"name"`
	State    ContainerState `json:"state"`
	ID       string         `json:"id,omitempty"` // of the newest attempt that was begun
	Restarts int            `json:"restarts"`     // attempts before this one
	Image    string         `json:"image"`        // as the spec named it when the attempt began
	ImageID  string         `json:"imageID,omitempty"`

	Reason  string `json:"reason,omitempty"`  // why it waits, as kubectl shows it
	Message string `json:"message,omitempty"` // the same for humans

	StartedAt time.Time     `json:"startedAt"`
	Exit      *Exit         `json:"exit,omitempty"` // how the newest attempt ended
	Last      *Exit         `json:"last,omitempty"` // how the attempt before it ended
	Backoff   time.Duration `json:"backoff"`        // wait before the next restart
	Patience  time.Duration `json:"patience"`       // wait before the next try to pull or create
	RetryAt   time.Time     `json:"retryAt"`
	KillAt    time.Time     `json:"killAt"`

	Started bool   `json:"started"`           // the startup probe passed, or there is none
	Passed  bool   `json:"passed,omitempty"`  // a sidecar that once started no longer holds up the others
	Ready   bool   `json:"ready"`             // the readiness probe passes, or there is none
	Restart string `json:"restart,omitempty"` // why we end it although the pod goes on; see restart reasons
}

// Reasons to end one container of a pod that goes on.
const (
	restartUnhealthy = "unhealthy"
	restartChanged   = "changed"
	restartHook      = "postStart"
)

// Stop is why and until when a pod is being ended.
type Stop struct {
	Reason   string    `json:"reason,omitempty"` // pod status reason, such as DeadlineExceeded
	Message  string    `json:"message,omitempty"`
	Failed   bool      `json:"failed,omitempty"` // the pod's phase becomes Failed whatever the exit codes
	Deadline time.Time `json:"deadline"`
}

// Pod is one pod on this node. It is data: copy it, save it, load it.
type Pod struct {
	UID        string        `json:"uid"`
	State      State         `json:"state"`
	Wanted     Wanted        `json:"wanted,omitempty"`
	Stop       *Stop         `json:"stop,omitempty"`
	Reason     string        `json:"reason,omitempty"` // why Preparing or Releasing does not get on
	Message    string        `json:"message,omitempty"`
	IPs        []string      `json:"ips,omitempty"`
	StartTime  time.Time     `json:"startTime"`
	Backoff    time.Duration `json:"backoff"`
	RetryAt    time.Time     `json:"retryAt"`
	Containers []Container   `json:"containers"` // init containers first, in the order of the spec
}

// New returns a pod whose life begins now.
func New(uid string, spec Spec, now time.Time) Pod {
	p := Pod{UID: uid, State: Preparing, StartTime: now}
	for _, c := range spec.Containers {
		p.Containers = append(p.Containers, Container{Name: c.Name, State: Waiting, Image: c.Image})
	}
	return p
}

// ContainerID is the containerd id of an attempt: the same attempt has the
// same id after a restart of the agent, so a half-made one is found again.
func ContainerID(uid, name string, attempt int) string {
	sum := sha256.Sum256([]byte(uid + "/" + name + "/" + strconv.Itoa(attempt)))
	return hex.EncodeToString(sum[:])
}

// NextWake is the earliest time at which Tick has something to do, or zero.
func (p Pod) NextWake(spec Spec) time.Time {
	var wake time.Time
	consider := func(t time.Time) {
		if !t.IsZero() && (wake.IsZero() || t.Before(wake)) {
			wake = t
		}
	}
	switch p.State {
	case Preparing, Releasing, Removing:
		consider(p.RetryAt)
	default: // the other states wait for events or for their containers
	}
	for _, c := range p.Containers {
		switch c.State {
		case PullBackoff, StartBackoff, Crashed:
			consider(c.RetryAt)
		case PreStop, Terminating:
			consider(c.KillAt)
		default: // nothing is timed in the other states
		}
	}
	if spec.Deadline > 0 && (p.State == Active || p.State == Preparing) {
		consider(p.StartTime.Add(spec.Deadline))
	}
	return wake
}

// AnyAlive reports whether a process of the pod may exist.
func (p Pod) AnyAlive() bool {
	return slices.ContainsFunc(p.Containers, func(c Container) bool { return c.State.Alive() })
}

func (p Pod) clone() Pod {
	p.Containers = slices.Clone(p.Containers)
	p.IPs = slices.Clone(p.IPs)
	if p.Stop != nil {
		stop := *p.Stop
		p.Stop = &stop
	}
	return p
}
