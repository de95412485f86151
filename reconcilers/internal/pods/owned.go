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
	o.mu.Lock() // held while looking: an event that comes after the look clears the mark
	defer o.mu.Unlock()
	current, ok, err := o.indexer.GetByKey(p.Namespace + "/" + p.Name)
	if err != nil || !ok {
		return
	}
	if c := current.(*corev1.Pod); c.UID != p.UID || c.DeletionTimestamp != nil {
		return
	}
	o.deleting[p.UID] = struct{}{}
}

func (o *Owned) shown(uid types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.deleting, uid)
}

// Owner is who claims pods.
type Owner struct {
	metav1.Object
	Kind     schema.GroupVersionKind
	Selector labels.Selector
	// Live reads the owner from the API. It is asked before a pod is adopted: an owner
	// that is gone, or about to go, must not take back the pods that it gave up.
	Live func(ctx context.Context) (metav1.Object, error)
}

// Claim returns the pods of the owner after adopting and releasing. Pods are shared
// with the informer and must not be changed; those just adopted are newer than it.
func (o *Owned) Claim(ctx context.Context, owner Owner) ([]*corev1.Pod, error) {
	var mine []*corev1.Pod
	for _, p := range engine.Owned[*corev1.Pod](o.indexer, engine.ByController, string(owner.GetUID())) {
		if owner.Selector.Matches(labels.Set(p.Labels)) || owner.GetDeletionTimestamp() != nil {
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
	var orphans []*corev1.Pod
	for _, p := range engine.Owned[*corev1.Pod](o.indexer, engine.Orphans, owner.GetNamespace()) {
		if p.DeletionTimestamp == nil && !Finished(p) && owner.Selector.Matches(labels.Set(p.Labels)) {
			orphans = append(orphans, p)
		}
	}
	if len(orphans) == 0 {
		return mine, nil
	}
	live, err := owner.Live(ctx)
	if apierrors.IsNotFound(err) || (err == nil && (live.GetUID() != owner.GetUID() || live.GetDeletionTimestamp() != nil)) {
		return mine, nil // an event will tell
	}
	if err != nil {
		return nil, fmt.Errorf("confirm %s %s: %w", owner.Kind.Kind, owner.GetName(), err)
	}
	for _, p := range orphans {
		adopted, err := o.adopt(ctx, p, owner)
		if err != nil {
			return nil, err
		}
		mine = append(mine, adopted)
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

// adopt fails on a conflict: not counting a pod that may be ours would make another.
func (o *Owned) adopt(ctx context.Context, p *corev1.Pod, owner Owner) (*corev1.Pod, error) {
	refs := append(p.OwnerReferences[:len(p.OwnerReferences):len(p.OwnerReferences)], *metav1.NewControllerRef(owner, owner.Kind))
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
	_, err := o.patchOwners(ctx, p, refs)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // on these an event will tell
		return fmt.Errorf("release pod %s: %w", p.Name, err)
	}
	return nil
}

// patchOwners replaces the owners of exactly the version of the pod that was read.
func (o *Owned) patchOwners(ctx context.Context, p *corev1.Pod, refs []metav1.OwnerReference) (*corev1.Pod, error) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": p.UID, "resourceVersion": p.ResourceVersion, "ownerReferences": refs}})
	if err != nil {
		return nil, err
	}
	return o.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{})
}
