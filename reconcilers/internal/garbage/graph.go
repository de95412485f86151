package garbage

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// object is what the collector knows of one API object. It is replaced, never changed.
type object struct {
	uid             types.UID
	gvr             schema.GroupVersionResource
	namespace, name string
	owners          []metav1.OwnerReference
	finalizers      []string
	deleting        bool
}

func objectOf(gvr schema.GroupVersionResource, m metav1.Object) *object {
	return &object{
		uid: m.GetUID(), gvr: gvr, namespace: m.GetNamespace(), name: m.GetName(),
		owners: m.GetOwnerReferences(), finalizers: m.GetFinalizers(), deleting: m.GetDeletionTimestamp() != nil,
	}
}

func (o *object) has(finalizer string) bool { return slices.Contains(o.finalizers, finalizer) }

// foreground: the object waits for its blocking dependents (KEP: foreground deletion).
func (o *object) foreground() bool { return o.deleting && o.has(metav1.FinalizerDeleteDependents) }

// orphaning: the object's dependents are to lose their reference to it and stay.
func (o *object) orphaning() bool { return o.deleting && o.has(metav1.FinalizerOrphanDependents) }

// owner is the object's reference to uid, nil if it has none.
func (o *object) owner(uid types.UID) *metav1.OwnerReference {
	for i := range o.owners {
		if o.owners[i].UID == uid {
			return &o.owners[i]
		}
	}
	return nil
}

// blocks reports that an owner's foreground deletion must wait for the object.
func (o *object) blocks(owner types.UID) bool {
	ref := o.owner(owner)
	return ref != nil && ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

// graph is all objects and who depends on whom. It is safe for concurrent use.
type graph struct {
	mu         sync.Mutex
	objects    map[types.UID]*object                // guarded by mu
	dependents map[types.UID]map[types.UID]struct{} // by owner; guarded by mu
}

func newGraph() *graph {
	return &graph{objects: map[types.UID]*object{}, dependents: map[types.UID]map[types.UID]struct{}{}}
}

// put adds or replaces an object and names those to look at because of it.
func (g *graph) put(o *object) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.objects[o.uid]
	g.unlinkLocked(was)
	g.objects[o.uid] = o
	for _, ref := range o.owners {
		if g.dependents[ref.UID] == nil {
			g.dependents[ref.UID] = map[types.UID]struct{}{}
		}
		g.dependents[ref.UID][o.uid] = struct{}{}
	}
	var look []types.UID
	if len(o.owners) > 0 || o.deleting {
		look = append(look, o.uid)
	}
	if was != nil { // an owner that waited may have lost a dependent
		for _, ref := range was.owners {
			if o.owner(ref.UID) == nil {
				look = append(look, ref.UID)
			}
		}
	}
	if o.foreground() && (was == nil || !was.foreground()) {
		for uid := range g.dependents[o.uid] {
			look = append(look, uid)
		}
	}
	return look
}

// remove forgets an object and names its dependents and its owners.
func (g *graph) remove(uid types.UID) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	o := g.objects[uid]
	g.unlinkLocked(o)
	delete(g.objects, uid)
	var look []types.UID
	for dependent := range g.dependents[uid] {
		look = append(look, dependent)
	}
	if o != nil {
		for _, ref := range o.owners {
			look = append(look, ref.UID)
		}
	}
	return look
}

func (g *graph) unlinkLocked(o *object) {
	if o == nil {
		return
	}
	for _, ref := range o.owners {
		delete(g.dependents[ref.UID], o.uid)
		if len(g.dependents[ref.UID]) == 0 {
			delete(g.dependents, ref.UID)
		}
	}
}

func (g *graph) get(uid types.UID) *object {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.objects[uid]
}

// dependentsOf lists the objects that refer to uid.
func (g *graph) dependentsOf(uid types.UID) []*object {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []*object
	for d := range g.dependents[uid] {
		if o := g.objects[d]; o != nil {
			out = append(out, o)
		}
	}
	return out
}
