// Package clientgo tests that client-go's clients work as its users expect.
package clientgo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/tools/watch"
	"k8s.io/client-go/util/retry"
)

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

// config is the cluster's, for JSON or protobuf.
func config(t *testing.T, contentType string) *rest.Config {
	t.Helper()
	path := os.Getenv("KUBECONFIG")
	require.NotEmpty(t, path, "KUBECONFIG names the cluster; `go test ./integration -run Clients` starts one")
	c, err := clientcmd.BuildConfigFromFlags("", path)
	require.NoError(t, err)
	c.ContentType, c.QPS = contentType, -1
	return c
}

// namespace makes one for a test and deletes it at the end.
func namespace(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	ns, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "clientgo-"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{}))
	})
	return ns.Name
}

// contentTypes are what typed clients speak.
var contentTypes = []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf}

func TestTypedClient(t *testing.T) {
	for _, contentType := range contentTypes {
		t.Run(contentType, func(t *testing.T) {
			client := kubernetes.NewForConfigOrDie(config(t, contentType))
			maps := client.CoreV1().ConfigMaps(namespace(t, client))
			made, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m", Labels: map[string]string{"a": "b"}}, Data: map[string]string{"k": "1"}}, metav1.CreateOptions{})
			require.NoError(t, err)
			_, err = maps.Create(t.Context(), made, metav1.CreateOptions{})
			require.Error(t, err)
			stale := made.DeepCopy()
			made.Data["k"] = "2"
			made, err = maps.Update(t.Context(), made, metav1.UpdateOptions{})
			require.NoError(t, err)
			_, err = maps.Update(t.Context(), stale, metav1.UpdateOptions{})
			require.True(t, apierrors.IsConflict(err), "%v", err)
			_, err = maps.Patch(t.Context(), "m", types.StrategicMergePatchType, []byte(`{"data":{"k":"3"}}`), metav1.PatchOptions{})
			require.NoError(t, err)

			_, err = maps.Apply(t.Context(), applycorev1.ConfigMap("m", made.Namespace).WithData(map[string]string{"k": "4"}), metav1.ApplyOptions{FieldManager: "other"})
			require.True(t, apierrors.IsConflict(err), "%v", err)
			applied, err := maps.Apply(t.Context(), applycorev1.ConfigMap("m", made.Namespace).WithData(map[string]string{"k": "4"}), metav1.ApplyOptions{FieldManager: "other", Force: true})
			require.NoError(t, err)
			require.Equal(t, "4", applied.Data["k"])
			extracted, err := applycorev1.ExtractConfigMap(applied, "other")
			require.NoError(t, err)
			require.Equal(t, map[string]string{"k": "4"}, extracted.Data)

			list, err := maps.List(t.Context(), metav1.ListOptions{LabelSelector: "a=b", FieldSelector: "metadata.name=m"})
			require.NoError(t, err)
			require.Len(t, list.Items, 1)
			uid := types.UID("another")
			err = maps.Delete(t.Context(), "m", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
			require.True(t, apierrors.IsConflict(err), "%v", err)
			require.NoError(t, maps.Delete(t.Context(), "m", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &made.UID}}))
			_, err = maps.Get(t.Context(), "m", metav1.GetOptions{})
			require.True(t, apierrors.IsNotFound(err), "%v", err)
		})
	}
}

func TestConflictsAreRetried(t *testing.T) {
	client := kubernetes.NewForConfigOrDie(config(t, runtime.ContentTypeProtobuf))
	maps := client.CoreV1().ConfigMaps(namespace(t, client))
	_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "counter"}, Data: map[string]string{}}, metav1.CreateOptions{})
	require.NoError(t, err)
	const writers, each = 4, 5
	done := make(chan error, writers)
	for w := range writers {
		go func() {
			for i := range each {
				err := retry.OnError(retry.DefaultBackoff, apierrors.IsConflict, func() error {
					m, err := maps.Get(t.Context(), "counter", metav1.GetOptions{})
					if err != nil {
						return err
					}
					if m.Data == nil {
						m.Data = map[string]string{}
					}
					m.Data[fmt.Sprintf("%d-%d", w, i)] = "x"
					_, err = maps.Update(t.Context(), m, metav1.UpdateOptions{})
					return err
				})
				if err != nil && !apierrors.IsConflict(err) {
					done <- err
					return
				}
				if err != nil {
					// The backoff gave up; nothing may be lost all the same, so write it by patch.
					if _, err := maps.Patch(t.Context(), "counter", types.MergePatchType, fmt.Appendf(nil, `{"data":{"%d-%d":"x"}}`, w, i), metav1.PatchOptions{}); err != nil {
						done <- err
						return
					}
				}
			}
			done <- nil
		}()
	}
	for range writers {
		require.NoError(t, <-done)
	}
	m, err := maps.Get(t.Context(), "counter", metav1.GetOptions{})
	require.NoError(t, err)
	require.Len(t, m.Data, writers*each, "no write was lost")
}

func TestDynamicClient(t *testing.T) {
	cfg := config(t, "")
	typed := kubernetes.NewForConfigOrDie(cfg)
	ns := namespace(t, typed)
	maps := dynamic.NewForConfigOrDie(cfg).Resource(configMaps).Namespace(ns)
	watcher, err := maps.Watch(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	defer watcher.Stop()
	object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "m"}, "data": map[string]any{"k": "v"}}}
	_, err = maps.Create(t.Context(), object, metav1.CreateOptions{})
	require.NoError(t, err)
	for event := range watcher.ResultChan() {
		if u := event.Object.(*unstructured.Unstructured); u.GetName() == "m" {
			value, _, err := unstructured.NestedString(u.Object, "data", "k")
			require.NoError(t, err)
			require.Equal(t, "v", value)
			break
		}
	}
	applied, err := maps.Apply(t.Context(), "m", &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "m"}, "data": map[string]any{"more": "w"}}}, metav1.ApplyOptions{FieldManager: "x"})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"k": "v", "more": "w"}, applied.Object["data"])
	require.NoError(t, maps.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name=m"}))
	_, err = maps.Get(t.Context(), "m", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}

func TestMetadataClient(t *testing.T) {
	cfg := config(t, "")
	typed := kubernetes.NewForConfigOrDie(cfg)
	ns := namespace(t, typed)
	maps := metadata.NewForConfigOrDie(metadata.ConfigFor(cfg)).Resource(configMaps).Namespace(ns)
	made, err := typed.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m", Labels: map[string]string{"a": "b"}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	got, err := maps.Get(t.Context(), "m", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, made.UID, got.UID)
	list, err := maps.List(t.Context(), metav1.ListOptions{LabelSelector: "a=b"})
	require.NoError(t, err)
	require.Len(t, list.Items, 1)
	watcher, err := maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: made.ResourceVersion, FieldSelector: "metadata.name=m"})
	require.NoError(t, err)
	defer watcher.Stop()
	patched, err := maps.Patch(t.Context(), "m", types.MergePatchType, []byte(`{"metadata":{"annotations":{"x":"y"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, "y", patched.Annotations["x"])
	event := <-watcher.ResultChan()
	require.Equal(t, patched.ResourceVersion, event.Object.(*metav1.PartialObjectMetadata).ResourceVersion)
	require.NoError(t, maps.Delete(t.Context(), "m", metav1.DeleteOptions{}))
}

func TestPager(t *testing.T) {
	client := kubernetes.NewForConfigOrDie(config(t, runtime.ContentTypeProtobuf))
	ns := namespace(t, client)
	const objects = 57
	for i := range objects {
		_, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("m-%02d", i)}}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	pages := 0
	p := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		pages++
		return client.CoreV1().ConfigMaps(ns).List(ctx, o)
	})
	p.PageSize = 10
	seen := map[string]bool{}
	require.NoError(t, p.EachListItem(t.Context(), metav1.ListOptions{}, func(o runtime.Object) error {
		name := o.(*corev1.ConfigMap).Name
		if seen[name] {
			return fmt.Errorf("%s comes twice", name)
		}
		seen[name] = true
		return nil
	}))
	for i := range objects {
		require.True(t, seen[fmt.Sprintf("m-%02d", i)])
	}
	require.Greater(t, pages, objects/10)
}

func TestRetryWatcher(t *testing.T) {
	client := kubernetes.NewForConfigOrDie(config(t, runtime.ContentTypeProtobuf))
	ns := namespace(t, client)
	list, err := client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	one := int64(1) // each watch ends after a second, the watcher goes on
	opened := make(chan struct{}, 100)
	w, err := watch.NewRetryWatcherWithContext(t.Context(), list.ResourceVersion, &cache.ListWatch{WatchFunc: func(o metav1.ListOptions) (w watchInterface, err error) {
		o.TimeoutSeconds = &one
		opened <- struct{}{}
		return client.CoreV1().ConfigMaps(ns).Watch(t.Context(), o)
	}})
	require.NoError(t, err)
	defer w.Stop()
	names := make(chan string)
	go func() {
		defer close(names)
		for event := range w.ResultChan() {
			if m, ok := event.Object.(*corev1.ConfigMap); ok && m.Name != "kube-root-ca.crt" {
				names <- m.Name
			}
		}
	}()
	for i := range 3 {
		name := fmt.Sprintf("m-%d", i)
		<-opened // each round meets another watch
		_, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		require.NoError(t, err)
		require.Equal(t, name, <-names)
	}
}

func TestDiscoveryMapperAndScale(t *testing.T) {
	cfg := config(t, "")
	client := kubernetes.NewForConfigOrDie(cfg)
	groups, err := restmapper.GetAPIGroupResources(client.Discovery())
	require.NoError(t, err)
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	mapping, err := mapper.RESTMapping(schema.GroupKind{Group: "apps", Kind: "Deployment"}, "v1")
	require.NoError(t, err)
	require.Equal(t, "deployments", mapping.Resource.Resource)
	version, err := client.Discovery().ServerVersion()
	require.NoError(t, err)
	require.Equal(t, "1", version.Major)
	_, _, err = client.Discovery().ServerGroupsAndResources()
	require.NoError(t, err)

	ns := namespace(t, client)
	_, err = client.CoreV1().ReplicationControllers(ns).Create(t.Context(), &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: corev1.ReplicationControllerSpec{
		Replicas: new(int32), Selector: map[string]string{"a": "b"},
		Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}}}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	scales, err := scale.NewForConfig(cfg, mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(discovery.NewDiscoveryClientForConfigOrDie(cfg)))
	require.NoError(t, err)
	target := schema.GroupResource{Resource: "replicationcontrollers"}
	s, err := scales.Scales(ns).Get(t.Context(), target, "none", metav1.GetOptions{})
	require.NoError(t, err)
	require.Zero(t, s.Spec.Replicas)
	s.ResourceVersion = "1"
	_, err = scales.Scales(ns).Update(t.Context(), target, s, metav1.UpdateOptions{})
	require.True(t, apierrors.IsConflict(err), "%v", errors.Unwrap(err))
}
