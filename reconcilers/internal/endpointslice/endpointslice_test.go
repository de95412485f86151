package endpointslice

import (
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pod(name, ip string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{NodeName: "n"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
}

func service() *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "web"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, ClusterIP: "10.96.0.9",
		Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080), Protocol: corev1.ProtocolTCP}}}}
}

// addresses lists all endpoints of all slices.
func addresses(s *fakeapi.Server) (out []string) {
	for _, slice := range fakeapi.All[*discoveryv1.EndpointSlice](s) {
		for _, e := range slice.Endpoints {
			out = append(out, e.Addresses...)
		}
	}
	return out
}

func TestFollowsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
		fakeapi.Put(s, service())
		first := fakeapi.Put(s, pod("a", "10.244.0.2"))
		c, err := New(s.Config(), s, zerolog.Nop())
		require.NoError(t, err)
		fakeapi.Start(t, s, c)
		require.Equal(t, []string{"10.244.0.2"}, addresses(s))
		require.NotEmpty(t, s.Writes()[0].Cause, "the library's writes name their cause too")
		fakeapi.Put(s, pod("b", "10.244.0.3"))
		fakeapi.Settle()
		require.ElementsMatch(t, []string{"10.244.0.2", "10.244.0.3"}, addresses(s))
		fakeapi.Drop(s, first)
		fakeapi.Settle()
		require.Equal(t, []string{"10.244.0.3"}, addresses(s))
	})
}

// TestSlicesTakenAwayAreMadeAgain: whoever deletes a slice, lets it end, or gives it
// another owner gets a new one in its place.
func TestSlicesTakenAwayAreMadeAgain(t *testing.T) {
	for name, take := range map[string]func(*fakeapi.Server, *discoveryv1.EndpointSlice){
		"deleted": func(s *fakeapi.Server, slice *discoveryv1.EndpointSlice) { fakeapi.Drop(s, slice) },
		"held by a finalizer": func(s *fakeapi.Server, slice *discoveryv1.EndpointSlice) {
			now := metav1.Now()
			slice.DeletionTimestamp, slice.Finalizers = &now, []string{"x.test/hold"}
			fakeapi.Put(s, slice)
		},
		"managed by another": func(s *fakeapi.Server, slice *discoveryv1.EndpointSlice) {
			slice.Labels[discoveryv1.LabelManagedBy] = "x.test"
			fakeapi.Put(s, slice)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := fakeapi.New()
				fakeapi.Put(s, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
				fakeapi.Put(s, service())
				fakeapi.Put(s, pod("a", "10.244.0.2"))
				c, err := New(s.Config(), s, zerolog.Nop())
				require.NoError(t, err)
				fakeapi.Start(t, s, c)
				first := fakeapi.All[*discoveryv1.EndpointSlice](s)
				require.Len(t, first, 1)
				take(s, first[0].DeepCopy())
				fakeapi.Settle()
				var ours []*discoveryv1.EndpointSlice
				for _, slice := range fakeapi.All[*discoveryv1.EndpointSlice](s) {
					if keys, _ := serviceOf(slice); len(keys) > 0 && slice.DeletionTimestamp == nil {
						ours = append(ours, slice)
					}
				}
				require.Len(t, ours, 1)
				require.NotEqual(t, first[0].Name, ours[0].Name)
				require.Equal(t, []string{"10.244.0.2"}, ours[0].Endpoints[0].Addresses)
			})
		})
	}
}
