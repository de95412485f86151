// Package bootstrap writes what a Kubernetes cluster always has: system namespaces,
// the RBAC policy, priority classes, flow control, the service range, and the Services
// "kubernetes" and "kube-dns". Every step is idempotent and leaves alone what an
// operator changed.
package bootstrap

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
)

// Config is what the cluster looks like.
type Config struct {
	ServiceCIDR netip.Prefix
	// Address and Port are where pods reach this API server.
	Address netip.Addr
	Port    uint16
	// DNS is the cluster address of the DNS service.
	DNS netip.Addr
	// Delegation tells other API servers whom to believe, as the data of a ConfigMap.
	Delegation map[string]string
}

// serviceCIDRName is the name upstream gives the range of its flags.
const serviceCIDRName = "kubernetes"

// Run does all steps and returns the first error.
func Run(ctx context.Context, client kubernetes.Interface, c Config) error {
	if err := ensureNamespaces(ctx, client); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return kinds.EnsurePolicy(ctx, client) })
	g.Go(func() error { return kinds.EnsurePriorityClasses(ctx, client) })
	g.Go(func() error { return kinds.EnsureFlowControl(ctx, client) })
	g.Go(func() error { return EnsureDelegation(ctx, client, c.Delegation) })
	g.Go(func() error { return ensureTokenTracking(ctx, client, time.Now()) })
	g.Go(func() error {
		if err := ensureServiceCIDR(ctx, client, c.ServiceCIDR); err != nil {
			return err
		}
		return ensureServices(ctx, client, c)
	})
	return g.Wait()
}

// delegationName is the ConfigMap that aggregated API servers read.
const delegationName = "extension-apiserver-authentication"

// EnsureDelegation tells other API servers whom to believe. It leaves alone what others
// have put beside.
func EnsureDelegation(ctx context.Context, client kubernetes.Interface, data map[string]string) error {
	maps := client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		found, err := maps.Get(ctx, delegationName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: delegationName}, Data: data}, metav1.CreateOptions{})
			return err
		}
		if err != nil {
			return err
		}
		if found.Data == nil {
			found.Data = map[string]string{}
		}
		for key, value := range data {
			found.Data[key] = value
		}
		_, err = maps.Update(ctx, found, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("config map %s: %w", delegationName, err)
	}
	return nil
}

// The ConfigMap that tells since when the use of tokens in Secrets is noted on these, as a
// date: whoever wants to delete unused ones asks it.
const (
	trackingName = "kube-apiserver-legacy-service-account-token-tracking"
	trackedSince = "since"
)

func ensureTokenTracking(ctx context.Context, client kubernetes.Interface, now time.Time) error {
	maps := client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	data := map[string]string{trackedSince: now.UTC().Format(time.DateOnly)}
	found, err := maps.Get(ctx, trackingName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: trackingName}, Data: data}, metav1.CreateOptions{})
	} else if err == nil {
		if _, bad := time.Parse(time.DateOnly, found.Data[trackedSince]); bad == nil {
			return nil
		}
		found.Data = data
		_, err = maps.Update(ctx, found, metav1.UpdateOptions{})
	}
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return nil // another API server has done it
	}
	return fmt.Errorf("config map %s: %w", trackingName, err)
}

func ensureNamespaces(ctx context.Context, client kubernetes.Interface) error {
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("namespace %s: %w", name, err)
		}
	}
	return nil
}

// ensureServiceCIDR makes the default range and marks it ready, which allows
// allocation from it (KEP-1880).
func ensureServiceCIDR(ctx context.Context, client kubernetes.Interface, cidr netip.Prefix) error {
	ranges := client.NetworkingV1().ServiceCIDRs()
	got, err := ranges.Get(ctx, serviceCIDRName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		got, err = ranges.Create(ctx, &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: serviceCIDRName},
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{cidr.String()}},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("service range: %w", err)
	}
	if len(got.Spec.CIDRs) != 1 || got.Spec.CIDRs[0] != cidr.String() {
		return fmt.Errorf("service range: the cluster was made with %v, the configuration says %s; give it back its range", got.Spec.CIDRs, cidr)
	}
	for _, c := range got.Status.Conditions {
		if c.Type == networkingv1.ServiceCIDRConditionReady && c.Status == metav1.ConditionTrue {
			return nil
		}
	}
	got.Status.Conditions = append(got.Status.Conditions, metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue,
		LastTransitionTime: metav1.Now(), Reason: "Default", Message: "default service range of the cluster",
	})
	if _, err := ranges.UpdateStatus(ctx, got, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("service range: %w", err)
	}
	return nil
}

func ensureServices(ctx context.Context, client kubernetes.Interface, c Config) error {
	api := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: c.ServiceCIDR.Addr().Next().String(), Type: corev1.ServiceTypeClusterIP, SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(int32(c.Port))}},
		},
	}
	dns := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-dns", Namespace: metav1.NamespaceSystem,
			Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: c.DNS.String(), Type: corev1.ServiceTypeClusterIP,
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
			},
		},
	}
	for _, s := range []*corev1.Service{api, dns} {
		if err := ensureService(ctx, client, s); err != nil {
			return fmt.Errorf("service %s/%s: %w", s.Namespace, s.Name, err)
		}
	}
	return ensureEndpoints(ctx, client, c)
}

func ensureService(ctx context.Context, client kubernetes.Interface, s *corev1.Service) error {
	got, err := client.CoreV1().Services(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return createService(ctx, client, s)
	}
	if err != nil || got.Spec.Ports[0].TargetPort == s.Spec.Ports[0].TargetPort {
		return err
	}
	got.Spec.Ports = s.Spec.Ports
	_, err = client.CoreV1().Services(s.Namespace).Update(ctx, got, metav1.UpdateOptions{})
	return err
}

// allocatorPatience is how long the allocator of cluster IPs may take to learn of a
// new service range; it does so by a watch, so the first tries can come too early.
var allocatorPatience = wait.Backoff{Duration: 5 * time.Millisecond, Factor: 1.5, Steps: 20, Cap: 2 * time.Second}

func createService(ctx context.Context, client kubernetes.Interface, s *corev1.Service) error {
	tooEarly := func(err error) bool {
		return apierrors.IsInvalid(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err)
	}
	return retry.OnError(allocatorPatience, tooEarly, func() error {
		_, err := client.CoreV1().Services(s.Namespace).Create(ctx, s, metav1.CreateOptions{})
		return err
	})
}

// ensureEndpoints points the Service "kubernetes" at this API server.
func ensureEndpoints(ctx context.Context, client kubernetes.Interface, c Config) error {
	name, ready := "kubernetes", true
	port, protocol, portName := int32(c.Port), corev1.ProtocolTCP, "https"
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{c.Address.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &protocol}},
	}
	slices := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	got, err := slices.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = slices.Create(ctx, slice, metav1.CreateOptions{})
	case err == nil:
		got.Endpoints, got.Ports = slice.Endpoints, slice.Ports
		_, err = slices.Update(ctx, got, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("endpoints of the API server: %w", err)
	}
	//nolint:staticcheck // Endpoints is deprecated, yet clients and conformance still read it
	endpoints := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault, Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"}},
		Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: c.Address.String()}},
			Ports:     []corev1.EndpointPort{{Name: portName, Port: port, Protocol: protocol}},
		}},
	}
	old, err := client.CoreV1().Endpoints(metav1.NamespaceDefault).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = client.CoreV1().Endpoints(metav1.NamespaceDefault).Create(ctx, endpoints, metav1.CreateOptions{})
	case err == nil:
		old.Subsets = endpoints.Subsets
		_, err = client.CoreV1().Endpoints(metav1.NamespaceDefault).Update(ctx, old, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("endpoints of the API server: %w", err)
	}
	return nil
}
