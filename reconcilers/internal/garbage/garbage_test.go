package garbage

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var configMaps = corev1.SchemeGroupVersion.WithResource("configmaps")

func start(t *testing.T, s *fakeapi.Server) {
	t.Helper()
	client := s.Client()
	c, err := New(s.Metadata(), client.Discovery(), restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())), s, zerolog.Nop())
	require.NoError(t, err)
	fakeapi.Start(t, s, c)
}

// secret stores an owner, dependent what it owns.
func secret(s *fakeapi.Server, name string) *corev1.Secret {
	return fakeapi.Put(s, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})
}

func dependent(s *fakeapi.Server, name string, refs ...metav1.OwnerReference) *corev1.ConfigMap {
	return fakeapi.Put(s, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, OwnerReferences: refs}})
}

func ref(o *corev1.Secret) metav1.OwnerReference {
	block := true
	return metav1.OwnerReference{APIVersion: "v1", Kind: "Secret", Name: o.Name, UID: o.UID, BlockOwnerDeletion: &block}
}

func remove(t *testing.T, s *fakeapi.Server, name string, how metav1.DeletionPropagation) {
	t.Helper()
	require.NoError(t, s.Client().CoreV1().Secrets("default").Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &how}))
	fakeapi.Settle()
}

func configMap(s *fakeapi.Server, name string) *corev1.ConfigMap {
	return fakeapi.Get[*corev1.ConfigMap](s, "default", name)
}

func TestBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		owner := secret(s, "owner")
		dependent(s, "mine", ref(owner))
		dependent(s, "free")
		start(t, s)
		require.Len(t, fakeapi.All[*corev1.ConfigMap](s), 2)
		remove(t, s, "owner", metav1.DeletePropagationBackground)
		require.Nil(t, configMap(s, "mine"))
		require.NotNil(t, configMap(s, "free"))
	})
}

func TestChainOfOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		top := secret(s, "top")
		middle := fakeapi.Put(s, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "middle", OwnerReferences: []metav1.OwnerReference{ref(top)}}})
		dependent(s, "leaf", ref(middle))
		start(t, s)
		remove(t, s, "top", metav1.DeletePropagationBackground)
		require.Empty(t, fakeapi.All[*corev1.Secret](s))
		require.Empty(t, fakeapi.All[*corev1.ConfigMap](s))
	})
}

func TestForegroundWaitsForDependents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		owner := secret(s, "owner")
		held := dependent(s, "held", ref(owner))
		held.Finalizers = []string{"x/y"}
		held = fakeapi.Put(s, held)
		dependent(s, "mine", ref(owner))
		start(t, s)
		remove(t, s, "owner", metav1.DeletePropagationForeground)
		require.Nil(t, configMap(s, "mine"))
		require.NotNil(t, configMap(s, "held").DeletionTimestamp)
		require.NotNil(t, fakeapi.Get[*corev1.Secret](s, "default", "owner"), "the owner waits")
		fakeapi.Drop(s, held)
		fakeapi.Settle()
		require.Nil(t, fakeapi.Get[*corev1.Secret](s, "default", "owner"))
	})
}

func TestForegroundDoesNotWaitForWhatDoesNotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		owner := secret(s, "owner")
		r := ref(owner)
		r.BlockOwnerDeletion = nil
		held := dependent(s, "held", r)
		held.Finalizers = []string{"x/y"}
		fakeapi.Put(s, held)
		start(t, s)
		remove(t, s, "owner", metav1.DeletePropagationForeground)
		require.Nil(t, fakeapi.Get[*corev1.Secret](s, "default", "owner"))
	})
}

func TestOrphan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		owner := secret(s, "owner")
		dependent(s, "mine", ref(owner))
		start(t, s)
		remove(t, s, "owner", metav1.DeletePropagationOrphan)
		require.Nil(t, fakeapi.Get[*corev1.Secret](s, "default", "owner"))
		require.Empty(t, configMap(s, "mine").OwnerReferences)
	})
}

// The owner's end was seen before the event of the orphaning, and the object that a
// user wanted to keep was deleted.
func TestOrphanedObjectSurvivesLateEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		owner := secret(s, "owner")
		dependent(s, "mine", ref(owner))
		start(t, s)
		release := s.Hold(configMaps)
		remove(t, s, "owner", metav1.DeletePropagationOrphan)
		require.Nil(t, fakeapi.Get[*corev1.Secret](s, "default", "owner"))
		require.NotNil(t, configMap(s, "mine"))
		release()
		fakeapi.Settle()
		require.NotNil(t, configMap(s, "mine"))
	})
}

// Orphaning wrote the references that the graph knew, and so dropped an owner that had
// just been added.
func TestOrphaningKeepsOwnersTheGraphDoesNotKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		owner, other := secret(s, "owner"), secret(s, "other")
		mine := dependent(s, "mine", ref(owner))
		start(t, s)
		release := s.Hold(configMaps)
		mine.OwnerReferences = append(mine.OwnerReferences, ref(other))
		fakeapi.Put(s, mine)
		remove(t, s, "owner", metav1.DeletePropagationOrphan)
		release()
		fakeapi.Settle()
		require.Equal(t, []metav1.OwnerReference{ref(other)}, configMap(s, "mine").OwnerReferences)
	})
}

func TestOneOfTwoOwnersKeeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		a, b := secret(s, "a"), secret(s, "b")
		dependent(s, "mine", ref(a), ref(b))
		start(t, s)
		remove(t, s, "a", metav1.DeletePropagationBackground)
		require.Equal(t, []metav1.OwnerReference{ref(b)}, configMap(s, "mine").OwnerReferences)
		remove(t, s, "b", metav1.DeletePropagationBackground)
		require.Nil(t, configMap(s, "mine"))
	})
}

func TestOwnersThatAreMissing(t *testing.T) {
	for _, tc := range []struct {
		name string
		ref  metav1.OwnerReference
		kept bool
	}{
		{"never was", metav1.OwnerReference{APIVersion: "v1", Kind: "Secret", Name: "ghost", UID: "u"}, false},
		{"made anew with the same name", metav1.OwnerReference{APIVersion: "v1", Kind: "Secret", Name: "reborn", UID: "u"}, false},
		{"of a kind that nobody serves", metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Thing", Name: "x", UID: "u"}, true},
		{"of no group", metav1.OwnerReference{APIVersion: "a/b/c", Kind: "Thing", Name: "x", UID: "u"}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := fakeapi.New()
				secret(s, "reborn")
				dependent(s, "mine", tc.ref)
				start(t, s)
				require.Equal(t, tc.kept, configMap(s, "mine") != nil)
			})
		})
	}
}

func TestOwnerInAnotherNamespaceDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		owner := fakeapi.Put(s, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "owner"}})
		dependent(s, "mine", ref(owner))
		start(t, s)
		require.Nil(t, configMap(s, "mine"))
	})
}

func node(uid string, owners ...string) *object {
	o := &object{uid: types.UID(uid), gvr: schema.GroupVersionResource{Resource: "things"}, name: uid}
	for _, owner := range owners {
		o.owners = append(o.owners, metav1.OwnerReference{UID: types.UID(owner)})
	}
	return o
}

func TestGraphNamesWhomToLookAt(t *testing.T) {
	foreground := node("a")
	foreground.deleting, foreground.finalizers = true, []string{metav1.FinalizerDeleteDependents}
	for _, tc := range []struct {
		name   string
		before []*object
		act    func(*graph) []types.UID
		want   []types.UID
	}{
		{"without owners", nil, func(g *graph) []types.UID { return g.put(node("a")) }, nil},
		{"with owner", nil, func(g *graph) []types.UID { return g.put(node("b", "a")) }, []types.UID{"b"}},
		{"lost an owner", []*object{node("b", "a")}, func(g *graph) []types.UID { return g.put(node("b")) }, []types.UID{"a"}},
		{"foreground begins", []*object{node("a"), node("b", "a")}, func(g *graph) []types.UID { return g.put(foreground) }, []types.UID{"a", "b"}},
		{"foreground goes on", []*object{foreground, node("b", "a")}, func(g *graph) []types.UID { return g.put(foreground) }, []types.UID{"a"}},
		{"owner gone", []*object{node("a"), node("b", "a"), node("c", "a")}, func(g *graph) []types.UID { return g.remove("a") }, []types.UID{"b", "c"}},
		{"dependent gone", []*object{node("a"), node("b", "a")}, func(g *graph) []types.UID { return g.remove("b") }, []types.UID{"a"}},
		{"unknown gone", nil, func(g *graph) []types.UID { return g.remove("x") }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newGraph()
			for _, o := range tc.before {
				g.put(o)
			}
			got := tc.act(g)
			slices.Sort(got)
			require.Equal(t, tc.want, got)
		})
	}
}

func TestGraphForgetsAll(t *testing.T) {
	g := newGraph()
	g.put(node("a"))
	g.put(node("b", "a"))
	require.Len(t, g.dependentsOf("a"), 1)
	g.remove("a")
	g.remove("b")
	require.Empty(t, g.objects)
	require.Empty(t, g.dependents)
}

// growing is a server on which ConfigMaps are served later, when a definition says so.
// Leases stand for definitions.
type growing struct {
	discovery.DiscoveryInterface
	*fakeapi.Server
	served atomic.Bool
	run    func(cache.SharedIndexInformer)
}

func (g *growing) ServerGroups() (*metav1.APIGroupList, error) {
	list, err := g.DiscoveryInterface.ServerGroups()
	if err == nil {
		v := metav1.GroupVersionForDiscovery{GroupVersion: definitions.Group + "/v1", Version: "v1"}
		list.Groups = append(list.Groups, metav1.APIGroup{Name: definitions.Group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v})
	}
	return list, err
}

func (g *growing) ServerResourcesForGroupVersion(gv string) (*metav1.APIResourceList, error) {
	if gv == definitions.Group+"/v1" {
		return &metav1.APIResourceList{GroupVersion: gv, APIResources: []metav1.APIResource{
			{Name: definitions.Resource, Kind: "CustomResourceDefinition", Verbs: metav1.Verbs{"delete", "list", "watch"}}}}, nil
	}
	list, err := g.DiscoveryInterface.ServerResourcesForGroupVersion(gv)
	if err == nil && !g.served.Load() {
		list.APIResources = slices.DeleteFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == configMaps.Resource })
	}
	return list, err
}

// For starts informers that are asked for late, as the bus does.
func (g *growing) For(gvr schema.GroupVersionResource, obj runtime.Object) cache.SharedIndexInformer {
	if gvr.GroupResource() == definitions {
		gvr = coordinationv1.SchemeGroupVersion.WithResource("leases")
	}
	informer := g.Server.For(gvr, obj)
	if gvr == configMaps {
		g.run(informer)
	}
	return informer
}

func TestKindsThatAreServedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		var late sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		defer late.Wait()
		defer cancel()
		client := s.Client()
		g := &growing{DiscoveryInterface: client.Discovery(), Server: s,
			run: func(i cache.SharedIndexInformer) { late.Go(func() { i.RunWithContext(ctx) }) }}
		c, err := New(s.Metadata(), g, restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())), g, zerolog.Nop())
		require.NoError(t, err)
		fakeapi.Start(t, s, c)
		owner := secret(s, "owner")
		dependent(s, "mine", ref(owner))
		remove(t, s, "owner", metav1.DeletePropagationBackground)
		require.NotNil(t, configMap(s, "mine"), "its kind is not known")

		g.served.Store(true)
		fakeapi.Put(s, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "definition"}})
		fakeapi.Settle()
		require.Nil(t, configMap(s, "mine"))
	})
}
