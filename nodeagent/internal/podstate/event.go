package podstate

import "time"

// Event is something that happened to a pod.
type Event interface{ event() }

// The events. Index C is the container's place in Pod.Containers. ID names the
// attempt an event belongs to; news of an earlier attempt changes nothing.
type (
	// Begin is the first event of a new pod.
	Begin struct{}
	// Prepared tells that network, volumes and namespaces exist.
	Prepared struct{ IPs []string }
	// PrepareFailed tells why they do not.
	PrepareFailed struct{ Reason, Message string }
	// Pulled tells that an image is present.
	Pulled struct {
		C       int
		ImageID string
	}
	// PullFailed tells why it is not. Reason is what kubectl shows.
	PullFailed struct {
		C               int
		Reason, Message string
	}
	// Started tells that a container's process runs.
	Started struct {
		C  int
		ID string
		At time.Time
	}
	// StartFailed tells why it does not. Ran tells that the runtime had made
	// the container and could not run it, which counts as an exit.
	StartFailed struct {
		C               int
		ID              string
		Reason, Message string
		Ran             bool
		At              time.Time
	}
	// PostStartDone tells how a postStart hook ended; Err is empty on success.
	PostStartDone struct {
		C   int
		ID  string
		Err string
	}
	// PreStopDone tells that a preStop hook ended; Err is empty on success.
	PreStopDone struct {
		C   int
		ID  string
		Err string
	}
	// Exited tells how a container's process ended.
	Exited struct {
		C    int
		Exit Exit
	}
	// Probed tells that a probe changed its mind.
	Probed struct {
		C       int
		ID      string
		Kind    ProbeKind
		Healthy bool
		Message string
	}
	// DeleteAsked tells that the API server wants the pod gone.
	DeleteAsked struct{ Grace time.Duration }
	// Vanished tells that the API object no longer exists.
	Vanished struct{ Grace time.Duration }
	// Evicted tells that the node can not keep the pod.
	Evicted struct {
		Reason, Message string
		Grace           time.Duration
	}
	// ReleasedAll tells that what Preparing made is gone.
	ReleasedAll struct{}
	// ReleaseFailed tells why it is not.
	ReleaseFailed struct{ Message string }
	// RemovedObject tells that the API object is gone.
	RemovedObject struct{}
	// RemoveFailed tells why it is not.
	RemoveFailed struct{ Message string }
	// Adopted is the first event after a restart of the agent: what containerd
	// knows of the newest attempts, by id. An id in neither map is lost.
	Adopted struct {
		Running map[string]time.Time // started at
		Exited  map[string]Exit
		Lost    bool // the pod's namespaces are gone, as after a reboot
	}
	// Changed tells that the specification changed.
	Changed struct{}
	// Retry makes everything that waits after a failure due now.
	Retry struct{}
	// Tick tells that the time of NextWake has come.
	Tick struct{}
)

func (Begin) event()         {}
func (Prepared) event()      {}
func (PrepareFailed) event() {}
func (Pulled) event()        {}
func (PullFailed) event()    {}
func (Started) event()       {}
func (StartFailed) event()   {}
func (PostStartDone) event() {}
func (PreStopDone) event()   {}
func (Exited) event()        {}
func (Probed) event()        {}
func (DeleteAsked) event()   {}
func (Vanished) event()      {}
func (Evicted) event()       {}
func (ReleasedAll) event()   {}
func (ReleaseFailed) event() {}
func (RemovedObject) event() {}
func (RemoveFailed) event()  {}
func (Adopted) event()       {}
func (Changed) event()       {}
func (Retry) event()         {}
func (Tick) event()          {}

// ProbeKind names one of the three probes.
type ProbeKind string

// The probes.
const (
	Startup   ProbeKind = "startup"
	Liveness  ProbeKind = "liveness"
	Readiness ProbeKind = "readiness"
)

// Action is something the caller must do. Every action may be repeated after
// a restart of the agent and must then do no harm.
type Action interface{ action() }

// The actions.
type (
	// Prepare makes or finds network, volumes and namespaces; answered by
	// Prepared or PrepareFailed.
	Prepare struct{}
	// Pull makes an image present; answered by Pulled or PullFailed.
	Pull struct{ C int }
	// Start creates and starts an attempt; answered by Started or StartFailed.
	Start struct {
		C  int
		ID string
	}
	// RunPostStart runs the hook; answered by PostStartDone.
	RunPostStart struct {
		C  int
		ID string
	}
	// RunPreStop runs the hook for at most Timeout; answered by PreStopDone.
	RunPreStop struct {
		C       int
		ID      string
		Timeout time.Duration
	}
	// Signal asks the container to end, or ends it by force.
	Signal struct {
		C     int
		ID    string
		Force bool
	}
	// Forget removes an attempt that ended from containerd, keeping its log.
	Forget struct {
		C  int
		ID string
	}
	// StartProbe begins a probe of a running container.
	StartProbe struct {
		C    int
		ID   string
		Kind ProbeKind
	}
	// StopProbes ends all probes of a container.
	StopProbes struct{ C int }
	// Release undoes Prepare; answered by ReleasedAll or ReleaseFailed.
	Release struct{}
	// Remove deletes the API object; answered by RemovedObject or RemoveFailed.
	Remove struct{}
	// Announce records a Kubernetes Event. C is -1 for the pod itself.
	Announce struct {
		C               int
		Warning         bool
		Reason, Message string
	}
)

func (Prepare) action()      {}
func (Pull) action()         {}
func (Start) action()        {}
func (RunPostStart) action() {}
func (RunPreStop) action()   {}
func (Signal) action()       {}
func (Forget) action()       {}
func (StartProbe) action()   {}
func (StopProbes) action()   {}
func (Release) action()      {}
func (Remove) action()       {}
func (Announce) action()     {}
