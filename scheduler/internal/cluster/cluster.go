// Package cluster is the scheduler's picture of nodes and the pods on them, changed by
// one event at a time, never rebuilt.
//
// A pod that has been decided on is assumed to be on its node until its binding shows
// up, or fails. A snapshot is immutable; it shares the nodes that did not change since
// the one before.
package cluster

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Port is a host port in use. IP is empty for all addresses.
type Port struct {
	IP       string
	Protocol corev1.Protocol
	Port     int32
}

// Node is one node and what is on it. Nodes in a snapshot are not changed.
type Node struct {
	Node        *corev1.Node
	Allocatable Resources
	Requested   Resources
	ForScore    Resources // Requested, with assumptions for what pods do not request
	Pods        map[types.UID]*corev1.Pod
	Ports       map[Port]int
	Images      map[string]int64 // size by name
}

// Snapshot is the cluster at one moment. Rev is the newest revision in it.
type Snapshot struct {
	Rev    int64
	Nodes  []*Node        // by name
	Images map[string]int // how many nodes have an image, by name
}

// Cluster is safe for concurrent use.
type Cluster struct {
	mu      sync.Mutex
	rev     int64
	nodes   map[string]*Node       // guarded by mu; replaced, not changed, once in a snapshot
	shared  map[string]bool        // nodes that a snapshot holds; guarded by mu
	pods    map[types.UID]placed   // all pods on nodes; guarded by mu
	assumed map[types.UID]struct{} // of these, not confirmed; guarded by mu
	sorted  []*Node                // the last snapshot's nodes, nil if nodes came or went; guarded by mu
	stale   map[string]struct{}    // nodes of sorted that changed since; guarded by mu
	images  map[string]int         // count of nodes by image name; guarded by mu; replaced, not changed, once in a snapshot
}

type placed struct {
	pod  *corev1.Pod
	node string
}

// New returns an empty picture.
func New() *Cluster {
	return &Cluster{nodes: map[string]*Node{}, shared: map[string]bool{}, pods: map[types.UID]placed{}, assumed: map[types.UID]struct{}{}, stale: map[string]struct{}{}, images: map[string]int{}}
}

// Saw notes that everything up to rev is in the picture.
func (c *Cluster) Saw(rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rev = max(c.rev, rev)
}

// SetNode adds or replaces a node, keeping what is on it.
func (c *Cluster) SetNode(n *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	node := c.ownLocked(n.Name)
	if node.Node == nil {
		c.sorted = nil
	}
	node.Node = n
	node.Allocatable = resourcesOf(n.Status.Allocatable)
	images := map[string]int64{}
	for _, image := range n.Status.Images {
		for _, name := range image.Names {
			images[name] = image.SizeBytes
		}
	}
	c.countImagesLocked(node.Images, images)
	node.Images = images
}

// countImagesLocked replaces the counts if a node's images are others than before.
func (c *Cluster) countImagesLocked(was, is map[string]int64) {
	if maps.Equal(was, is) {
		return
	}
	c.images = maps.Clone(c.images)
	for name := range is {
		c.images[name]++
	}
	for name := range was {
		if c.images[name]--; c.images[name] == 0 {
			delete(c.images, name)
		}
	}
}

// RemoveNode forgets a node; its pods stay known in case it comes back.
func (c *Cluster) RemoveNode(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.nodes[name]; !ok {
		return
	}
	node := c.ownLocked(name)
	c.countImagesLocked(node.Images, nil)
	node.Node, node.Images, node.Allocatable = nil, nil, Resources{}
	c.sorted = nil
	c.dropEmptyLocked(name, node)
}

// dropEmptyLocked forgets what is neither a node nor has pods.
func (c *Cluster) dropEmptyLocked(name string, n *Node) {
	if n.Node == nil && len(n.Pods) == 0 {
		delete(c.nodes, name)
		delete(c.shared, name)
	}
}

// SetPod adds or replaces a pod that is on a node. It ends an assumption.
func (c *Cluster) SetPod(p *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.assumed, p.UID)
	c.placeLocked(p, p.Spec.NodeName)
}

// Assume puts the pod on the node until SetPod, RemovePod or Forget.
func (c *Cluster) Assume(p *corev1.Pod, node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.assumed[p.UID] = struct{}{}
	c.placeLocked(p, node)
}

// Forget takes an assumed pod away again; a confirmed one stays.
func (c *Cluster) Forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.assumed[uid]; ok {
		c.removeLocked(uid)
	}
}

// RemovePod takes a pod away.
func (c *Cluster) RemovePod(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(uid)
}

// Has reports whether the pod is on a node, assumed or confirmed.
func (c *Cluster) Has(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.pods[uid]
	return ok
}

func (c *Cluster) placeLocked(p *corev1.Pod, node string) {
	if was, ok := c.pods[p.UID]; ok {
		c.takeLocked(was, -1)
	}
	c.pods[p.UID] = placed{p, node}
	c.takeLocked(placed{p, node}, 1)
}

func (c *Cluster) removeLocked(uid types.UID) {
	was, ok := c.pods[uid]
	if !ok {
		return
	}
	c.takeLocked(was, -1)
	delete(c.pods, uid)
	delete(c.assumed, uid)
}

// takeLocked adds (1) or subtracts (-1) a pod to or from its node.
func (c *Cluster) takeLocked(p placed, sign int64) {
	n := c.ownLocked(p.node)
	requests := Requests(p.pod)
	n.Requested.add(requests, sign)
	n.ForScore.add(requests.ForScore(), sign)
	for _, port := range PortsOf(p.pod) {
		n.Ports[port] += int(sign)
		if n.Ports[port] <= 0 {
			delete(n.Ports, port)
		}
	}
	if sign > 0 {
		n.Pods[p.pod.UID] = p.pod
	} else {
		delete(n.Pods, p.pod.UID)
		c.dropEmptyLocked(p.node, n)
	}
}

// ownLocked returns a node that may be changed: a copy if a snapshot holds it.
func (c *Cluster) ownLocked(name string) *Node {
	n, ok := c.nodes[name]
	if ok && c.sorted != nil {
		c.stale[name] = struct{}{}
	}
	switch {
	case !ok:
		n = &Node{Pods: map[types.UID]*corev1.Pod{}, Ports: map[Port]int{}}
	case c.shared[name]:
		n = n.clone()
	default:
		return n
	}
	c.nodes[name] = n
	delete(c.shared, name)
	return n
}

func (n *Node) clone() *Node {
	out := *n
	out.Requested, out.ForScore = n.Requested.clone(), n.ForScore.clone()
	out.Pods = make(map[types.UID]*corev1.Pod, len(n.Pods))
	for uid, p := range n.Pods {
		out.Pods[uid] = p
	}
	out.Ports = make(map[Port]int, len(n.Ports))
	for p, i := range n.Ports {
		out.Ports[p] = i
	}
	return &out
}

// Snapshot returns the picture as it is now.
func (c *Cluster) Snapshot() Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	byName := func(a, b *Node) int { return cmp.Compare(a.Node.Name, b.Node.Name) }
	switch {
	case c.sorted == nil:
		c.sorted = make([]*Node, 0, len(c.nodes))
		for name, n := range c.nodes {
			if n.Node != nil {
				c.sorted = append(c.sorted, n)
				c.shared[name] = true
			}
		}
		slices.SortFunc(c.sorted, byName)
	case len(c.stale) > 0:
		c.sorted = slices.Clone(c.sorted)
		for name := range c.stale {
			n := c.nodes[name]
			if n == nil || n.Node == nil {
				continue // only has pods; it is in no snapshot
			}
			if i, ok := slices.BinarySearchFunc(c.sorted, n, byName); ok {
				c.sorted[i] = n
				c.shared[name] = true
			}
		}
	}
	clear(c.stale)
	return Snapshot{Rev: c.rev, Nodes: c.sorted, Images: c.images}
}

// PortsOf lists the host ports that a pod takes, those of its sidecars too.
func PortsOf(p *corev1.Pod) []Port {
	ports := hostPorts(nil, p.Spec.Containers)
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			ports = hostPorts(ports, p.Spec.InitContainers[i:i+1])
		}
	}
	return ports
}

func hostPorts(ports []Port, containers []corev1.Container) []Port {
	for i := range containers {
		for _, port := range containers[i].Ports {
			if port.HostPort <= 0 {
				continue
			}
			ip := port.HostIP
			if ip == "0.0.0.0" || ip == "::" {
				ip = ""
			}
			protocol := port.Protocol
			if protocol == "" {
				protocol = corev1.ProtocolTCP
			}
			ports = append(ports, Port{IP: ip, Protocol: protocol, Port: port.HostPort})
		}
	}
	return ports
}
