package apiserver_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
)

func TestPatch(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	maps := c.client.CoreV1().ConfigMaps(ns)
	c.configMap(t, ns, "m", nil)

	got, err := maps.Patch(t.Context(), "m", types.JSONPatchType, []byte(`[{"op":"test","path":"/data/a","value":"1"},{"op":"add","path":"/data/b","value":"2"}]`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "1", "b": "2"}, got.Data)

	_, err = maps.Patch(t.Context(), "m", types.JSONPatchType, []byte(`[{"op":"test","path":"/data/a","value":"9"}]`), metav1.PatchOptions{})
	require.True(t, apierrors.IsInvalid(err), "%v", err)

	got, err = maps.Patch(t.Context(), "m", types.MergePatchType, []byte(`{"data":{"a":null,"c":"3"}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"b": "2", "c": "3"}, got.Data)

	_, err = maps.Patch(t.Context(), "m", types.MergePatchType, []byte(`{"data":`), metav1.PatchOptions{})
	require.True(t, apierrors.IsBadRequest(err), "%v", err)

	_, err = maps.Patch(t.Context(), "m", types.MergePatchType, []byte(`{"metadata":{"resourceVersion":"1"}}`), metav1.PatchOptions{})
	require.True(t, apierrors.IsConflict(err), "%v", err)

	_, err = maps.Patch(t.Context(), "absent", types.MergePatchType, []byte(`{}`), metav1.PatchOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}

func TestStrategicPatchMergesByName(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	_, err := c.client.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "one", Image: "i"}, {Name: "two", Image: "i"}}}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	got, err := c.client.AppsV1().Deployments(ns).Patch(t.Context(), "web", types.StrategicMergePatchType,
		[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"two","image":"new"}]}}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Len(t, got.Spec.Template.Spec.Containers, 2)
	images := map[string]string{}
	for _, container := range got.Spec.Template.Spec.Containers {
		images[container.Name] = container.Image
	}
	require.Equal(t, map[string]string{"one": "i", "two": "new"}, images)
	require.Equal(t, int64(2), got.Generation)

	scale, err := c.client.AppsV1().Deployments(ns).GetScale(t.Context(), "web", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, int32(1), scale.Spec.Replicas)
	scale.Spec.Replicas = 4
	_, err = c.client.AppsV1().Deployments(ns).UpdateScale(t.Context(), "web", scale, metav1.UpdateOptions{})
	require.NoError(t, err)
	got, err = c.client.AppsV1().Deployments(ns).Get(t.Context(), "web", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, int32(4), *got.Spec.Replicas)
}

func TestServerSideApply(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	maps := c.client.CoreV1().ConfigMaps(ns)
	object := func(data map[string]string) *applycore.ConfigMapApplyConfiguration {
		return applycore.ConfigMap("m", ns).WithData(data)
	}
	_, err := maps.Apply(t.Context(), object(map[string]string{"a": "1", "b": "1"}), metav1.ApplyOptions{FieldManager: "first"})
	require.NoError(t, err)

	_, err = maps.Apply(t.Context(), object(map[string]string{"a": "2"}), metav1.ApplyOptions{FieldManager: "second"})
	require.True(t, apierrors.IsConflict(err), "%v", err)
	require.ErrorContains(t, err, `conflict with "first": .data.a`)

	got, err := maps.Apply(t.Context(), object(map[string]string{"a": "2"}), metav1.ApplyOptions{FieldManager: "second", Force: true})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "2", "b": "1"}, got.Data)

	// What a manager no longer applies and nobody else owns goes away.
	got, err = maps.Apply(t.Context(), object(map[string]string{}), metav1.ApplyOptions{FieldManager: "first"})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "2"}, got.Data)

	// Nothing changed: no new revision.
	again, err := maps.Apply(t.Context(), object(map[string]string{"a": "2"}), metav1.ApplyOptions{FieldManager: "second", Force: true})
	require.NoError(t, err)
	require.Equal(t, got.ResourceVersion, again.ResourceVersion)

	path := "/api/v1/namespaces/" + ns + "/configmaps/m"
	a := c.send(t, "PATCH", path, `{"apiVersion":"v1","kind":"ConfigMap"}`, "Content-Type: application/apply-patch+yaml")
	require.Equal(t, 422, a.status)
	require.Contains(t, a.apiStatus(t).Message, "fieldManager: Required value")
	a = c.send(t, "PATCH", path, `{}`, "Content-Type: text/plain")
	require.Equal(t, 415, a.status)
}

func TestDryRunWritesNothing(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	maps, all := c.client.CoreV1().ConfigMaps(ns), []string{metav1.DryRunAll}
	kept := c.configMap(t, ns, "kept", nil)
	before := c.revision(t)

	got, err := maps.Create(t.Context(), configMap("new", nil), metav1.CreateOptions{DryRun: all})
	require.NoError(t, err)
	require.NotEmpty(t, got.UID)
	_, err = maps.Create(t.Context(), configMap("kept", nil), metav1.CreateOptions{DryRun: all})
	require.True(t, apierrors.IsAlreadyExists(err), "%v", err)
	changed := kept.DeepCopy()
	changed.Data["a"] = "2"
	got, err = maps.Update(t.Context(), changed, metav1.UpdateOptions{DryRun: all})
	require.NoError(t, err)
	require.Equal(t, "2", got.Data["a"])
	_, err = maps.Patch(t.Context(), "kept", types.MergePatchType, []byte(`{"data":{"a":"3"}}`), metav1.PatchOptions{DryRun: all})
	require.NoError(t, err)
	_, err = maps.Apply(t.Context(), applycore.ConfigMap("applied", ns), metav1.ApplyOptions{FieldManager: "x", DryRun: all})
	require.NoError(t, err)
	require.NoError(t, maps.Delete(t.Context(), "kept", metav1.DeleteOptions{DryRun: all}))
	require.NoError(t, maps.DeleteCollection(t.Context(), metav1.DeleteOptions{DryRun: all}, metav1.ListOptions{}))
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}
	_, err = c.client.CoreV1().Services(ns).Create(t.Context(), service, metav1.CreateOptions{DryRun: all})
	require.NoError(t, err)

	require.Equal(t, before, c.revision(t), "a dry run reached etcd")
	now, err := maps.Get(t.Context(), "kept", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, kept, now)
}

func TestFieldValidation(t *testing.T) {
	c := server(t)
	path := "/api/v1/namespaces/" + c.namespace(t) + "/configmaps?fieldManager=x"
	body := func(name string) string {
		return fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":%q},"datta":{"a":"b"},"data":{"k":"1","k":"2"}}`, name)
	}
	a := c.send(t, "POST", path+"&fieldValidation=Strict", body("strict"), "Content-Type: application/json")
	require.Equal(t, 400, a.status)
	require.Contains(t, a.apiStatus(t).Message, `unknown field "datta"`)
	require.Contains(t, a.apiStatus(t).Message, `duplicate field "data.k"`)

	for name, query := range map[string]string{"warn": "&fieldValidation=Warn", "default": ""} {
		a = c.send(t, "POST", path+query, body(name), "Content-Type: application/json")
		require.Equal(t, 201, a.status, "%s", a.body)
		require.Contains(t, strings.Join(a.header.Values("Warning"), "\n"), `unknown field \"datta\"`, name)
	}

	a = c.send(t, "POST", path+"&fieldValidation=Ignore", body("ignore"), "Content-Type: application/json")
	require.Equal(t, 201, a.status)
	require.Empty(t, a.header.Values("Warning"))

	a = c.send(t, "POST", path+"&fieldValidation=Perhaps", body("perhaps"), "Content-Type: application/json")
	require.Equal(t, 422, a.status, "%s", a.body)

	a = c.send(t, "POST", path, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"},"data":"text"}`, "Content-Type: application/json")
	require.Equal(t, 400, a.status, "%s", a.body)
	a = c.send(t, "POST", path, `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"}}`, "Content-Type: application/json")
	require.Equal(t, 400, a.status, "%s", a.body)
	a = c.send(t, "POST", path, body(strings.Repeat("x", 254)), "Content-Type: application/json")
	require.Equal(t, 422, a.status, "%s", a.body)
}

func TestGenerateName(t *testing.T) {
	c := server(t)
	maps := c.client.CoreV1().ConfigMaps(c.namespace(t))
	seen := map[string]bool{}
	for range 20 {
		got, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "g-"}}, metav1.CreateOptions{})
		require.NoError(t, err)
		require.Regexp(t, `^g-[a-z0-9]{5}$`, got.Name)
		require.False(t, seen[got.Name])
		seen[got.Name] = true
	}
}

func TestPreconditions(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	maps := c.client.CoreV1().ConfigMaps(ns)
	first := c.configMap(t, ns, "m", nil)
	changed := first.DeepCopy()
	changed.Data["a"] = "2"
	second, err := maps.Update(t.Context(), changed, metav1.UpdateOptions{})
	require.NoError(t, err)

	stale := first.DeepCopy()
	stale.Data["a"] = "3"
	_, err = maps.Update(t.Context(), stale, metav1.UpdateOptions{})
	require.True(t, apierrors.IsConflict(err), "%v", err)
	require.ErrorContains(t, err, "the object has been modified")
	other := types.UID("00000000-0000-0000-0000-000000000000")
	foreign := second.DeepCopy()
	foreign.UID, foreign.ResourceVersion = other, ""
	_, err = maps.Update(t.Context(), foreign, metav1.UpdateOptions{})
	require.True(t, apierrors.IsConflict(err), "%v", err)

	for name, p := range map[string]metav1.Preconditions{
		"another uid":      {UID: &other},
		"an old revision":  {ResourceVersion: &first.ResourceVersion},
		"uid, not version": {UID: &second.UID, ResourceVersion: &first.ResourceVersion},
	} {
		err = maps.Delete(t.Context(), "m", metav1.DeleteOptions{Preconditions: &p})
		require.True(t, apierrors.IsConflict(err), "%s: %v", name, err)
	}
	require.NoError(t, maps.Delete(t.Context(), "m", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &second.UID, ResourceVersion: &second.ResourceVersion}}))
	_, err = maps.Update(t.Context(), second, metav1.UpdateOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
	_, err = maps.Create(t.Context(), second, metav1.CreateOptions{})
	require.ErrorContains(t, err, "resourceVersion should not be set")
}

func TestUpdateOfNothingKeepsRevision(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	before := c.configMap(t, ns, "m", nil)
	after, err := c.client.CoreV1().ConfigMaps(ns).Update(t.Context(), before.DeepCopy(), metav1.UpdateOptions{})
	require.NoError(t, err)
	require.Equal(t, before.ResourceVersion, after.ResourceVersion)
}

func TestFinalizers(t *testing.T) {
	c := server(t)
	maps := c.client.CoreV1().ConfigMaps(c.namespace(t))
	object := configMap("m", nil)
	object.Finalizers = []string{"example.com/hold"}
	_, err := maps.Create(t.Context(), object, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, maps.Delete(t.Context(), "m", metav1.DeleteOptions{}))
	held, err := maps.Get(t.Context(), "m", metav1.GetOptions{})
	require.NoError(t, err)
	require.NotNil(t, held.DeletionTimestamp)

	more := held.DeepCopy()
	more.Finalizers = append(more.Finalizers, "example.com/late")
	_, err = maps.Update(t.Context(), more, metav1.UpdateOptions{})
	require.True(t, apierrors.IsInvalid(err), "no finalizer may be added to what goes away: %v", err)

	held.Finalizers = nil
	_, err = maps.Update(t.Context(), held, metav1.UpdateOptions{})
	require.NoError(t, err)
	_, err = maps.Get(t.Context(), "m", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}

func TestPropagationPolicyBecomesFinalizer(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	for policy, want := range map[metav1.DeletionPropagation]string{
		metav1.DeletePropagationForeground: metav1.FinalizerDeleteDependents,
		metav1.DeletePropagationOrphan:     metav1.FinalizerOrphanDependents,
	} {
		name := strings.ToLower(string(policy))
		c.configMap(t, ns, name, nil)
		require.NoError(t, c.client.CoreV1().ConfigMaps(ns).Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &policy}))
		got, err := c.client.CoreV1().ConfigMaps(ns).Get(t.Context(), name, metav1.GetOptions{})
		require.NoError(t, err)
		require.Equal(t, []string{want}, got.Finalizers)
	}
}

func TestGracefulDeletion(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	pods := c.client.CoreV1().Pods(ns)
	c.pod(t, ns, "bound", "node-1")
	c.pod(t, ns, "loose", "")

	require.NoError(t, pods.Delete(t.Context(), "bound", metav1.DeleteOptions{}))
	got, err := pods.Get(t.Context(), "bound", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, int64(30), *got.DeletionGracePeriodSeconds)
	require.NotNil(t, got.DeletionTimestamp)

	shorter := int64(5)
	require.NoError(t, pods.Delete(t.Context(), "bound", metav1.DeleteOptions{GracePeriodSeconds: &shorter}))
	got, err = pods.Get(t.Context(), "bound", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, shorter, *got.DeletionGracePeriodSeconds)

	now := int64(0)
	require.NoError(t, pods.Delete(t.Context(), "bound", metav1.DeleteOptions{GracePeriodSeconds: &now}))
	_, err = pods.Get(t.Context(), "bound", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)

	require.NoError(t, pods.Delete(t.Context(), "loose", metav1.DeleteOptions{}))
	_, err = pods.Get(t.Context(), "loose", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "a pod on no node needs no grace: %v", err)
}

func TestNamespaceTerminates(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	require.NoError(t, c.client.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}))
	got, err := c.client.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, corev1.NamespaceTerminating, got.Status.Phase)
	_, err = c.client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("late", nil), metav1.CreateOptions{})
	require.True(t, apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause), "%v", err)

	got.Spec.Finalizers = nil
	_, err = c.client.CoreV1().Namespaces().Finalize(t.Context(), got, metav1.UpdateOptions{})
	require.NoError(t, err)
	_, err = c.client.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
	_, err = c.client.CoreV1().ConfigMaps("absent").Create(t.Context(), configMap("x", nil), metav1.CreateOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}

func TestDeleteCollection(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	maps := c.client.CoreV1().ConfigMaps(ns)
	for i := range 10 {
		c.configMap(t, ns, fmt.Sprintf("m%d", i), map[string]string{"half": fmt.Sprint(i % 2)})
	}
	require.NoError(t, maps.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "half=1"}))
	left, err := maps.List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	var names []string
	for _, m := range left.Items {
		names = append(names, m.Name)
	}
	require.Equal(t, []string{"m0", "m2", "m4", "m6", "m8"}, names)
	require.NoError(t, maps.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name=m4"}))
	require.NoError(t, maps.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	left, err = maps.List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Empty(t, left.Items)
}

func TestStatusIsApart(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	p := c.pod(t, ns, "p", "")
	p.Status.Phase, p.Labels = corev1.PodRunning, map[string]string{"from": "status"}
	got, err := c.client.CoreV1().Pods(ns).UpdateStatus(t.Context(), p, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.Equal(t, corev1.PodRunning, got.Status.Phase)
	got.Status.Phase = corev1.PodFailed
	got, err = c.client.CoreV1().Pods(ns).Update(t.Context(), got, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.Equal(t, corev1.PodRunning, got.Status.Phase)

	require.NoError(t, c.client.CoreV1().Pods(ns).Bind(t.Context(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "node-9"}}, metav1.CreateOptions{}))
	got, err = c.client.CoreV1().Pods(ns).Get(t.Context(), "p", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "node-9", got.Spec.NodeName)
	err = c.client.CoreV1().Pods(ns).Bind(t.Context(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "node-1"}}, metav1.CreateOptions{})
	require.True(t, apierrors.IsConflict(err), "%v", err)
}
