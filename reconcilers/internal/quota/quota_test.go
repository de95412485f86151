package quota

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(scheme.Scheme.PrioritizedVersionsAllGroups())
	for kind := range scheme.Scheme.AllKnownTypes() {
		m.Add(kind, meta.RESTScopeNamespace)
	}
	return m
}

func start(t *testing.T, s *fakeapi.Server) {
	t.Helper()
	c, err := New(s.Client(), mapper(), s, zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.ErrorLevel))
	require.NoError(t, err)
	fakeapi.Start(t, s, c)
}

func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func quotaOf(name string, hard corev1.ResourceList, scopes ...corev1.ResourceQuotaScope) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.ResourceQuotaSpec{Hard: hard, Scopes: scopes}}
}

func asking(name, cpu string) *corev1.Pod {
	requirements := corev1.ResourceRequirements{}
	qos := corev1.PodQOSBestEffort
	if cpu != "" {
		requirements.Requests, requirements.Limits = list("cpu", cpu), list("cpu", cpu)
		qos = corev1.PodQOSBurstable
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Status: corev1.PodStatus{QOSClass: qos},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Resources: requirements}}},
	}
}

// used is a quota's usage as text, so that 500m and 0.5 are the same.
func used(s *fakeapi.Server, name string) map[string]string {
	m := map[string]string{}
	for k, v := range fakeapi.Get[*corev1.ResourceQuota](s, "default", name).Status.Used {
		m[string(k)] = v.String()
	}
	return m
}

func TestCountsWhatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, asking("a", "500m"))
		fakeapi.Put(s, asking("b", "250m"))
		other := asking("c", "1")
		other.Namespace = "other"
		fakeapi.Put(s, other)
		done := asking("done", "1")
		done.Status.Phase = corev1.PodSucceeded
		fakeapi.Put(s, done)
		fakeapi.Put(s, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cfg", Namespace: "default"}})
		fakeapi.Put(s, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 1}, {Port: 2}}}})
		hard := list("pods", "9", "count/pods", "9", "cpu", "9", "requests.cpu", "9", "limits.cpu", "9", "configmaps", "9", "count/configmaps", "9",
			"services", "9", "services.nodeports", "9", "services.loadbalancers", "9", "count/services", "9", "resourcequotas", "9", "memory", "9", "count/widgets.example.com", "9")
		fakeapi.Put(s, quotaOf("q", hard))
		start(t, s)
		require.Equal(t, map[string]string{
			"pods": "2", "count/pods": "3", "cpu": "750m", "requests.cpu": "750m", "limits.cpu": "750m", "configmaps": "1", "count/configmaps": "1",
			"services": "1", "services.nodeports": "2", "services.loadbalancers": "0", "count/services": "1", "resourcequotas": "1", "memory": "0", "count/widgets.example.com": "0",
		}, used(s, "q"))
		require.Equal(t, len(hard), len(fakeapi.Get[*corev1.ResourceQuota](s, "default", "q").Status.Hard))
	})
}

func TestScopesNarrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, asking("best", ""))
		fakeapi.Put(s, asking("busy", "1"))
		bounded := asking("bounded", "1")
		seconds := int64(60)
		bounded.Spec.ActiveDeadlineSeconds, bounded.Spec.PriorityClassName = &seconds, "high"
		fakeapi.Put(s, bounded)
		for _, q := range []*corev1.ResourceQuota{
			quotaOf("best-effort", list("pods", "9"), corev1.ResourceQuotaScopeBestEffort),
			quotaOf("not-best-effort", list("pods", "9"), corev1.ResourceQuotaScopeNotBestEffort),
			quotaOf("terminating", list("pods", "9"), corev1.ResourceQuotaScopeTerminating),
			quotaOf("both", list("pods", "9"), corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort),
			quotaOf("no-service", list("services", "9"), corev1.ResourceQuotaScopeTerminating),
		} {
			fakeapi.Put(s, q)
		}
		high := quotaOf("high", list("pods", "9"))
		high.Spec.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{
			{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{"high"}}}}
		fakeapi.Put(s, high)
		fakeapi.Put(s, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}})
		start(t, s)
		for name, want := range map[string]string{"best-effort": "1", "not-best-effort": "2", "terminating": "1", "both": "1", "high": "1"} {
			require.Equal(t, map[string]string{"pods": want}, used(s, name), name)
		}
		require.Equal(t, map[string]string{"services": "0"}, used(s, "no-service"))
	})
}

func TestTakesBackWhatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, asking("a", "1"))
		fakeapi.Put(s, asking("b", "1"))
		secret := fakeapi.Put(s, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default"}})
		fakeapi.Put(s, quotaOf("q", list("cpu", "9", "secrets", "9")))
		start(t, s)
		require.Equal(t, map[string]string{"cpu": "2", "secrets": "1"}, used(s, "q"))
		p := fakeapi.Get[*corev1.Pod](s, "default", "a")
		p.Status.Phase = corev1.PodFailed
		fakeapi.Put(s, p)
		fakeapi.Settle()
		require.Equal(t, map[string]string{"cpu": "1", "secrets": "1"}, used(s, "q"))
		fakeapi.Drop(s, secret)
		fakeapi.Settle()
		require.Equal(t, map[string]string{"cpu": "1", "secrets": "0"}, used(s, "q"))
	})
}

// Admission charges before the object is stored. When storing fails, nothing tells of it.
func TestCorrectsChargesThatCameToNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, quotaOf("q", list("pods", "9")))
		start(t, s)
		q := fakeapi.Get[*corev1.ResourceQuota](s, "default", "q")
		q.Status.Used = list("pods", "1")
		fakeapi.Put(s, q)
		fakeapi.Settle()
		require.Equal(t, map[string]string{"pods": "1"}, used(s, "q"), "the pod may be on its way")
		time.Sleep(settle) // the bubble's clock
		fakeapi.Settle()
		require.Equal(t, map[string]string{"pods": "0"}, used(s, "q"))
	})
}

// A pod whose node is lost keeps its deletion timestamp for ever.
func TestPodThatShouldBeGoneCountsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		grace := int64(30)
		p := asking("lost", "1")
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: time.Now().Add(time.Minute)}, &grace
		p.Finalizers = []string{"test/keep"}
		fakeapi.Put(s, p)
		fakeapi.Put(s, quotaOf("q", list("pods", "9")))
		start(t, s)
		require.Equal(t, map[string]string{"pods": "1"}, used(s, "q"))
		time.Sleep(2 * time.Minute)
		fakeapi.Settle()
		require.Equal(t, map[string]string{"pods": "0"}, used(s, "q"))
	})
}

func TestUsageOfClaims(t *testing.T) {
	fast := "fast"
	claim := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &fast,
		Resources: corev1.VolumeResourceRequirements{Requests: list("storage", "1Gi")}}}
	for name, c := range map[string]struct {
		change func(*corev1.PersistentVolumeClaim)
		want   corev1.ResourceList
	}{
		"with a class": {func(*corev1.PersistentVolumeClaim) {}, list("persistentvolumeclaims", "1", "requests.storage", "1Gi",
			"fast.storageclass.storage.k8s.io/requests.storage", "1Gi", "fast.storageclass.storage.k8s.io/persistentvolumeclaims", "1")},
		"without": {func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil }, list("persistentvolumeclaims", "1", "requests.storage", "1Gi")},
		"being shrunk back": {func(c *corev1.PersistentVolumeClaim) {
			c.Spec.StorageClassName, c.Status.AllocatedResources = nil, list("storage", "2Gi")
		}, list("persistentvolumeclaims", "1", "requests.storage", "2Gi")},
	} {
		t.Run(name, func(t *testing.T) {
			c2 := claim.DeepCopy()
			c.change(c2)
			got := usageOf(c2, time.Now())
			require.Len(t, got, len(c.want))
			for k, v := range c.want {
				q := got[k]
				require.Zero(t, v.Cmp(q), "%s: %s, want %s", k, q.String(), v.String())
			}
		})
	}
}

func TestResourceOf(t *testing.T) {
	for name, want := range map[corev1.ResourceName]string{
		"cpu": "pods", "requests.example.com/gpu": "pods", "hugepages-2Mi": "pods", "pods": "pods", "count/pods": "pods",
		"services.nodeports": "services", "requests.storage": "persistentvolumeclaims", "gold.storageclass.storage.k8s.io/requests.storage": "persistentvolumeclaims",
		"count/deployments.apps": "deployments.apps", "secrets": "secrets",
	} {
		require.Equal(t, want, resourceOf(name).String(), name)
	}
}

// later is a mapper that learns of a kind when it is reset.
type later struct {
	meta.RESTMapper
	known bool
}

func (l *later) Reset() { l.known = true }

func (l *later) ResourceFor(r schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	if !l.known {
		return schema.GroupVersionResource{}, &meta.NoResourceMatchError{PartialResource: r}
	}
	return l.RESTMapper.ResourceFor(r)
}

// TestKindThatIsServedLater: what admission has charged for a kind that is new must not
// be taken back because the controller has not heard of the kind.
func TestKindThatIsServedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}})
		c, err := New(s.Client(), &later{RESTMapper: mapper()}, s, zerolog.Nop())
		require.NoError(t, err)
		s.For(corev1.SchemeGroupVersion.WithResource("configmaps"), nil) // is run from the start
		fakeapi.Start(t, s, c)
		fakeapi.Put(s, quotaOf("q", list("count/configmaps", "3")))
		fakeapi.Settle()
		require.Equal(t, "1", fakeapi.Get[*corev1.ResourceQuota](s, "default", "q").Status.Used.Name("count/configmaps", resource.DecimalSI).String())
	})
}
