package aggregation_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/rutter-project/rutter/apiserver/internal/aggregation"
)

func TestResolver(t *testing.T) {
	yes, no, portName, target := true, false, "https", int32(8443)
	service := func(name string, spec corev1.ServiceSpec) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: spec}
	}
	clusterIP := corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Ports: []corev1.ServicePort{{Name: portName, Port: 443}}}
	slice := func(service string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &target}},
		}
	}
	endpoint := func(address string, ready *bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: ready}}
	}
	factory := informers.NewSharedInformerFactory(fake.NewClientset(
		service("served", clusterIP), slice("served", endpoint("10.0.0.1", &no), endpoint("10.0.0.2", &yes)),
		service("unready", clusterIP), slice("unready", endpoint("10.0.0.3", &no)),
		service("lonely", clusterIP),
		service("elsewhere", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "hooks.example.com"}),
	), 0)
	r, err := aggregation.NewResolver(factory)
	require.NoError(t, err)
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	for name, tc := range map[string]struct {
		service string
		port    int32
		want    string // a URL
		wrong   string // or part of an error
	}{
		"ready endpoint":       {"served", 443, "https://10.0.0.2:8443", ""},
		"port not of service":  {"served", 444, "", "no service port 444"},
		"no ready endpoint":    {"unready", 443, "", "no endpoints available"},
		"no slices":            {"lonely", 443, "", "no endpoints available"},
		"external name":        {"elsewhere", 9443, "https://hooks.example.com:9443", ""},
		"service is not there": {"missing", 443, "", "not found"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := r.ResolveEndpoint("ns", tc.service, tc.port)
			if tc.wrong != "" {
				require.ErrorContains(t, err, tc.wrong)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, got.String())
		})
	}
}
