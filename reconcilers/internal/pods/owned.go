package pods

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

// Owned finds the pods of a controller, adopts those that match and have no
// controller, and releases those that no longer match. It is safe for concurrent use.
type Owned struct {
	client  kubernetes.Interface
	indexer cache.Indexer

	mu       sync.Mutex
	deleting map[types.UID]struct{} // deleted by us, not yet shown as terminating; guarded by mu
}

// NewOwned must be called before the informer starts.
func NewOwned(client kubernetes.Interface, informer cache.SharedIndexInformer) (*Owned, error) {
	if err := engine.IndexOwned(informer); err != nil {
		return nil, fmt.Errorf("index pods: %w", err)
	}
	o := &Owned{client: client, indexer: informer.GetIndexer(), deleting: map[types.UID]struct{}{}}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(_, obj any) {
			if p, ok := obj.(*corev1.Pod); ok && p.DeletionTimestamp != nil {
				o.shown(p.UID)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if p, ok := obj.(*corev1.Pod); ok {
				o.shown(p.UID)
			}
		},
	})
	return o, err
}

// Deleting notes that the caller has deleted a pod; until an event shows it, Claim
// reports the pod as terminating.
func (o *Owned) Deleting(p *corev1.Pod) {
	current, ok, err := o.indexer.GetByKey(p.Namespace + "/" + p.Name)
	if err != nil || !ok {
		return
	}
	if c := current.(*corev1.Pod); c.UID != p.UID || c.DeletionTimestamp != nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.deleting[p.UID] = struct{}{}
}

func (o *Owned) shown(uid types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.deleting, uid)
}

// Claim returns the pods of the owner after adopting and releasing. Pods are shared
// with the informer and must not be changed.
func (o *Owned) Claim(ctx context.Context, owner metav1.Object, kind schema.GroupVersionKind, selector labels.Selector) ([]*corev1.Pod, error) {
	var mine []*corev1.Pod
	for _, p := range engine.Owned[*corev1.Pod](o.indexer, engine.ByController, string(owner.GetUID())) {
		if selector.Matches(labels.Set(p.Labels)) || owner.GetDeletionTimestamp() != nil {
			mine = append(mine, o.asDeleted(p))
			continue
		}
		if err := o.release(ctx, p, owner.GetUID()); err != nil {
			return nil, err
		}
	}
	if owner.GetDeletionTimestamp() != nil {
		return mine, nil
	}
	for _, p := range engine.Owned[*corev1.Pod](o.indexer, engine.Orphans, owner.GetNamespace()) {
		if p.DeletionTimestamp != nil || !selector.Matches(labels.Set(p.Labels)) {
			continue
		}
		adopted, err := o.adopt(ctx, p, owner, kind)
		if err != nil {
			return nil, err
		}
		if adopted != nil {
			mine = append(mine, adopted)
		}
	}
	return mine, nil
}

func (o *Owned) asDeleted(p *corev1.Pod) *corev1.Pod {
	o.mu.Lock()
	_, deleting := o.deleting[p.UID]
	o.mu.Unlock()
	if !deleting || p.DeletionTimestamp != nil {
		return p
	}
	p = p.DeepCopy()
	now := metav1.Now()
	p.DeletionTimestamp = &now
	return p
}

func (o *Owned) adopt(ctx context.Context, p *corev1.Pod, owner metav1.Object, kind schema.GroupVersionKind) (*corev1.Pod, error) {
	refs := append(p.OwnerReferences[:len(p.OwnerReferences):len(p.OwnerReferences)], *metav1.NewControllerRef(owner, kind))
	adopted, err := o.patchOwners(ctx, p, refs)
	if err != nil {
		return nil, fmt.Errorf("adopt pod %s: %w", p.Name, err)
	}
	return adopted, nil
}

func (o *Owned) release(ctx context.Context, p *corev1.Pod, owner types.UID) error {
	refs := []metav1.OwnerReference{}
	for _, ref := range p.OwnerReferences {
		if ref.UID != owner {
			refs = append(refs, ref)
		}
	}
	if _, err := o.patchOwners(ctx, p, refs); err != nil {
		return fmt.Errorf("release pod %s: %w", p.Name, err)
	}
	return nil
}

// patchOwners replaces the owners of exactly the version of the pod that was read; nil
// if the pod is gone or has changed, which an event will tell.
func (o *Owned) patchOwners(ctx context.Context, p *corev1.Pod, refs []metav1.OwnerReference) (*corev1.Pod, error) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": p.UID, "resourceVersion": p.ResourceVersion, "ownerReferences": refs}})
	if err != nil {
		return nil, err
	}
	got, err := o.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil, nil
	}
	return got, err
}
