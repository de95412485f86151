// Package replicaset keeps as many pods as a ReplicaSet or a ReplicationController asks
// for.
package replicaset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
	"github.com/rutter-project/rutter/reconcilers/internal/pods"
)

const (
	workers = 5
	// burst is the most pods that one reconciliation creates or deletes.
	burst = 500
)

type reconciler struct {
	flavour
	client kubernetes.Interface
	sets   sets
	pods   *pods.Owned
	writes *engine.Writes
	events *engine.Events
}

// New returns the controller. It reads ReplicaSets and Pods; it owns Pods and the
// status of ReplicaSets.
func New(client kubernetes.Interface, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	return newController(replicaSets, client, source, log)
}

// NewForReplicationControllers returns the same controller for ReplicationControllers.
func NewForReplicationControllers(client kubernetes.Interface, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	return newController(replicationControllers, client, source, log)
}

func newController(f flavour, client kubernetes.Interface, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	sets, informer := f.open(client, source)
	podInformer := source.For(corev1.SchemeGroupVersion.WithResource("pods"), &corev1.Pod{})
	owned, err := pods.NewOwned(client, podInformer)
	if err != nil {
		return nil, err
	}
	r := &reconciler{flavour: f, client: client, sets: sets, pods: owned}
	c := engine.NewController(r, workers, log)
	r.events = c.Events(client, f.component)
	if r.writes, err = engine.NewWrites(podInformer, c.Enqueue); err != nil {
		return nil, err
	}
	if err := c.Watch(informer, engine.Self); err != nil {
		return nil, err
	}
	return c, c.Watch(podInformer, r.keysOfPod)
}

func (r *reconciler) Name() string { return r.name }

// keysOfPod maps a pod to its set, or, without a controller, to those that
// would adopt it.
func (r *reconciler) keysOfPod(old, obj any) []string {
	keys := engine.OwnerKey(r.kind.Kind)(old, obj)
	pod, ok := obj.(*corev1.Pod)
	if !ok || metav1.GetControllerOfNoCopy(pod) != nil || len(pod.Labels) == 0 {
		return keys
	}
	sets, err := r.sets.list(pod.Namespace)
	if err != nil {
		return nil
	}
	for _, rs := range sets {
		selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
		if key := rs.Namespace + "/" + rs.Name; err == nil && !selector.Empty() && selector.Matches(labels.Set(pod.Labels)) && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

func (r *reconciler) Reconcile(ctx context.Context, key string) error {
	namespace, setName, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil //nolint:nilerr // a key that is no name can never become one
	}
	rs, err := r.sets.get(namespace, setName)
	if apierrors.IsNotFound(err) || r.writes.Behind(key) {
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return nil //nolint:nilerr // validation does not let this through
	}
	mine, err := r.pods.Claim(ctx, pods.Owner{Object: rs, Kind: r.kind, Selector: selector, Live: func(ctx context.Context) (metav1.Object, error) {
		return r.sets.live(ctx, namespace, setName)
	}})
	if err != nil {
		return fmt.Errorf("claim pods of %s: %w", key, err)
	}
	for _, p := range mine { // adopted ones are newer than what the informer shows
		r.writes.Wrote(key, p)
	}
	active := pods.Active(mine)
	var scaleErr error
	if rs.DeletionTimestamp == nil {
		scaleErr = r.scale(ctx, key, rs, active)
	}
	now := time.Now()
	status := statusOf(rs, mine, active, scaleErr, now)
	if !r.countsTerminating {
		status.TerminatingReplicas = nil
	}
	if err := r.updateStatus(ctx, rs, status); err != nil {
		return err
	}
	if scaleErr != nil {
		return scaleErr
	}
	if wait := pods.UntilAvailable(active, rs.Spec.MinReadySeconds, now); wait > 0 {
		return engine.After{Wait: wait}
	}
	return nil
}

// scale creates or deletes the difference.
func (r *reconciler) scale(ctx context.Context, key string, rs *appsv1.ReplicaSet, active []*corev1.Pod) error {
	diff := int(*rs.Spec.Replicas) - len(active)
	switch {
	case diff > 0:
		return r.create(ctx, key, rs, min(diff, burst))
	case diff < 0:
		return r.remove(ctx, rs, pods.ToDelete(active, min(-diff, burst), time.Now()))
	}
	return nil
}

// create makes n pods in doubling batches: when the first is refused (a quota, a
// webhook), the rest are not tried.
func (r *reconciler) create(ctx context.Context, key string, rs *appsv1.ReplicaSet, n int) error {
	template := pods.FromTemplate(&rs.Spec.Template, rs, r.kind)
	for batch := 1; n > 0; batch *= 2 {
		size := min(batch, n)
		var g errgroup.Group
		for range size {
			g.Go(func() error {
				pod, err := r.client.CoreV1().Pods(rs.Namespace).Create(ctx, template.DeepCopy(), metav1.CreateOptions{})
				switch {
				case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
					return err
				case err != nil:
					r.events.Warning(r.kind, rs, "FailedCreate", "Error creating: %v", err)
					return fmt.Errorf("create pod of %s: %w", key, err)
				}
				r.writes.Wrote(key, pod)
				r.events.Normal(r.kind, rs, "SuccessfulCreate", "Created pod: %s", pod.Name)
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				return nil
			}
			return err
		}
		n -= size
	}
	return nil
}

func (r *reconciler) remove(ctx context.Context, rs *appsv1.ReplicaSet, victims []*corev1.Pod) error {
	var g errgroup.Group
	for _, pod := range victims {
		g.Go(func() error {
			uid := pod.UID
			err := r.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
			gone := apierrors.IsNotFound(err) || apierrors.IsConflict(err)
			if err != nil && !gone {
				r.events.Warning(r.kind, rs, "FailedDelete", "Error deleting: %v", err)
				return fmt.Errorf("delete pod %s: %w", pod.Name, err)
			}
			if !gone {
				r.events.Normal(r.kind, rs, "SuccessfulDelete", "Deleted pod: %s", pod.Name)
			}
			r.pods.Deleting(pod)
			return nil
		})
	}
	return g.Wait()
}

// statusOf is the status that the pods make.
func statusOf(rs *appsv1.ReplicaSet, all, active []*corev1.Pod, scaleErr error, now time.Time) appsv1.ReplicaSetStatus {
	status := *rs.Status.DeepCopy()
	template := labels.SelectorFromValidatedSet(rs.Spec.Template.Labels)
	status.Replicas = int32(len(active))
	status.FullyLabeledReplicas, status.ReadyReplicas, status.AvailableReplicas = 0, 0, 0
	for _, pod := range active {
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if pods.Ready(pod) {
			status.ReadyReplicas++
		}
		if pods.Available(pod, rs.Spec.MinReadySeconds, now) {
			status.AvailableReplicas++
		}
	}
	terminating := pods.Terminating(all)
	status.TerminatingReplicas = &terminating
	status.ObservedGeneration = rs.Generation
	reason := "FailedCreate"
	if len(active) > int(*rs.Spec.Replicas) {
		reason = "FailedDelete"
	}
	status.Conditions = failureCondition(status.Conditions, reason, scaleErr, now)
	return status
}

// failureCondition keeps ReplicaFailure as long as pods can't be made or deleted. It
// keeps the first message too: later ones name other pods, and writing each would wake
// the key and so undo its back-off.
func failureCondition(conditions []appsv1.ReplicaSetCondition, reason string, err error, now time.Time) []appsv1.ReplicaSetCondition {
	var kept []appsv1.ReplicaSetCondition
	for _, c := range conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure && (err == nil || c.Reason != reason) {
			continue
		}
		kept = append(kept, c)
	}
	failing := slices.ContainsFunc(kept, func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure })
	if err == nil || failing || errors.Is(err, context.Canceled) {
		return kept
	}
	return append(kept, appsv1.ReplicaSetCondition{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
		LastTransitionTime: metav1.NewTime(now), Reason: reason, Message: err.Error()})
}

func (r *reconciler) updateStatus(ctx context.Context, rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error {
	if equality.Semantic.DeepEqual(rs.Status, status) {
		return nil
	}
	update := rs.DeepCopy()
	update.Status = status
	err := r.sets.updateStatus(ctx, update)
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // on a conflict the newer version's event comes and wakes us
	}
	return fmt.Errorf("update status of %s %s/%s: %w", r.kind.Kind, rs.Namespace, rs.Name, err)
}
