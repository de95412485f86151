// Package quota keeps count of what namespaces use, for ResourceQuotas. Admission, in
// the API server, charges a quota when it lets something in; this controller takes back
// what is gone, and corrects what was charged for creations that then failed.
package quota

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

const (
	workers = 2
	// settle is after how long a charge is checked: creations that admission has let in
	// are committed or refused by then.
	settle = 10 * time.Second
)

type reconciler struct {
	client kubernetes.Interface
	quotas corelisters.ResourceQuotaLister
	mapper meta.RESTMapper
	source engine.Source
	wake   func(key string, rev int64)

	mu       sync.Mutex
	followed map[schema.GroupResource]followed // guarded by mu
}

// followed is a resource whose objects are counted.
type followed struct {
	indexer cache.Indexer
	synced  <-chan struct{}
}

// typed are the resources of which more is measured than their number.
var typed = map[schema.GroupResource]func() runtime.Object{
	{Resource: "pods"}:                   func() runtime.Object { return &corev1.Pod{} },
	{Resource: "services"}:               func() runtime.Object { return &corev1.Service{} },
	{Resource: "persistentvolumeclaims"}: func() runtime.Object { return &corev1.PersistentVolumeClaim{} },
}

// New returns the controller. It reads ResourceQuotas and whatever these limit, and owns
// their status. mapper tells in which version a resource is served.
func New(client kubernetes.Interface, mapper meta.RESTMapper, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	informer := source.For(corev1.SchemeGroupVersion.WithResource("resourcequotas"), &corev1.ResourceQuota{})
	r := &reconciler{
		client: client, quotas: corelisters.NewResourceQuotaLister(informer.GetIndexer()), mapper: mapper, source: source,
		followed: map[schema.GroupResource]followed{},
	}
	c := engine.NewController(r, workers, log)
	r.wake = c.Enqueue
	return c, c.Follow(informer, cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { r.wakeSelf(obj) },
		UpdateFunc: func(old, obj any) {
			was, is := old.(*corev1.ResourceQuota), obj.(*corev1.ResourceQuota)
			if !equality.Semantic.DeepEqual(was.Spec, is.Spec) {
				r.wakeSelf(obj)
				return
			}
			if !equality.Semantic.DeepEqual(was.Status.Used, is.Status.Used) {
				c.EnqueueAfter(is.Namespace+"/"+is.Name, settle)
			}
		},
	})
}

func (r *reconciler) Name() string { return "resource-quota" }

func (r *reconciler) wakeSelf(obj any) {
	for _, key := range engine.Self(nil, obj) {
		r.wake(key, engine.Revision(obj))
	}
}

func (r *reconciler) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil //nolint:nilerr // a key that is no name can never become one
	}
	q, err := r.quotas.ResourceQuotas(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	now := time.Now()
	status := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: corev1.ResourceList{}}
	var next time.Duration
	for gr, names := range byResource(q.Spec.Hard) {
		objects, err := r.objects(ctx, gr, namespace)
		if meta.IsNoMatchError(err) {
			objects = nil // no such kind, so none of it is used
		} else if err != nil {
			return err
		}
		wait := tally(status.Used, gr, names, scopesOf(q), objects, now)
		if wait > 0 && (next == 0 || wait < next) {
			next = wait
		}
	}
	if err := r.updateStatus(ctx, q, status); err != nil {
		return err
	}
	if next > 0 {
		return engine.After{Wait: next + time.Second}
	}
	return nil
}

// byResource sorts quota names by whose objects they speak of.
func byResource(hard corev1.ResourceList) map[schema.GroupResource][]corev1.ResourceName {
	m := map[schema.GroupResource][]corev1.ResourceName{}
	for name := range hard {
		gr := resourceOf(name)
		m[gr] = append(m[gr], name)
	}
	return m
}

// tally adds up what the objects use of the named resources, and tells after which time
// the sum may change by the clock alone, 0 for never.
func tally(used corev1.ResourceList, gr schema.GroupResource, names []corev1.ResourceName, scopes []corev1.ScopedResourceSelectorRequirement, objects []any, now time.Time) (next time.Duration) {
	for _, name := range names {
		used[name] = resource.Quantity{Format: resource.DecimalSI}
	}
	countName := corev1.ResourceName(countPrefix + gr.String())
	for _, obj := range objects {
		if !inScopes(scopes, obj) {
			continue
		}
		uses := usageOf(obj, now)
		if p, ok := obj.(*corev1.Pod); ok {
			if _, until := occupies(p, now); until > 0 && (next == 0 || until < next) {
				next = until
			}
		}
		for _, name := range names {
			q, ok := uses[name]
			if name == countName || uses == nil && name == corev1.ResourceName(gr.Resource) && typed[gr] == nil {
				q, ok = count(1), true
			}
			if ok {
				sum := used[name]
				sum.Add(q)
				used[name] = sum
			}
		}
	}
	return next
}

// objects are those of a resource in a namespace.
func (r *reconciler) objects(ctx context.Context, gr schema.GroupResource, namespace string) ([]any, error) {
	f, err := r.follow(gr)
	if err != nil {
		return nil, err
	}
	select {
	case <-f.synced:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return f.indexer.ByIndex(cache.NamespaceIndex, namespace)
}

// follow starts to watch a resource the first time a quota names it.
func (r *reconciler) follow(gr schema.GroupResource) (followed, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f, ok := r.followed[gr]; ok {
		return f, nil
	}
	gvr, err := r.mapper.ResourceFor(gr.WithVersion(""))
	if meta.IsNoMatchError(err) {
		meta.MaybeResetRESTMapper(r.mapper) // a custom resource may be served by now
		gvr, err = r.mapper.ResourceFor(gr.WithVersion(""))
	}
	if err != nil {
		return followed{}, err
	}
	var example runtime.Object = &metav1.PartialObjectMetadata{}
	if make := typed[gr]; make != nil {
		example = make()
	}
	informer := r.source.For(gvr, example)
	registered, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(old, obj any) { r.freed(old, obj) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			r.wakeNamespace(gr, obj)
		},
	})
	if err != nil {
		return followed{}, fmt.Errorf("follow %s: %w", gr, err)
	}
	f := followed{indexer: informer.GetIndexer(), synced: registered.HasSyncedChecker().Done()}
	r.followed[gr] = f
	return f, nil
}

// freed wakes the quotas of an object that uses something else than before.
func (r *reconciler) freed(old, obj any) {
	switch obj.(type) {
	case *corev1.Pod, *corev1.Service, *corev1.PersistentVolumeClaim:
	default:
		return // counts for one before and after
	}
	quotas := r.quotasOf(obj)
	if len(quotas) == 0 {
		return // most namespaces have none, and pods change often
	}
	now := time.Now()
	if !equality.Semantic.DeepEqual(usageOf(old, now), usageOf(obj, now)) || scopesChanged(old, obj) {
		for _, q := range quotas {
			r.wake(q.Namespace+"/"+q.Name, engine.Revision(obj))
		}
	}
}

// scopesChanged: the object may have left a quota, or come into it.
func scopesChanged(old, obj any) bool {
	switch is := obj.(type) {
	case *corev1.Pod:
		was := old.(*corev1.Pod)
		return (was.Spec.ActiveDeadlineSeconds == nil) != (is.Spec.ActiveDeadlineSeconds == nil) || was.DeletionTimestamp == nil && is.DeletionTimestamp != nil
	case *corev1.PersistentVolumeClaim:
		return !equality.Semantic.DeepEqual(attributeClasses(old.(*corev1.PersistentVolumeClaim)), attributeClasses(is))
	default:
		return false
	}
}

// wakeNamespace wakes the quotas of the object's namespace that speak of its resource.
func (r *reconciler) wakeNamespace(gr schema.GroupResource, obj any) {
	for _, q := range r.quotasOf(obj) {
		if _, ok := byResource(q.Spec.Hard)[gr]; ok {
			r.wake(q.Namespace+"/"+q.Name, engine.Revision(obj))
		}
	}
}

// quotasOf are the quotas of the object's namespace.
func (r *reconciler) quotasOf(obj any) []*corev1.ResourceQuota {
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return nil
	}
	all, err := r.quotas.ResourceQuotas(accessor.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil
	}
	return all
}

func (r *reconciler) updateStatus(ctx context.Context, q *corev1.ResourceQuota, status corev1.ResourceQuotaStatus) error {
	if equality.Semantic.DeepEqual(q.Status, status) {
		return nil
	}
	update := q.DeepCopy()
	update.Status = status
	_, err := r.client.CoreV1().ResourceQuotas(q.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	// A conflict is admission charging meanwhile: what is gone must be counted again.
	return fmt.Errorf("update status of quota %s/%s: %w", q.Namespace, q.Name, err)
}
