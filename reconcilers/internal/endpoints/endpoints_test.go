package endpoints

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// endpoint is one address; conditions are ready, serving and terminating.
func endpoint(ip string, ready, serving, terminating bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}}
}

func slice(name string, of discoveryv1.AddressType, port int32, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{
		discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io", discoveryv1.LabelServiceName: "web"}},
		AddressType: of, Ports: []discoveryv1.EndpointPort{{Port: &port}}, Endpoints: endpoints}
}

// text is a subset as "port: ready | not ready".
//
//nolint:staticcheck // Endpoints is deprecated, and what this package is about
func text(subsets []corev1.EndpointSubset) (out []string) {
	list := func(all []corev1.EndpointAddress) (s string) {
		for _, a := range all {
			s += " " + a.IP
		}
		return s
	}
	for _, s := range subsets {
		out = append(out, fmt.Sprintf("%d:%s |%s", s.Ports[0].Port, list(s.Addresses), list(s.NotReadyAddresses)))
	}
	return out
}

func TestSubsets(t *testing.T) {
	v4, v6 := discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6
	for _, tc := range []struct {
		name string
		from []*discoveryv1.EndpointSlice
		want []string
	}{
		{"none", nil, nil},
		{"ready and not, in order", []*discoveryv1.EndpointSlice{slice("a", v4, 80, endpoint("2", true, true, false), endpoint("1", true, true, false), endpoint("3", false, false, false))}, []string{"80: 1 2 | 3"}},
		{"slices of the same ports become one", []*discoveryv1.EndpointSlice{slice("b", v4, 80, endpoint("2", true, true, false)), slice("a", v4, 80, endpoint("1", true, true, false))}, []string{"80: 1 2 |"}},
		{"other ports do not", []*discoveryv1.EndpointSlice{slice("a", v4, 80, endpoint("1", true, true, false)), slice("b", v4, 81, endpoint("2", true, true, false))}, []string{"80: 1 |", "81: 2 |"}},
		{"one family only", []*discoveryv1.EndpointSlice{slice("a", v4, 80, endpoint("1", true, true, false)), slice("b", v6, 80, endpoint("fd00::1", true, true, false))}, []string{"80: 1 |"}},
		{"pods that end are out, even serving", []*discoveryv1.EndpointSlice{slice("a", v4, 80, endpoint("1", false, true, true), endpoint("2", false, false, true))}, nil},
		{"unless they count as ready", []*discoveryv1.EndpointSlice{slice("a", v4, 80, endpoint("1", true, true, true))}, []string{"80: 1 |"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, cut := subsets(tc.from, v4)
			require.Equal(t, tc.want, text(got))
			require.False(t, cut)
		})
	}
}

func start(t *testing.T, s *fakeapi.Server) {
	t.Helper()
	c, err := New(s.Client(), s, zerolog.Nop())
	require.NoError(t, err)
	fakeapi.Start(t, s, c)
}

func service() *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}}}
}

//nolint:staticcheck // Endpoints is deprecated, and what this package is about
func current(s *fakeapi.Server) *corev1.Endpoints {
	return fakeapi.Get[*corev1.Endpoints](s, "default", "web")
}

func TestFollowsSlicesAndService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		svc := fakeapi.Put(s, service())
		start(t, s)
		require.Empty(t, current(s).Subsets)
		fakeapi.Put(s, slice("a", discoveryv1.AddressTypeIPv4, 80, endpoint("1", true, true, false)))
		fakeapi.Settle()
		require.Equal(t, []string{"80: 1 |"}, text(current(s).Subsets))
		fakeapi.Drop(s, svc)
		fakeapi.Settle()
		require.Nil(t, current(s))
	})
}

// After a restart the Endpoints were thought missing, because nobody waited for their
// informer; making them failed, and they stayed as they were.
func TestUpdatesWhatIsThereAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, service())
		stale := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}} //nolint:staticcheck // what this package is about
		fakeapi.Put(s, stale)
		fakeapi.Put(s, slice("a", discoveryv1.AddressTypeIPv4, 80, endpoint("1", true, true, false)))
		start(t, s)
		require.Equal(t, []string{"80: 1 |"}, text(current(s).Subsets))
		fakeapi.Drop(s, current(s))
		fakeapi.Settle()
		require.NotNil(t, current(s), "what a user deletes comes back")
	})
}

func TestTooManyAddressesAreCutAndMarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, service())
		big := slice("a", discoveryv1.AddressTypeIPv4, 80)
		for i := range maxAddresses + 1 {
			big.Endpoints = append(big.Endpoints, endpoint(fmt.Sprint(i), true, true, false))
		}
		big = fakeapi.Put(s, big)
		start(t, s)
		require.Len(t, current(s).Subsets[0].Addresses, maxAddresses)
		require.Equal(t, "truncated", current(s).Annotations[corev1.EndpointsOverCapacity])
		big.Endpoints = big.Endpoints[:3]
		fakeapi.Put(s, big)
		fakeapi.Settle()
		require.Len(t, current(s).Subsets[0].Addresses, 3)
		require.Empty(t, current(s).Annotations)
	})
}

func TestServiceWithoutSelectorIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		svc := service()
		svc.Spec.Selector = nil
		fakeapi.Put(s, svc)
		start(t, s)
		require.Nil(t, current(s))
	})
}
