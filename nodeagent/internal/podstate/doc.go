// Package podstate decides what the node agent does with one pod. It is pure:
// no clock, no context, no logger, no I/O. Step takes the pod as it is, one
// event and the time, and returns the pod as it will be and the actions that
// make it so. The caller saves the new pod before it performs the actions.
//
// The pod walks through these states:
//
//	Preparing ──Prepared──▶ Active ──all containers done──▶ Releasing ──Released──▶ Released
//	    │                     │                                 ▲                      │
//	    └──────delete─────────┴──delete, deadline, gone──▶ Stopping                    │ delete
//	                                                                                   ▼
//	                                                    Removed ◀──Removed──────── Removing
//
// and each of its containers through these:
//
//	Waiting ─▶ Pulling ─▶ Queued ─▶ Starting ─▶ Greeting ─▶ Running ─▶ PreStop ─▶ Terminating ─▶ Killed
//	   ▲          │ ▲                  │ ▲       (postStart)     │                        │          │
//	   │          ▼ │                  ▼ │                       └───────── exit ─────────┴──────────┘
//	   │      PullBackoff         StartBackoff                                 │
//	   └────────────────────────── Crashed ◀── restarts ───────────────────────┤
//	                                                                 Done ◀────┘ for good
//
// The pod's network, volumes and namespaces are being made while it is
// Preparing; images are pulled meanwhile, but no container starts before
// Active. SIGTERM, the grace period and SIGKILL are three separate steps
// (PreStop, Terminating, Killed), each of which survives a restart of the agent.
package podstate
