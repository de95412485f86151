// Package operator runs controller-runtime's own example operators in the cluster, as
// Pods, and tests that they do their work.
package operator

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/cert"
	api "sigs.k8s.io/controller-runtime/examples/crd/pkg"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// patience is for what a loaded machine may take; nothing is measured here.
const patience = 2 * time.Minute

// cluster is the client with which the test does what a user would.
type cluster struct {
	client.Client
	t         *testing.T
	namespace string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, apiextensionsv1.AddToScheme, api.AddToScheme} {
		require.NoError(t, add(scheme))
	}
	path := os.Getenv("KUBECONFIG")
	require.NotEmpty(t, path, "KUBECONFIG names the cluster; `go test ./integration -run Clients` starts one")
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	require.NoError(t, err)
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	require.NoError(t, err)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "operator-"}}
	require.NoError(t, c.Create(t.Context(), ns))
	k := &cluster{c, t, ns.Name}
	k.atEnd(ns)
	return k
}

// make creates an object that is removed when the test ends.
func (c *cluster) make(o client.Object) {
	c.t.Helper()
	require.NoError(c.t, c.Create(c.t.Context(), o))
	if o.GetNamespace() == "" {
		c.atEnd(o)
	}
}

func (c *cluster) atEnd(o client.Object) {
	c.t.Cleanup(func() { require.NoError(c.t, client.IgnoreNotFound(c.Delete(context.Background(), o))) })
}

func (c *cluster) await(what string, ok func(ctx context.Context) bool) {
	c.t.Helper()
	require.Eventually(c.t, func() bool { return ok(c.t.Context()) }, patience, 50*time.Millisecond, what)
}

func (c *cluster) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: c.namespace}
}

// deploy runs an operator as a Deployment with the rights of an administrator.
func (c *cluster) deploy(name, imageEnv string, volumes ...corev1.Volume) {
	c.t.Helper()
	image := os.Getenv(imageEnv)
	require.NotEmpty(c.t, image, "%s names the operator's image", imageEnv)
	c.make(&corev1.ServiceAccount{ObjectMeta: c.meta(name)})
	c.make(&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: c.namespace + "-" + name},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: c.namespace}}})
	container := corev1.Container{Name: "operator", Image: image}
	for _, v := range volumes {
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/tmp/k8s-webhook-server/serving-certs"})
	}
	labels := map[string]string{"app": name}
	c.make(&appsv1.Deployment{ObjectMeta: c.meta(name), Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{ServiceAccountName: name, Containers: []corev1.Container{container}, Volumes: volumes}}}})
	c.await(name+" is available", func(ctx context.Context) bool {
		var d appsv1.Deployment
		return c.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: name}, &d) == nil && d.Status.AvailableReplicas == 1
	})
}

// pod is one that runs until it is deleted.
func pod() corev1.PodSpec {
	grace := int64(0)
	return corev1.PodSpec{TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{{Name: "main", Image: os.Getenv("IMAGE") + ":v1", Args: []string{"wait"}}}}
}

// chaosPods is the definition that belongs to the example's types.
func chaosPods() *apiextensionsv1.CustomResourceDefinition {
	yes := true
	object := apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &yes}
	moment := apiextensionsv1.JSONSchemaProps{Type: "string", Format: "date-time", Nullable: true}
	group := api.SchemeGroupVersion.Group
	return &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "chaospods." + group}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
		Group: group, Scope: apiextensionsv1.NamespaceScoped,
		Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "chaospods", Singular: "chaospod", Kind: "ChaosPod", ListKind: "ChaosPodList"},
		Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
			Name: api.SchemeGroupVersion.Version, Served: true, Storage: true,
			AdditionalPrinterColumns: []apiextensionsv1.CustomResourceColumnDefinition{{Name: "next stop", Type: "string", JSONPath: ".spec.nextStop", Format: "date"}},
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
				"spec":   {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"template": object, "nextStop": moment}},
				"status": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"lastRun": moment}},
			}}},
		}},
	}}
}

// TestCustomResourceOperator: the example owns a Pod for each ChaosPod and replaces it
// when its time has come.
func TestCustomResourceOperator(t *testing.T) {
	c := newCluster(t)
	crd := chaosPods()
	c.make(crd)
	c.await("the definition is established", func(ctx context.Context) bool {
		require.NoError(t, c.Get(ctx, client.ObjectKeyFromObject(crd), crd))
		for _, condition := range crd.Status.Conditions {
			if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
				return true
			}
		}
		return false
	})
	c.deploy("chaos", "CHAOS_IMAGE")

	chaos := &api.ChaosPod{ObjectMeta: c.meta("victim"), Spec: api.ChaosPodSpec{Template: corev1.PodTemplateSpec{Spec: pod()}}}
	c.make(chaos)
	key := client.ObjectKeyFromObject(chaos)
	var first, second corev1.Pod
	c.await("the operator's pod runs", func(ctx context.Context) bool {
		return c.Get(ctx, key, &first) == nil && first.Status.Phase == corev1.PodRunning
	})
	require.True(t, metav1.IsControlledBy(&first, chaos))
	c.await("the operator set the next stop", func(ctx context.Context) bool {
		return c.Get(ctx, key, chaos) == nil && !chaos.Spec.NextStop.IsZero()
	})

	before := chaos.DeepCopy()
	chaos.Spec.NextStop = metav1.NewTime(time.Now().Add(-time.Second))
	require.NoError(t, c.Patch(t.Context(), chaos, client.MergeFrom(before)))
	c.await("another pod took the first one's place", func(ctx context.Context) bool {
		return c.Get(ctx, key, &second) == nil && second.UID != first.UID && second.Status.Phase == corev1.PodRunning
	})

	require.NoError(t, c.Delete(t.Context(), chaos))
	c.await("the pod is gone with its owner", func(ctx context.Context) bool { return apierrors.IsNotFound(c.Get(ctx, key, &second)) })
}

// TestWebhookOperator: the other example annotates Pods by a mutating webhook, refuses
// those without by a validating one, and labels ReplicaSets.
func TestWebhookOperator(t *testing.T) {
	c := newCluster(t)
	host := "webhook." + c.namespace + ".svc"
	certificate, key, err := cert.GenerateSelfSignedCertKey(host, nil, nil)
	require.NoError(t, err)
	c.make(&corev1.Secret{ObjectMeta: c.meta("serving"), Type: corev1.SecretTypeTLS, Data: map[string][]byte{corev1.TLSCertKey: certificate, corev1.TLSPrivateKeyKey: key}})
	c.make(&corev1.Service{ObjectMeta: c.meta("webhook"), Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "builtins"}, Ports: []corev1.ServicePort{{Port: 443, TargetPort: intstr.FromInt32(9443)}}}})
	c.deploy("builtins", "BUILTINS_IMAGE", corev1.Volume{Name: "serving", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "serving"}}})

	target := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "operated-", Labels: map[string]string{"operated": c.namespace}}}
	c.make(target)
	none, port := admissionv1.SideEffectClassNone, int32(443)
	selector := &metav1.LabelSelector{MatchLabels: target.Labels}
	rules := []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{admissionv1.Create}, Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}}
	at := func(path string) admissionv1.WebhookClientConfig {
		return admissionv1.WebhookClientConfig{CABundle: certificate, Service: &admissionv1.ServiceReference{Namespace: c.namespace, Name: "webhook", Path: &path, Port: &port}}
	}
	validating := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: c.namespace},
		Webhooks: []admissionv1.ValidatingWebhook{{Name: "vpod.kb.io", ClientConfig: at("/validate--v1-pod"), Rules: rules, NamespaceSelector: selector, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}}}}
	c.make(validating)
	try := func(ctx context.Context) (*corev1.Pod, error) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "p-", Namespace: target.Name}, Spec: pod()}
		return p, c.Create(ctx, p)
	}
	c.await("pods without the annotation are refused", func(ctx context.Context) bool {
		_, err := try(ctx)
		return apierrors.IsForbidden(err) && err.Error() == `admission webhook "vpod.kb.io" denied the request: missing annotation example-mutating-admission-webhook`
	})
	c.make(&admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: c.namespace},
		Webhooks: []admissionv1.MutatingWebhook{{Name: "mpod.kb.io", ClientConfig: at("/mutate--v1-pod"), Rules: rules, NamespaceSelector: selector, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}}}})
	c.await("pods are annotated", func(ctx context.Context) bool {
		p, err := try(ctx)
		return err == nil && p.Annotations["example-mutating-admission-webhook"] == "foo"
	})

	labels := map[string]string{"app": "labelled"}
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "labelled", Namespace: target.Name}, Spec: appsv1.ReplicaSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod()}}}
	c.make(set)
	c.await("the ReplicaSet is labelled", func(ctx context.Context) bool {
		return c.Get(ctx, client.ObjectKeyFromObject(set), set) == nil && set.Labels["hello"] == "world"
	})
}
