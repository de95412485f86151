package clientgo

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

type watchInterface = apiwatch.Interface

// TestInformers: what an informer of each sort holds is what the server has, whether it
// begins with a list or with a watch that sends the state first.
func TestInformers(t *testing.T) {
	for _, watchList := range []bool{true, false} {
		for _, contentType := range contentTypes {
			t.Run(fmt.Sprintf("watch-list %t, %s", watchList, contentType), func(t *testing.T) {
				clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, watchList)
				cfg := config(t, contentType)
				client := kubernetes.NewForConfigOrDie(cfg)
				ns := namespace(t, client)
				create(t, client, ns, 0, 20)

				typed := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(ns))
				dynamicOnes := dynamicinformer.NewFilteredDynamicSharedInformerFactory(dynamic.NewForConfigOrDie(config(t, "")), 0, ns, nil)
				metadataOnes := metadatainformer.NewFilteredSharedInformerFactory(metadata.NewForConfigOrDie(metadata.ConfigFor(cfg)), 0, ns, nil)
				maps := typed.Core().V1().ConfigMaps()
				sorts := map[string]cache.SharedIndexInformer{
					"typed": maps.Informer(), "dynamic": dynamicOnes.ForResource(configMaps).Informer(), "metadata": metadataOnes.ForResource(configMaps).Informer(),
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer typed.Shutdown()
				defer dynamicOnes.Shutdown()
				defer metadataOnes.Shutdown()
				defer cancel()
				typed.StartWithContext(ctx)
				dynamicOnes.Start(ctx.Done())
				metadataOnes.Start(ctx.Done())
				for name, informer := range sorts {
					require.True(t, cache.WaitForCacheSync(ctx.Done(), informer.HasSynced), name)
					require.GreaterOrEqual(t, len(informer.GetStore().ListKeys()), 20, name)
				}

				create(t, client, ns, 20, 30)
				for i := range 10 {
					require.NoError(t, client.CoreV1().ConfigMaps(ns).Delete(t.Context(), mapName(i), metav1.DeleteOptions{}))
				}
				last, err := client.CoreV1().ConfigMaps(ns).Patch(t.Context(), mapName(29), "application/merge-patch+json", []byte(`{"metadata":{"labels":{"last":"yes"}}}`), metav1.PatchOptions{})
				require.NoError(t, err)
				list, err := client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
				require.NoError(t, err)
				for name, informer := range sorts {
					require.Eventually(t, func() bool {
						obj, ok, err := informer.GetStore().GetByKey(ns + "/" + last.Name)
						if err != nil || !ok {
							return false
						}
						return obj.(metav1.Object).GetResourceVersion() == last.ResourceVersion && len(informer.GetStore().ListKeys()) == len(list.Items)
					}, time.Minute, 10*time.Millisecond, name)
				}
				selected, err := maps.Lister().ConfigMaps(ns).List(labels.SelectorFromSet(labels.Set{"last": "yes"}))
				require.NoError(t, err)
				require.Len(t, selected, 1)
			})
		}
	}
}

func mapName(i int) string { return fmt.Sprintf("m-%03d", i) }

func create(t *testing.T, client kubernetes.Interface, ns string, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		_, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: mapName(i)}}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
}

// TestLeaderElection: of two candidates one leads; when it gives up the other does.
func TestLeaderElection(t *testing.T) {
	client := kubernetes.NewForConfigOrDie(config(t, runtime.ContentTypeProtobuf))
	ns := namespace(t, client)
	var leading atomic.Int32
	started := make(chan string, 2)
	candidate := func(name string) (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		lock := &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Namespace: ns, Name: "lead"}, Client: client.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: name}}
		done := make(chan struct{})
		go func() {
			defer close(done)
			leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
				Lock: lock, LeaseDuration: 6 * time.Second, RenewDeadline: 4 * time.Second, RetryPeriod: 500 * time.Millisecond, ReleaseOnCancel: true,
				Callbacks: leaderelection.LeaderCallbacks{
					OnStartedLeading: func(ctx context.Context) {
						leading.Add(1)
						started <- name
						<-ctx.Done()
						leading.Add(-1)
					},
					OnStoppedLeading: func() {},
				},
			})
		}()
		return func() { cancel(); <-done }
	}
	stopA := candidate("a")
	require.Equal(t, "a", <-started)
	stopB := candidate("b")
	lease, err := client.CoordinationV1().Leases(ns).Get(t.Context(), "lead", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "a", *lease.Spec.HolderIdentity)
	require.EqualValues(t, 1, leading.Load())
	stopA()
	require.Equal(t, "b", <-started)
	stopB()
}
