// Package garbage deletes objects whose owners are gone, and carries out foreground
// and orphaning deletion.
//
// It keeps a graph of owner references of all objects, fed by the bus. The graph may
// lag, so the absence of an owner is confirmed by the API before anything is deleted.
package garbage

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/rs/zerolog"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

const (
	name    = "garbage-collector"
	workers = 10
)

// ignored resources come and go too fast to be owned or to own.
var ignored = []schema.GroupResource{{Resource: "events"}, {Group: "events.k8s.io", Resource: "events"}}

// definitions are the kinds that are not built in: a change of one may bring resources.
var definitions = schema.GroupResource{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}

// kindsKey is the key of the work of learning what there is to follow; UIDs have no colon.
const kindsKey = "kinds:"

type reconciler struct {
	client metadata.Interface
	disco  discovery.DiscoveryInterface
	mapper meta.ResettableRESTMapper
	source engine.Source
	graph  *graph
	c      *engine.Controller

	// followed resources, in whatever version. Only New and the one reconciliation of
	// kindsKey touch it.
	followed map[schema.GroupResource]bool
}

// New returns the controller. It reads the metadata of everything that can be listed,
// watched and deleted, also of what comes to be served later; it deletes objects and edits ownerReferences and finalizers.
// It must be made after the controllers that read the same resources as typed objects.
func New(client metadata.Interface, disco discovery.DiscoveryInterface, mapper meta.ResettableRESTMapper, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	r := &reconciler{client: client, disco: disco, mapper: mapper, source: source, graph: newGraph(), followed: map[schema.GroupResource]bool{}}
	r.c = engine.NewController(r, workers, log)
	return r.c, r.followAll()
}

// followAll follows every resource that is served and not followed yet. What is no
// longer served stays followed: it may be served again, and its objects are gone.
func (r *reconciler) followAll() error {
	lists, err := discovery.ServerPreferredResources(r.disco)
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return fmt.Errorf("%s: discover resources: %w", name, err)
	}
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"delete", "list", "watch"}}, lists) {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, res := range list.APIResources {
			gvr := gv.WithResource(res.Name)
			if r.followed[gvr.GroupResource()] || slices.Contains(ignored, gvr.GroupResource()) {
				continue
			}
			if err := r.c.Follow(r.source.For(gvr, &metav1.PartialObjectMetadata{}), r.see(gvr)); err != nil {
				return err
			}
			r.followed[gvr.GroupResource()] = true
		}
	}
	return nil
}

func (r *reconciler) Name() string { return name }

// see follows one resource into the graph.
func (r *reconciler) see(gvr schema.GroupVersionResource) cache.ResourceEventHandler {
	put := func(obj any) {
		m, err := meta.Accessor(obj)
		if err != nil {
			return
		}
		r.look(r.graph.put(objectOf(gvr, m)), engine.Revision(obj))
		if gvr.GroupResource() == definitions {
			r.c.Enqueue(kindsKey, engine.Revision(obj))
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    put,
		UpdateFunc: func(_, obj any) { put(obj) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if m, err := meta.Accessor(obj); err == nil {
				r.look(r.graph.remove(m.GetUID()), engine.Revision(obj))
			}
		},
	}
}

func (r *reconciler) look(uids []types.UID, rev int64) {
	for _, uid := range uids {
		r.c.Enqueue(string(uid), rev)
	}
}

func (r *reconciler) Reconcile(ctx context.Context, key string) error {
	if key == kindsKey {
		r.mapper.Reset()
		return r.followAll()
	}
	o := r.graph.get(types.UID(key))
	switch {
	case o == nil:
		return nil
	case o.orphaning():
		return r.orphan(ctx, o)
	case o.foreground():
		return r.foreground(ctx, o)
	case o.deleting || len(o.owners) == 0:
		return nil
	default:
		return r.judge(ctx, o)
	}
}

// verdict sorts an object's owners.
type verdict struct {
	solid, dangling, waiting []metav1.OwnerReference
}

// judge decides the fate of an object by its owners. The graph is good enough to spare
// an object, but not to touch it: its owners may have been changed by a write that the
// graph does not show yet (it may just have been orphaned), so they are read again, and
// what follows holds for the version that was read only.
func (r *reconciler) judge(ctx context.Context, o *object) error {
	v, err := r.weigh(ctx, o)
	if err != nil || len(v.dangling)+len(v.waiting) == 0 {
		return err
	}
	got, err := r.resource(o.gvr, o.namespace).Get(ctx, o.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && got.UID != o.uid) {
		return nil // its event comes
	}
	if err != nil {
		return fmt.Errorf("get %s %s/%s: %w", o.gvr.Resource, o.namespace, o.name, err)
	}
	live := objectOf(o.gvr, got)
	if live.deleting || len(live.owners) == 0 {
		return nil
	}
	if v, err = r.weigh(ctx, live); err != nil {
		return err
	}
	switch {
	case len(v.dangling)+len(v.waiting) == 0:
		return nil
	case len(v.solid) > 0:
		return r.setOwners(ctx, live, got.ResourceVersion, v.solid)
	case len(v.waiting) > 0 && len(r.graph.dependentsOf(o.uid)) > 0:
		return r.remove(ctx, live, got.ResourceVersion, metav1.DeletePropagationForeground)
	case live.has(metav1.FinalizerOrphanDependents):
		return r.remove(ctx, live, got.ResourceVersion, metav1.DeletePropagationOrphan)
	case live.has(metav1.FinalizerDeleteDependents):
		return r.remove(ctx, live, got.ResourceVersion, metav1.DeletePropagationForeground)
	default:
		return r.remove(ctx, live, got.ResourceVersion, metav1.DeletePropagationBackground)
	}
}

func (r *reconciler) weigh(ctx context.Context, o *object) (verdict, error) {
	var v verdict
	for _, ref := range o.owners {
		owner, exists, err := r.lookUp(ctx, o, ref)
		switch {
		case err != nil:
			return verdict{}, err
		case !exists:
			v.dangling = append(v.dangling, ref)
		case owner != nil && owner.foreground():
			v.waiting = append(v.waiting, ref)
		default:
			v.solid = append(v.solid, ref)
		}
	}
	return v, nil
}

// lookUp finds an owner in the graph, or asks the API whether it exists. An owner of a
// kind that nobody serves any more is left standing: its objects may come back.
func (r *reconciler) lookUp(ctx context.Context, o *object, ref metav1.OwnerReference) (owner *object, exists bool, err error) {
	if owner = r.graph.get(ref.UID); owner != nil {
		return owner, owner.namespace == "" || owner.namespace == o.namespace, nil
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, true, nil //nolint:nilerr // a reference that names nothing protects
	}
	mapping, err := r.mapper.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, gv.Version)
	if meta.IsNoMatchError(err) {
		r.mapper.Reset()
		return nil, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("map owner %s %s: %w", ref.Kind, ref.Name, err)
	}
	namespace := ""
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		namespace = o.namespace
	}
	got, err := r.resource(mapping.Resource, namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("get owner %s %s: %w", ref.Kind, ref.Name, err)
	}
	return nil, got.UID == ref.UID, nil
}

// foreground deletes what depends on the object and lets it go when nothing that
// blocks is left.
func (r *reconciler) foreground(ctx context.Context, o *object) error {
	blocked := false
	for _, d := range r.graph.dependentsOf(o.uid) {
		if d.blocks(o.uid) {
			blocked = true
		}
		if !d.deleting {
			if err := r.judge(ctx, d); err != nil {
				return err
			}
		}
	}
	if blocked {
		return nil // their going wakes us
	}
	return r.dropFinalizer(ctx, o, metav1.FinalizerDeleteDependents)
}

// orphan frees the dependents, then the object. The references that stay are those of
// the version that is edited, not of the graph.
func (r *reconciler) orphan(ctx context.Context, o *object) error {
	for _, d := range r.graph.dependentsOf(o.uid) {
		err := r.edit(ctx, d, func(m *metav1.PartialObjectMetadata) map[string]any {
			rest := slices.DeleteFunc(slices.Clone(m.OwnerReferences), func(ref metav1.OwnerReference) bool { return ref.UID == o.uid })
			if len(rest) == len(m.OwnerReferences) {
				return nil
			}
			return map[string]any{"ownerReferences": rest}
		})
		if err != nil {
			return err
		}
	}
	return r.dropFinalizer(ctx, o, metav1.FinalizerOrphanDependents)
}

func (r *reconciler) resource(gvr schema.GroupVersionResource, namespace string) metadata.ResourceInterface {
	if namespace == "" {
		return r.client.Resource(gvr)
	}
	return r.client.Resource(gvr).Namespace(namespace)
}

// remove deletes exactly the version that was judged; a newer one's event comes.
func (r *reconciler) remove(ctx context.Context, o *object, version string, how metav1.DeletionPropagation) error {
	uid := o.uid
	err := r.resource(o.gvr, o.namespace).Delete(ctx, o.name, metav1.DeleteOptions{
		PropagationPolicy: &how, Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete %s %s/%s: %w", o.gvr.Resource, o.namespace, o.name, err)
	}
	return nil
}

// setOwners replaces the owner references of exactly the version that was judged.
func (r *reconciler) setOwners(ctx context.Context, o *object, version string, owners []metav1.OwnerReference) error {
	err := r.patch(ctx, o, map[string]any{"uid": o.uid, "resourceVersion": version, "ownerReferences": owners})
	if apierrors.IsConflict(err) {
		return nil // the newer version's event comes
	}
	return err
}

func (r *reconciler) dropFinalizer(ctx context.Context, o *object, finalizer string) error {
	return r.edit(ctx, o, func(m *metav1.PartialObjectMetadata) map[string]any {
		if !slices.Contains(m.Finalizers, finalizer) {
			return nil
		}
		rest := slices.DeleteFunc(slices.Clone(m.Finalizers), func(f string) bool { return f == finalizer })
		return map[string]any{"finalizers": rest}
	})
}

// edit patches metadata of exactly the version it read. A conflict is an error: the
// engine tries again.
func (r *reconciler) edit(ctx context.Context, o *object, change func(*metav1.PartialObjectMetadata) map[string]any) error {
	got, err := r.resource(o.gvr, o.namespace).Get(ctx, o.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && got.UID != o.uid) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get %s %s/%s: %w", o.gvr.Resource, o.namespace, o.name, err)
	}
	fields := change(got)
	if fields == nil {
		return nil
	}
	fields["uid"], fields["resourceVersion"] = got.UID, got.ResourceVersion
	return r.patch(ctx, o, fields)
}

func (r *reconciler) patch(ctx context.Context, o *object, fields map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": fields})
	if err != nil {
		return err
	}
	_, err = r.resource(o.gvr, o.namespace).Patch(ctx, o.name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("patch %s %s/%s: %w", o.gvr.Resource, o.namespace, o.name, err)
	}
	return nil
}
