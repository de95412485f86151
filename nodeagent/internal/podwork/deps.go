// Package podwork drives pods: one Worker per pod turns the decisions of
// podstate into acts on containerd, the network, volumes and the API.
//
// A Worker's state belongs to the goroutine that calls Run. Everything that
// takes time runs in goroutines of its own that post their outcome to the
// worker's inbox; the inbox never blocks a sender. Before any act is begun the
// state that leads to it is on disk, so that a worker made by the next agent
// continues from there. View returns an immutable snapshot to any goroutine.
package podwork

import (
	"context"
	"net/netip"
	"path/filepath"
	"strconv"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/rutter-project/rutter/nodeagent/internal/engine"
	"github.com/rutter-project/rutter/nodeagent/internal/image"
	"github.com/rutter-project/rutter/nodeagent/internal/logfile"
	"github.com/rutter-project/rutter/nodeagent/internal/objects"
	"github.com/rutter-project/rutter/nodeagent/internal/podfile"
	"github.com/rutter-project/rutter/nodeagent/internal/podstate"
	"github.com/rutter-project/rutter/nodeagent/internal/runspec"
	"github.com/rutter-project/rutter/nodeagent/internal/volume"
)

// PodRef names a pod to the network.
type PodRef struct {
	UID       string
	Namespace string
	Name      string
	Labels    map[string]string
}

// PodNetwork is a pod's network on this node.
type PodNetwork struct {
	IPs       []netip.Addr
	NetNSPath string // where the network namespace is pinned
}

// Network gives pods their network namespaces and addresses.
type Network interface {
	// Attach makes the pod's network or finds it; idempotent per UID, also
	// over restarts.
	Attach(ctx context.Context, pod PodRef) (PodNetwork, error)
	// Detach removes the pod's network; a pod that has none is no error.
	Detach(ctx context.Context, uid string) error
}

// Deps is what all workers of a node share.
type Deps struct {
	Client   kubernetes.Interface
	Engine   *engine.Engine
	Images   *image.Store
	Objects  *objects.Store
	Network  Network
	Logs     *logfile.Watcher
	Services func(namespace string) []*corev1.Service // of the namespace and the API server's
	Announce func(pod *corev1.Pod, container string, a podstate.Announce)
	Node     func() NodeFacts
	Spec     runspec.Node
	Dirs     Dirs
	DNS      podfile.DNS
	Limits   logfile.Limits
	Backoff  podstate.Backoff
	Cgroup   string // of the node, such as /rutter/node-1
	Log      zerolog.Logger
}

// NodeFacts is what pods are told of their node.
type NodeFacts struct {
	Name        string
	IPs         []string
	Allocatable corev1.ResourceList
	Memory      int64 // bytes the node has
}

// Dirs are the node's directories.
type Dirs struct {
	Pods   string // persistent state of pods
	Run    string // namespaces and mounts
	Memory string // on a tmpfs
	Logs   string // container logs
}

// podDirs are the directories of one pod.
type podDirs struct {
	root, run, logs string
	volumes         volume.Dirs
}

func (d Dirs) of(pod *corev1.Pod) podDirs {
	uid := string(pod.UID)
	return podDirs{
		root:    filepath.Join(d.Pods, uid),
		run:     filepath.Join(d.Run, "pods", uid),
		logs:    filepath.Join(d.Logs, pod.Namespace+"_"+pod.Name+"_"+uid),
		volumes: volume.Dirs{Disk: filepath.Join(d.Pods, uid, "volumes"), Memory: filepath.Join(d.Memory, "pods", uid)},
	}
}

func (d podDirs) ipc() string { return filepath.Join(d.run, "ipc") }
func (d podDirs) uts() string { return filepath.Join(d.run, "uts") }
func (d podDirs) shm() string { return filepath.Join(d.run, "shm") }

// attempt names the files of one attempt of a container.
func (d podDirs) attempt(container string, n int, tty bool) logfile.Files {
	base := filepath.Join(d.root, "io", container+"-"+strconv.Itoa(n))
	f := logfile.Files{Stdout: base + ".out", Stderr: base + ".err", Record: base + ".pos", Log: d.log(container, n)}
	if tty {
		f.Stderr = ""
	}
	return f
}

func (d podDirs) log(container string, n int) string {
	return filepath.Join(d.logs, container, strconv.Itoa(n)+".log")
}

func (d podDirs) termination(container string, n int) string {
	return filepath.Join(d.root, "term", container+"-"+strconv.Itoa(n))
}

func (d podDirs) stdin(container string, n int) string {
	return filepath.Join(d.run, "stdin-"+container+"-"+strconv.Itoa(n))
}

func (d podDirs) subpath(container string, n, i int) string {
	return filepath.Join(d.run, "subpaths", container+"-"+strconv.Itoa(n), strconv.Itoa(i))
}
