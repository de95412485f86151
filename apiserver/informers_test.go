package apiserver_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// front is several servers behind one name.
type front struct {
	mu        sync.Mutex
	addresses []string // guarded by mu
}

var errNobodyListens = errors.New("no server listens")

// dial reaches the first server that listens.
func (f *front) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	f.mu.Lock()
	addresses := slices.Clone(f.addresses)
	f.mu.Unlock()
	var dialer net.Dialer
	for _, address := range addresses {
		if conn, err := dialer.DialContext(ctx, network, address); err == nil {
			return conn, nil
		}
	}
	return nil, errNobodyListens
}

// member is one server behind a front.
type member struct {
	*cluster
	stop func() error
}

// join starts a server on c's etcd and puts it behind the front.
func (f *front) join(t *testing.T, c *cluster, id string) *member {
	t.Helper()
	m := &member{cluster: &cluster{etcd: c.etcd, sealFile: c.sealFile}}
	var err error
	m.stop, err = m.start(filepath.Dir(c.ca.CAFile()), id)
	require.NoError(t, err)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addresses = append(f.addresses, m.server.Address().String())
	return m
}

// leave stops a server that clients still think to be there.
func (f *front) leave(t *testing.T, m *member) {
	t.Helper()
	require.NoError(t, m.stop())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addresses = slices.DeleteFunc(f.addresses, func(a string) bool { return a == m.server.Address().String() })
}

// listsFirst is a source for informers that begin with a list.
type listsFirst struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is asked by informers.
func (listsFirst) IsWatchListSemanticsUnSupported() bool { return true }

// follower is an informer, and what its handler was told.
type follower struct {
	name     string
	resource schema.GroupVersionResource
	informer cache.SharedIndexInformer

	mu    sync.Mutex
	known map[string]int64 // versions by name; guarded by mu
	wrong []string         // what can't follow what was told before; guarded by mu
	told  int              // guarded by mu
}

func newFollower(name string, resource schema.GroupVersionResource, source cache.ListerWatcher, object runtime.Object) *follower {
	f := &follower{name: name, resource: resource, informer: cache.NewSharedIndexInformer(source, object, 0, cache.Indexers{}), known: map[string]int64{}}
	_, _ = f.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { f.tell("added", nil, obj) },
		UpdateFunc: func(old, obj any) { f.tell("updated", old, obj) },
		DeleteFunc: func(obj any) { f.tell("deleted", nil, obj) },
	})
	return f
}

// tell checks what a handler is told against what it was told before.
func (f *follower) tell(what string, old, obj any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told++
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	name, version := obj.(metav1.Object).GetName(), versionOf(obj)
	before, known := f.known[name]
	fits := known != (what == "added") && version >= before
	switch what {
	case "deleted":
		delete(f.known, name)
	case "updated": // or seen once more in a new list
		fits = fits && versionOf(old) == before
		f.known[name] = version
	default:
		f.known[name] = version
	}
	if !fits {
		f.wrong = append(f.wrong, fmt.Sprintf("%s %s at %d, known %t at %d", what, name, version, known, before))
	}
}

func versionOf(obj any) int64 {
	version, _ := strconv.ParseInt(obj.(metav1.Object).GetResourceVersion(), 10, 64)
	return version
}

// differs says how what was told and what is kept differ from the truth.
func (f *follower) differs(truth map[string]int64) error {
	stored := map[string]int64{}
	for _, obj := range f.informer.GetStore().List() {
		stored[obj.(metav1.Object).GetName()] = versionOf(obj)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for what, got := range map[string]map[string]int64{"stored": stored, "told": f.known} {
		if len(got) != len(truth) {
			return fmt.Errorf("%s: %d %s, %d are there", f.name, len(got), what, len(truth))
		}
		for name, version := range truth {
			if got[name] != version {
				return fmt.Errorf("%s: %s %s is at %d, not %d", f.name, what, name, got[name], version)
			}
		}
	}
	return nil
}

// followers are twenty informers of a namespace: typed and not, beginning with a list and
// with a watch that sends the state first.
func followers(t *testing.T, config *rest.Config, ns string) []*follower {
	t.Helper()
	client, bare := clientOf(t, config), dynamic.NewForConfigOrDie(config)
	core, leases := client.CoreV1().RESTClient(), client.CoordinationV1().RESTClient()
	var all []*follower
	for _, kind := range []struct {
		resource schema.GroupVersionResource
		client   cache.Getter
		object   runtime.Object
	}{
		{corev1.SchemeGroupVersion.WithResource("configmaps"), core, &corev1.ConfigMap{}},
		{corev1.SchemeGroupVersion.WithResource("secrets"), core, &corev1.Secret{}},
		{corev1.SchemeGroupVersion.WithResource("pods"), core, &corev1.Pod{}},
		{corev1.SchemeGroupVersion.WithResource("serviceaccounts"), core, &corev1.ServiceAccount{}},
		{coordinationv1.SchemeGroupVersion.WithResource("leases"), leases, &coordinationv1.Lease{}},
	} {
		untyped := bare.Resource(kind.resource).Namespace(ns)
		sources := map[string]*cache.ListWatch{
			"typed": cache.NewFilteredListWatchFromClient(kind.client, kind.resource.Resource, ns, func(*metav1.ListOptions) {}),
			"dynamic": {
				ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return untyped.List(ctx, o) },
				WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
					return untyped.Watch(ctx, o)
				},
			},
		}
		for sort, source := range sources {
			object := kind.object
			if sort == "dynamic" {
				object = &unstructured.Unstructured{}
			}
			name := sort + " " + kind.resource.Resource
			all = append(all, newFollower(name, kind.resource, source, object),
				newFollower(name+", list first", kind.resource, listsFirst{source}, object))
		}
	}
	return all
}

// churn writes until the context ends, whatever servers do meanwhile, and counts what is done.
func churn(ctx context.Context, config *rest.Config, ns string, seed uint64, done *atomic.Int64) {
	objects := dynamic.NewForConfigOrDie(config)
	chance := rand.New(rand.NewPCG(seed, 0))
	kinds := []struct{ version, resource, kind, rest string }{
		{"v1", "configmaps", "ConfigMap", ""}, {"v1", "secrets", "Secret", ""}, {"v1", "serviceaccounts", "ServiceAccount", ""},
		{"v1", "pods", "Pod", `,"spec":{"containers":[{"name":"c","image":"i"}]}`}, {"coordination.k8s.io/v1", "leases", "Lease", ""},
	}
	ticker := time.NewTicker(5 * time.Millisecond) // leaves time to others
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		k := kinds[chance.IntN(len(kinds))]
		gv, _ := schema.ParseGroupVersion(k.version)
		client, name := objects.Resource(gv.WithResource(k.resource)).Namespace(ns), fmt.Sprintf("o-%d-%d", seed, chance.IntN(20))
		var err error
		switch chance.IntN(4) {
		case 0:
			err = client.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		default:
			body := fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":%q,"labels":{"n":"%d"}}%s}`, k.version, k.kind, name, done.Load(), k.rest)
			_, err = client.Patch(ctx, name, "application/apply-patch+yaml", []byte(body), metav1.PatchOptions{FieldManager: "churn"})
		}
		if err == nil || apierrors.IsNotFound(err) {
			done.Add(1)
		}
	}
}

// TestInformersOutliveServers: two servers are rolled one after the other, and then both are
// gone for a while. What informers hold in the end is what is there, and their handlers were
// told nothing that does not follow what they were told before: no object came twice, went
// twice, or went back.
func TestInformersOutliveServers(t *testing.T) {
	c, servers := alone(t), &front{}
	ns := c.namespace(t)
	first, second := servers.join(t, c, "first"), servers.join(t, c, "second")
	config := rest.CopyConfig(first.config)
	config.Host, config.Dial = "https://localhost", servers.dial

	informing, end := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer end()
	all := followers(t, config, ns)
	require.Len(t, all, 20)
	for _, f := range all {
		running.Go(func() { f.informer.RunWithContext(informing) })
	}
	writing, enough := context.WithCancel(informing)
	defer enough()
	var writers sync.WaitGroup
	var written atomic.Int64
	for seed := range uint64(2) {
		writers.Go(func() { churn(writing, config, ns, seed, &written) })
	}
	goOn := func() { // changes that somebody has to be told of
		t.Helper()
		until := written.Load() + 20
		eventually(t, func() error {
			if n := written.Load(); n < until {
				return fmt.Errorf("%d of %d writes", n, until)
			}
			return nil
		})
	}
	for _, f := range all {
		require.True(t, cache.WaitForCacheSync(informing.Done(), f.informer.HasSynced), f.name)
	}

	goOn()
	servers.leave(t, first)
	goOn()
	first = servers.join(t, c, "first")
	servers.leave(t, second)
	second = servers.join(t, c, "second")
	servers.leave(t, first)
	servers.leave(t, second)
	last := servers.join(t, c, "first")
	t.Cleanup(func() { require.NoError(t, last.stop()) })
	goOn()
	enough()
	writers.Wait()
	for _, f := range all {
		eventually(t, func() error { return f.differs(c.versions(t, f.resource, ns)) })
		require.Empty(t, f.wrong, f.name)
		t.Logf("%s was told %d times", f.name, f.told)
	}
	t.Logf("%d writes", written.Load())
}

// versions are those of all objects of a resource.
func (c *cluster) versions(t testing.TB, resource schema.GroupVersionResource, ns string) map[string]int64 {
	t.Helper()
	list, err := dynamic.NewForConfigOrDie(c.config).Resource(resource).Namespace(ns).List(context.Background(), metav1.ListOptions{})
	require.NoError(t, err)
	all := map[string]int64{}
	for i := range list.Items {
		all[list.Items[i].GetName()] = versionOf(&list.Items[i])
	}
	return all
}
