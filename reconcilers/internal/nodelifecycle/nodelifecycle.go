// Package nodelifecycle notices nodes that stopped reporting, says so in their
// conditions and taints, and evicts pods that do not tolerate that for longer than
// they allow.
//
// A node is alive as long as its Lease is renewed. Nothing is polled: a timer runs for
// the moment the next renewal is overdue.
package nodelifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	coordinationlisters "k8s.io/client-go/listers/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
	"github.com/rutter-project/rutter/reconcilers/internal/pods"
	"github.com/rutter-project/rutter/schemas"
)

const (
	name    = "node-lifecycle"
	workers = 4
	// GracePeriod is how long a node may be silent, upstream's node-monitor-grace-period.
	GracePeriod = 50 * time.Second
)

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

type reconciler struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	leases coordinationlisters.LeaseLister
	pods   cache.Indexer
	grace  time.Duration
	events *engine.Events

	mu   sync.Mutex
	seen map[string]heartbeat // by node; guarded by mu
}

// heartbeat is the last renewal and when it was seen here: clocks of other machines
// are not trusted.
type heartbeat struct {
	renew time.Time
	at    time.Time
}

// New returns the controller. It reads Nodes, Leases and Pods; it owns the node
// conditions of silent nodes, the condition taints, and evicts Pods.
func New(client kubernetes.Interface, grace time.Duration, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	nodes := source.For(corev1.SchemeGroupVersion.WithResource("nodes"), &corev1.Node{})
	leases := source.For(coordinationv1.SchemeGroupVersion.WithResource("leases"), &coordinationv1.Lease{})
	podInformer := source.For(corev1.SchemeGroupVersion.WithResource("pods"), &corev1.Pod{})
	if err := pods.IndexByNode(podInformer); err != nil {
		return nil, err
	}
	r := &reconciler{client: client, nodes: corelisters.NewNodeLister(nodes.GetIndexer()),
		leases: coordinationlisters.NewLeaseLister(leases.GetIndexer()), pods: podInformer.GetIndexer(), grace: grace, seen: map[string]heartbeat{}}
	c := engine.NewController(r, workers, log)
	r.events = c.Events(client, "taint-eviction-controller")
	if err := c.Watch(nodes, r.nodeChanged); err != nil {
		return nil, err
	}
	if err := c.Watch(leases, r.nodeOfLease); err != nil {
		return nil, err
	}
	return c, c.Watch(podInformer, r.taintedNodeOf)
}

func (r *reconciler) Name() string { return name }

// nodeOfLease notes a renewal, and wakes the node only if it was thought silent.
func (r *reconciler) nodeOfLease(_, obj any) []string {
	lease, ok := obj.(*coordinationv1.Lease)
	if !ok || lease.Namespace != corev1.NamespaceNodeLease {
		return nil
	}
	r.beat(lease)
	n, err := r.nodes.Get(lease.Name)
	if err != nil || ready(n) != corev1.ConditionUnknown {
		return nil
	}
	return []string{lease.Name}
}

// nodeChanged counts a node that takes back "unknown" as heard from: its status may
// come before the Lease, and only the node itself says such a thing.
func (r *reconciler) nodeChanged(old, obj any) []string {
	was, ok := old.(*corev1.Node)
	n, ok2 := obj.(*corev1.Node)
	if ok && ok2 && ready(was) == corev1.ConditionUnknown && ready(n) != corev1.ConditionUnknown {
		r.mu.Lock()
		last := r.seen[n.Name]
		last.at = time.Now()
		r.seen[n.Name] = last
		r.mu.Unlock()
	}
	return engine.Self(old, obj)
}

func (r *reconciler) beat(lease *coordinationv1.Lease) {
	if lease.Spec.RenewTime == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.seen[lease.Name]; !ok || !last.renew.Equal(lease.Spec.RenewTime.Time) {
		r.seen[lease.Name] = heartbeat{renew: lease.Spec.RenewTime.Time, at: time.Now()}
	}
}

// taintedNodeOf wakes the node of a pod that landed on a tainted one.
func (r *reconciler) taintedNodeOf(_, obj any) []string {
	p, ok := obj.(*corev1.Pod)
	if !ok || p.Spec.NodeName == "" || p.DeletionTimestamp != nil {
		return nil
	}
	n, err := r.nodes.Get(p.Spec.NodeName)
	if err != nil || !slices.ContainsFunc(n.Spec.Taints, noExecute) {
		return nil
	}
	return []string{n.Name}
}

func (r *reconciler) Reconcile(ctx context.Context, nodeName string) error {
	n, err := r.nodes.Get(nodeName)
	if apierrors.IsNotFound(err) {
		r.mu.Lock()
		delete(r.seen, nodeName)
		r.mu.Unlock()
		return nil
	}
	if err != nil {
		return err
	}
	silent := r.untilSilent(nodeName)
	if silent <= 0 {
		if n, err = r.markUnknown(ctx, n); err != nil {
			return err
		}
	}
	if n, err = r.taint(ctx, n); err != nil {
		return err
	}
	next, err := r.evict(ctx, n)
	if err != nil {
		return err
	}
	switch {
	case silent > 0 && (next == 0 || silent < next):
		return engine.After{Wait: silent}
	case next > 0:
		return engine.After{Wait: next}
	}
	return nil
}

// untilSilent is how long the node may still be quiet. A node without a Lease counts
// from when it was first seen.
func (r *reconciler) untilSilent(nodeName string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.seen[nodeName]
	if !ok {
		last.at = time.Now()
		r.seen[nodeName] = last
	}
	return time.Until(last.at.Add(r.grace))
}

// markUnknown sets the conditions that only the silent node itself could know.
func (r *reconciler) markUnknown(ctx context.Context, n *corev1.Node) (*corev1.Node, error) {
	update := n.DeepCopy()
	now := metav1.Now()
	for _, t := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		i := slices.IndexFunc(update.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == t })
		if i < 0 {
			update.Status.Conditions = append(update.Status.Conditions, corev1.NodeCondition{Type: t, Status: corev1.ConditionUnknown,
				Reason: "NodeStatusNeverUpdated", Message: "The node agent never posted its status.", LastTransitionTime: now})
			continue
		}
		if c := &update.Status.Conditions[i]; c.Status != corev1.ConditionUnknown {
			c.Status, c.Reason, c.Message, c.LastTransitionTime = corev1.ConditionUnknown, "NodeStatusUnknown", "The node agent stopped posting its status.", now
		}
	}
	if equality.Semantic.DeepEqual(n.Status, update.Status) {
		return n, nil
	}
	updated, err := r.client.CoreV1().Nodes().UpdateStatus(ctx, update, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("mark node %s unknown: %w", n.Name, err)
	}
	return updated, nil
}

// taint makes the condition taints match the conditions. What was read off the node is the
// cause, also when this reconciler has just written it itself.
func (r *reconciler) taint(ctx context.Context, n *corev1.Node) (*corev1.Node, error) {
	taints := wanted(n, time.Now())
	if equality.Semantic.DeepEqual(n.Spec.Taints, taints) {
		return n, nil
	}
	ctx = schemas.WithCause(ctx, append(schemas.CauseOf(ctx), engine.Revision(n))...)
	update := n.DeepCopy()
	update.Spec.Taints = taints
	updated, err := r.client.CoreV1().Nodes().Update(ctx, update, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("taint node %s: %w", n.Name, err)
	}
	return updated, nil
}

// evict deletes the pods that do not tolerate the node's NoExecute taints, or no
// longer, and tells when the next one's time is up.
func (r *reconciler) evict(ctx context.Context, n *corev1.Node) (time.Duration, error) {
	next := time.Duration(0)
	for _, p := range pods.OnNode(r.pods, n.Name) {
		if p.DeletionTimestamp != nil {
			continue
		}
		wait, forever := tolerated(p, n.Spec.Taints, time.Now())
		switch {
		case forever:
		case wait > 0:
			if next == 0 || wait < next {
				next = wait
			}
		default:
			if err := r.remove(ctx, n, p); err != nil {
				return 0, err
			}
		}
	}
	return next, nil
}

// remove deletes a pod from a node that it does not tolerate. The time that was up names
// no cause, so the node as it is, with its taint, is one. The pod's condition says first,
// to whoever counts failures, that it is not the pod's fault (KEP-3329).
func (r *reconciler) remove(ctx context.Context, n *corev1.Node, p *corev1.Pod) error {
	ctx = schemas.WithCause(ctx, append(schemas.CauseOf(ctx), engine.Revision(n))...)
	disrupted, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": p.UID},
		"status": map[string]any{"conditions": []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
			Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
		}}},
	})
	if err != nil {
		return err
	}
	_, err = r.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, disrupted, metav1.PatchOptions{}, "status")
	if err == nil {
		r.events.Normal(podKind, p, "TaintManagerEviction", "Marking for deletion Pod %s/%s", p.Namespace, p.Name)
		err = r.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("evict pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}
