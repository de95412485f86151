package deployment

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

// adoptersOf maps a ReplicaSet without a controller to the Deployments that select it.
func (r *reconciler) adoptersOf(_, obj any) []string {
	rs, ok := obj.(*appsv1.ReplicaSet)
	if !ok || metav1.GetControllerOfNoCopy(rs) != nil || len(rs.Labels) == 0 {
		return nil
	}
	all, err := r.deployments.Deployments(rs.Namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	var keys []string
	for _, d := range all {
		if selects(d, rs) {
			keys = append(keys, d.Namespace+"/"+d.Name)
		}
	}
	return keys
}

func selects(d *appsv1.Deployment, rs *appsv1.ReplicaSet) bool {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	return err == nil && !selector.Empty() && selector.Matches(labels.Set(rs.Labels))
}

// claim returns the deployment's ReplicaSets after adopting those that it selects and
// that have no controller (left by a deletion that orphaned them), and releasing those
// that it no longer selects.
func (r *reconciler) claim(ctx context.Context, key string, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	var mine, orphans []*appsv1.ReplicaSet
	for _, rs := range engine.Owned[*appsv1.ReplicaSet](r.sets, engine.ByController, string(d.UID)) {
		if d.DeletionTimestamp != nil || selects(d, rs) {
			mine = append(mine, rs)
			continue
		}
		rest := slices.DeleteFunc(slices.Clone(rs.OwnerReferences), func(ref metav1.OwnerReference) bool { return ref.UID == d.UID })
		if _, err := r.setOwners(ctx, key, rs, rest); err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("release replica set %s: %w", rs.Name, err)
		}
	}
	for _, rs := range engine.Owned[*appsv1.ReplicaSet](r.sets, engine.Orphans, d.Namespace) {
		if rs.DeletionTimestamp == nil && selects(d, rs) {
			orphans = append(orphans, rs)
		}
	}
	if d.DeletionTimestamp != nil || len(orphans) == 0 {
		return mine, nil
	}
	// The informer may not show yet that the deployment has gone and left them.
	live, err := r.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && (live.UID != d.UID || live.DeletionTimestamp != nil)) {
		return mine, nil
	}
	if err != nil {
		return nil, fmt.Errorf("confirm deployment %s/%s: %w", d.Namespace, d.Name, err)
	}
	for _, rs := range orphans {
		adopted, err := r.setOwners(ctx, key, rs, append(slices.Clone(rs.OwnerReferences), *metav1.NewControllerRef(d, kind)))
		if err != nil {
			return nil, fmt.Errorf("adopt replica set %s: %w", rs.Name, err)
		}
		mine = append(mine, adopted)
	}
	return mine, nil
}

// setOwners replaces the owners of exactly the version that was read.
func (r *reconciler) setOwners(ctx context.Context, key string, rs *appsv1.ReplicaSet, owners []metav1.OwnerReference) (*appsv1.ReplicaSet, error) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": rs.UID, "resourceVersion": rs.ResourceVersion, "ownerReferences": owners}})
	if err != nil {
		return nil, err
	}
	updated, err := r.client.AppsV1().ReplicaSets(rs.Namespace).Patch(ctx, rs.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return nil, err
	}
	r.writes.Wrote(key, updated)
	return updated, nil
}
