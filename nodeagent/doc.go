// Package nodeagent runs the pods of one node on containerd.
//
// It is told of its pods by a PodSource, drives each by a state machine, serves
// the node's HTTPS API and reports to the API server. There is no relist loop:
// everything that happens is an event of the source, of containerd, of a timer
// that the state machine asked for, or of an act that ended.
//
// # Guarantees
//
//   - One worker drives a pod. Its decisions are made one after the other by a
//     pure function (internal/podstate) whose result is on disk before the
//     first act that follows from it.
//   - The agent may be killed at any time. Containers, their output and their
//     containerd go on. The next agent loads the saved state, asks containerd
//     once what exists, and continues each pod where it was; exits that
//     happened meanwhile are seen.
//   - An exit is accounted for exactly once: the id of an attempt is a function
//     of pod, container and attempt number, and news of any other attempt is
//     ignored. After every connection to containerd the list of containers is
//     compared once, so an exit during its restart is not missed either.
//   - An exit is reported after the last line of output is in the log.
//   - At most one status write per pod is under way; a later state replaces an
//     earlier one that was not sent yet. The API object is deleted only after
//     the final status was written and nothing of the pod is left on the node.
//   - PodSink's methods may be called from any goroutine and do not block.
//   - Run returns after every goroutine it started has ended. It leaves the
//     pods running; Purge removes them.
//
// # The pod
//
//	Preparing ─▶ Active ─▶ Stopping ─▶ Releasing ─▶ Released ─▶ Removing ─▶ Removed
//
// A container:
//
//	Waiting ─▶ Pulling ─▶ Queued ─▶ Starting ─▶ Greeting ─▶ Running ─▶ PreStop ─▶ Terminating ─▶ Killed
//	   ▲         │ ▲                  │ ▲                      │            (exit) │                │
//	   │     PullBackoff         StartBackoff                  ▼                   ▼                ▼
//	   └──────────────────────────────────────────────────── Crashed   or, for good,   Done
//
// # Output
//
// The shim itself appends stdout and stderr to plain files; neither the agent
// nor a helper stands between, so the agent's death costs no line and never
// blocks a container. The agent follows these files by inotify and writes the
// CRI log. A record of both positions makes each step exactly-once: after a
// kill the log is cut to the recorded size and the raw output is read from the
// recorded offset. Fifos were not chosen because their content is lost when
// the container ends while nobody reads; a logging process per container was
// not chosen because it costs memory for every container. The price: while no
// agent runs, output grows on disk without rotation, and lines written then
// carry the time of the file's last change.
//
// # Namespaces
//
// There is no pause container. The network, IPC and UTS namespaces of a pod
// are pinned by bind mounts, made by a thread that unshares and ends.
package nodeagent
