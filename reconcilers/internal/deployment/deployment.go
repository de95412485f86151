// Package deployment rolls pods from one template to the next by scaling ReplicaSets.
// What to do is decided by pure functions (plan.go, status.go); this file reads,
// writes and waits.
package deployment

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
	"github.com/rutter-project/rutter/reconcilers/internal/pods"
)

const (
	name    = "deployment"
	workers = 5
)

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

type reconciler struct {
	client      kubernetes.Interface
	deployments appslisters.DeploymentLister
	sets        cache.Indexer
	pods        cache.Indexer
	writes      *engine.Writes
	events      *engine.Events
}

// New returns the controller. It reads Deployments, ReplicaSets and Pods; it owns
// ReplicaSets and the status of Deployments.
func New(client kubernetes.Interface, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	deployments := source.For(appsv1.SchemeGroupVersion.WithResource("deployments"), &appsv1.Deployment{})
	sets := source.For(appsv1.SchemeGroupVersion.WithResource("replicasets"), &appsv1.ReplicaSet{})
	podInformer := source.For(corev1.SchemeGroupVersion.WithResource("pods"), &corev1.Pod{})
	if err := engine.IndexOwned(sets); err != nil {
		return nil, err
	}
	if err := engine.IndexOwned(podInformer); err != nil {
		return nil, err
	}
	r := &reconciler{client: client, deployments: appslisters.NewDeploymentLister(deployments.GetIndexer()),
		sets: sets.GetIndexer(), pods: podInformer.GetIndexer()}
	c := engine.NewController(r, workers, log)
	r.events = c.Events(client, "deployment-controller")
	var err error
	if r.writes, err = engine.NewWrites(sets, c.Enqueue); err != nil {
		return nil, err
	}
	if err := c.Watch(deployments, engine.Self); err != nil {
		return nil, err
	}
	if err := c.Watch(sets, engine.OwnerKey(kind.Kind)); err != nil {
		return nil, err
	}
	if err := c.Watch(sets, r.adoptersOf); err != nil {
		return nil, err
	}
	return c, c.Watch(podInformer, r.keysOfGonePod)
}

func (r *reconciler) Name() string { return name }

// keysOfGonePod wakes Recreate deployments when a pod ends: they wait for the last old
// pod.
func (r *reconciler) keysOfGonePod(_, obj any) []string {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	// One that never ran is deleted at once: its last form shows no deletion.
	if _, exists, err := r.pods.GetByKey(pod.Namespace + "/" + pod.Name); err != nil || (exists && !pods.Finished(pod) && pod.DeletionTimestamp == nil) {
		return nil
	}
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return nil
	}
	rs, found, err := r.sets.GetByKey(pod.Namespace + "/" + ref.Name)
	if err != nil || !found {
		return nil
	}
	keys := engine.OwnerKey(kind.Kind)(nil, rs)
	if len(keys) == 0 {
		return nil
	}
	_, deploymentName, _ := strings.Cut(keys[0], "/")
	d, err := r.deployments.Deployments(pod.Namespace).Get(deploymentName)
	if err != nil || d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		return nil
	}
	return keys
}

func (r *reconciler) Reconcile(ctx context.Context, key string) error {
	namespace, deploymentName, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil //nolint:nilerr // a key that is no name can never become one
	}
	d, err := r.deployments.Deployments(namespace).Get(deploymentName)
	if apierrors.IsNotFound(err) || r.writes.Behind(key) {
		return nil
	}
	if err != nil {
		return err
	}
	d = d.DeepCopy()
	sets, err := r.claim(ctx, key, d)
	if err != nil {
		return err
	}
	current, old := split(d, sets)
	created := false
	if d.DeletionTimestamp == nil {
		if current, created, err = r.step(ctx, key, d, current, old); err != nil {
			return err
		}
	}
	now := time.Now()
	if err := r.updateStatus(ctx, d, statusOf(d, current, old, created, now)); err != nil {
		return err
	}
	if wait, counting := untilDeadline(d, now); counting && wait > 0 {
		return engine.After{Wait: wait + time.Second}
	}
	return nil
}

// step does the next thing the deployment needs and returns its current ReplicaSet.
func (r *reconciler) step(ctx context.Context, key string, d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) (*appsv1.ReplicaSet, bool, error) {
	created := false
	var err error
	if current == nil && !d.Spec.Paused {
		if current, err = r.create(ctx, key, d, old); err != nil || current == nil {
			return nil, false, err
		}
		created = true
	} else if current != nil {
		if current, err = r.refresh(ctx, key, d, current, old); err != nil {
			return current, false, err
		}
	}
	plan := r.plan(d, current, old)
	for _, rs := range append(old, current) {
		if rs == nil {
			continue
		}
		replicas, planned := plan[rs.Name]
		if !planned {
			replicas = *rs.Spec.Replicas
		}
		if err := r.scale(ctx, key, d, rs, replicas); err != nil {
			return current, created, err
		}
	}
	if current != nil && complete(d, &d.Status) {
		err = r.cleanUp(ctx, d, old)
	}
	return current, created, err
}

func (r *reconciler) plan(d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) scaling {
	active := activeSets(append(old, current))
	switch {
	case len(active) > 1 && scaled(d, active) && d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType:
		return proportional(d, active)
	case d.Spec.Paused && len(active) == 1:
		return scaling{active[0].Name: *d.Spec.Replicas}
	case d.Spec.Paused && len(active) == 0 && current != nil:
		return scaling{current.Name: *d.Spec.Replicas}
	case d.Spec.Paused && len(active) == 0 && len(old) > 0:
		return scaling{old[len(old)-1].Name: *d.Spec.Replicas}
	case d.Spec.Paused || current == nil:
		return nil
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		return r.recreate(d, current, old)
	default:
		return rollingUpdate(d, current, old)
	}
}

func activeSets(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	var active []*appsv1.ReplicaSet
	for _, rs := range sets {
		if rs != nil && *rs.Spec.Replicas > 0 {
			active = append(active, rs)
		}
	}
	return active
}

// scaled reports that spec.replicas changed since the active ReplicaSets were sized.
func scaled(d *appsv1.Deployment, active []*appsv1.ReplicaSet) bool {
	for _, rs := range active {
		if was, ok := rs.Annotations[desiredReplicasAnnotation]; ok && was != strconv.Itoa(int(*d.Spec.Replicas)) {
			return true
		}
	}
	return false
}

// recreate stops everything old, and starts the new when the last old pod is gone.
func (r *reconciler) recreate(d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) scaling {
	plan := scaling{}
	for _, rs := range old {
		if *rs.Spec.Replicas > 0 {
			plan[rs.Name] = 0
		}
	}
	for _, rs := range old {
		for _, pod := range engine.Owned[*corev1.Pod](r.pods, engine.ByController, string(rs.UID)) {
			if !pods.Finished(pod) {
				return plan
			}
		}
	}
	plan[current.Name] = *d.Spec.Replicas
	return plan
}

// create makes the ReplicaSet of the present template.
func (r *reconciler) create(ctx context.Context, key string, d *appsv1.Deployment, old []*appsv1.ReplicaSet) (*appsv1.ReplicaSet, error) {
	hash := templateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := *d.Spec.Template.DeepCopy()
	template.Labels = with(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = with(selector.MatchLabels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	replicas := int32(0)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: d.Name + "-" + hash, Namespace: d.Namespace, Labels: template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, kind)},
			Annotations:     inherited(d, nil),
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: template},
	}
	rs.Annotations[revisionAnnotation] = strconv.FormatInt(maxRevision(old)+1, 10)
	annotateSize(rs, d)
	if d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		replicas = rollingUpdate(d, rs, old)[rs.Name]
	}
	made, err := r.client.AppsV1().ReplicaSets(d.Namespace).Create(ctx, rs, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return r.collided(ctx, d, rs)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil, nil
	case err != nil:
		r.events.Warning(kind, d, "ReplicaSetCreateError", "Failed to create new replica set %q: %v", rs.Name, err)
		return nil, fmt.Errorf("create replica set %s: %w", rs.Name, err)
	}
	r.writes.Wrote(key, made)
	if replicas > 0 {
		r.scaled(d, rs.Name, 0, replicas)
	}
	return made, r.setRevision(ctx, d, made)
}

// collided handles a taken name: ours from a write that we have not seen yet, or
// another template with the same hash, which needs a new name.
func (r *reconciler) collided(ctx context.Context, d *appsv1.Deployment, rs *appsv1.ReplicaSet) (*appsv1.ReplicaSet, error) {
	taken, err := r.client.AppsV1().ReplicaSets(d.Namespace).Get(ctx, rs.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("replica set %s: %w", rs.Name, err)
	}
	if ref := metav1.GetControllerOf(taken); ref != nil && ref.UID == d.UID && sameTemplate(&taken.Spec.Template, &d.Spec.Template) {
		return taken, nil
	}
	count := int32(1)
	if d.Status.CollisionCount != nil {
		count = *d.Status.CollisionCount + 1
	}
	update := d.DeepCopy()
	update.Status.CollisionCount = &count
	if _, err := r.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
		return nil, fmt.Errorf("note collision of %s: %w", rs.Name, err)
	}
	return nil, nil // the status event brings us back with another name
}

// refresh gives the current ReplicaSet the newest revision number and the deployment's
// annotations; after an undo it is an old ReplicaSet that becomes current again.
func (r *reconciler) refresh(ctx context.Context, key string, d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) (*appsv1.ReplicaSet, error) {
	update := current.DeepCopy()
	update.Annotations = inherited(d, update.Annotations)
	if newest := maxRevision(old); revision(current.Annotations) <= newest {
		update.Annotations[revisionAnnotation] = strconv.FormatInt(newest+1, 10)
	}
	update.Spec.MinReadySeconds = d.Spec.MinReadySeconds
	if !equality.Semantic.DeepEqual(current, update) {
		made, err := r.client.AppsV1().ReplicaSets(d.Namespace).Update(ctx, update, metav1.UpdateOptions{})
		if err != nil {
			return current, fmt.Errorf("update replica set %s: %w", current.Name, err)
		}
		r.writes.Wrote(key, made)
		current = made
	}
	return current, r.setRevision(ctx, d, current)
}

// setRevision shows the current revision on the deployment.
func (r *reconciler) setRevision(ctx context.Context, d *appsv1.Deployment, current *appsv1.ReplicaSet) error {
	want := current.Annotations[revisionAnnotation]
	if d.Annotations[revisionAnnotation] == want {
		return nil
	}
	d.Annotations = with(d.Annotations, revisionAnnotation, want)
	updated, err := r.client.AppsV1().Deployments(d.Namespace).Update(ctx, d, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("set revision of deployment %s/%s to %s: %w", d.Namespace, d.Name, want, err)
	}
	*d = *updated
	return nil
}

func (r *reconciler) scale(ctx context.Context, key string, d *appsv1.Deployment, rs *appsv1.ReplicaSet, replicas int32) error {
	update := rs.DeepCopy()
	update.Spec.Replicas = &replicas
	if replicas > 0 {
		annotateSize(update, d)
	}
	if equality.Semantic.DeepEqual(rs, update) {
		return nil
	}
	made, err := r.client.AppsV1().ReplicaSets(rs.Namespace).Update(ctx, update, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("scale replica set %s to %d: %w", rs.Name, replicas, err)
	}
	r.writes.Wrote(key, made)
	r.scaled(d, rs.Name, *rs.Spec.Replicas, replicas)
	return nil
}

// scaled records that a ReplicaSet of a deployment was given another size.
func (r *reconciler) scaled(d *appsv1.Deployment, set string, from, to int32) {
	switch {
	case from < to:
		r.events.Normal(kind, d, "ScalingReplicaSet", "Scaled up replica set %s from %d to %d", set, from, to)
	case from > to:
		r.events.Normal(kind, d, "ScalingReplicaSet", "Scaled down replica set %s from %d to %d", set, from, to)
	}
}

func (r *reconciler) cleanUp(ctx context.Context, d *appsv1.Deployment, old []*appsv1.ReplicaSet) error {
	for _, rs := range surplus(d, old) {
		err := r.client.AppsV1().ReplicaSets(rs.Namespace).Delete(ctx, rs.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete old replica set %s: %w", rs.Name, err)
		}
	}
	return nil
}

func (r *reconciler) updateStatus(ctx context.Context, d *appsv1.Deployment, status appsv1.DeploymentStatus) error {
	if equality.Semantic.DeepEqual(d.Status, status) {
		return nil
	}
	update := d.DeepCopy()
	update.Status = status
	updated, err := r.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // the newer version's event wakes us
	}
	if err != nil {
		return fmt.Errorf("update status of deployment %s/%s: %w", d.Namespace, d.Name, err)
	}
	*d = *updated
	return nil
}

// inherited are the deployment's annotations that its ReplicaSets carry too.
func inherited(d *appsv1.Deployment, own map[string]string) map[string]string {
	out := maps.Clone(own)
	if out == nil {
		out = map[string]string{}
	}
	for k, v := range d.Annotations {
		switch k {
		case corev1.LastAppliedConfigAnnotation, revisionAnnotation, desiredReplicasAnnotation, maxReplicasAnnotation, appsv1.DeprecatedRollbackTo:
		default:
			out[k] = v
		}
	}
	return out
}

func annotateSize(rs *appsv1.ReplicaSet, d *appsv1.Deployment) {
	_, maxSurge := limits(d)
	rs.Annotations = with(rs.Annotations, desiredReplicasAnnotation, strconv.Itoa(int(*d.Spec.Replicas)))
	rs.Annotations[maxReplicasAnnotation] = strconv.Itoa(int(*d.Spec.Replicas + maxSurge))
}

func with(m map[string]string, key, value string) map[string]string {
	out := maps.Clone(m)
	if out == nil {
		out = map[string]string{}
	}
	out[key] = value
	return out
}
