// Package endpoints keeps the Endpoints objects of Services with selectors, for the
// clients that still read them; everything of ours reads EndpointSlices.
package endpoints

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

const (
	name    = "endpoints"
	workers = 2
	// maxAddresses is what upstream puts into one object; the rest is cut and marked.
	maxAddresses = 1000
	byService    = "endpoints-service"
	managedBy    = "endpoint-controller"
)

type reconciler struct {
	client   kubernetes.Interface
	services corelisters.ServiceLister
	current  corelisters.EndpointsLister
	slices   cache.Indexer
}

// New returns the controller. It reads Services and the EndpointSlices made for them;
// it owns their Endpoints.
func New(client kubernetes.Interface, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	services := source.For(corev1.SchemeGroupVersion.WithResource("services"), &corev1.Service{})
	//nolint:staticcheck // Endpoints is deprecated, and what this package is about
	current := source.For(corev1.SchemeGroupVersion.WithResource("endpoints"), &corev1.Endpoints{})
	sliceInformer := source.For(discoveryv1.SchemeGroupVersion.WithResource("endpointslices"), &discoveryv1.EndpointSlice{})
	if err := sliceInformer.AddIndexers(cache.Indexers{byService: serviceOf}); err != nil {
		return nil, err
	}
	r := &reconciler{client: client, services: corelisters.NewServiceLister(services.GetIndexer()),
		current: corelisters.NewEndpointsLister(current.GetIndexer()), slices: sliceInformer.GetIndexer()}
	c := engine.NewController(r, workers, log)
	if err := c.Watch(services, engine.Self); err != nil {
		return nil, err
	}
	if err := c.Watch(current, engine.Self); err != nil {
		return nil, err
	}
	return c, c.Watch(sliceInformer, func(_, obj any) []string { keys, _ := serviceOf(obj); return keys })
}

func (r *reconciler) Name() string { return name }

// serviceOf names the Service of a slice that a controller made for a selector.
func serviceOf(obj any) ([]string, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || slice.Labels[discoveryv1.LabelManagedBy] != "endpointslice-controller.k8s.io" {
		return nil, nil
	}
	return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}, nil
}

func (r *reconciler) Reconcile(ctx context.Context, key string) error {
	namespace, service, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil //nolint:nilerr // a key that is no name can never become one
	}
	svc, err := r.services.Services(namespace).Get(service)
	if apierrors.IsNotFound(err) {
		return r.remove(ctx, namespace, service)
	}
	if err != nil || svc.Spec.Selector == nil || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return err
	}
	return r.write(ctx, svc, engine.Owned[*discoveryv1.EndpointSlice](r.slices, byService, key))
}

func (r *reconciler) remove(ctx context.Context, namespace, service string) error {
	got, err := r.current.Endpoints(namespace).Get(service)
	if err != nil || got.Labels["endpoints.kubernetes.io/managed-by"] != managedBy {
		return nil //nolint:nilerr // not there, or somebody else's
	}
	err = r.client.CoreV1().Endpoints(namespace).Delete(ctx, service, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete endpoints %s/%s: %w", namespace, service, err)
	}
	return nil
}

//nolint:staticcheck // Endpoints is deprecated, and what this package is about
func (r *reconciler) write(ctx context.Context, svc *corev1.Service, from []*discoveryv1.EndpointSlice) error {
	want, cut := subsets(from, family(svc))
	annotations := map[string]string{}
	labels := map[string]string{}
	for k, v := range svc.Labels {
		labels[k] = v
	}
	labels["endpoints.kubernetes.io/managed-by"] = managedBy
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[corev1.IsHeadlessService] = ""
	}
	if cut {
		annotations[corev1.EndpointsOverCapacity] = "truncated"
	}
	got, err := r.current.Endpoints(svc.Namespace).Get(svc.Name)
	if apierrors.IsNotFound(err) {
		_, err = r.client.CoreV1().Endpoints(svc.Namespace).Create(ctx, &corev1.Endpoints{
			ObjectMeta: metav1.ObjectMeta{Name: svc.Name, Namespace: svc.Namespace, Labels: labels, Annotations: annotations}, Subsets: want}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
	} else if err == nil {
		if equality.Semantic.DeepEqual(got.Subsets, want) && equality.Semantic.DeepEqual(got.Labels, labels) &&
			got.Annotations[corev1.EndpointsOverCapacity] == annotations[corev1.EndpointsOverCapacity] {
			return nil
		}
		update := got.DeepCopy()
		update.Subsets, update.Labels = want, labels
		delete(update.Annotations, corev1.EndpointsOverCapacity)
		if cut {
			metav1.SetMetaDataAnnotation(&update.ObjectMeta, corev1.EndpointsOverCapacity, "truncated")
		}
		_, err = r.client.CoreV1().Endpoints(svc.Namespace).Update(ctx, update, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write endpoints %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return nil
}

// family is the address family of the service's Endpoints, which know one only.
func family(svc *corev1.Service) discoveryv1.AddressType {
	if len(svc.Spec.IPFamilies) > 0 {
		return discoveryv1.AddressType(svc.Spec.IPFamilies[0])
	}
	return discoveryv1.AddressTypeIPv4
}

// subsets groups the endpoints of one family by their ports, and reports whether some
// had to be left out. Pods that end are in none, unless they count as ready all the
// same (publishNotReadyAddresses).
//
//nolint:staticcheck // Endpoints is deprecated, and what this package is about
func subsets(from []*discoveryv1.EndpointSlice, of discoveryv1.AddressType) (out []corev1.EndpointSubset, cut bool) {
	slices.SortFunc(from, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	count := 0
	for _, s := range from {
		if s.AddressType != of {
			continue
		}
		into := subsetOf(&out, ports(s.Ports))
		for _, e := range s.Endpoints {
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready
			if e.Conditions.Terminating != nil && *e.Conditions.Terminating && !ready {
				continue
			}
			if count++; count > maxAddresses {
				cut = true
				break
			}
			address := corev1.EndpointAddress{IP: e.Addresses[0], NodeName: e.NodeName, TargetRef: e.TargetRef}
			if e.Hostname != nil {
				address.Hostname = *e.Hostname
			}
			if ready {
				into.Addresses = append(into.Addresses, address)
			} else {
				into.NotReadyAddresses = append(into.NotReadyAddresses, address)
			}
		}
	}
	out = slices.DeleteFunc(out, func(s corev1.EndpointSubset) bool { return len(s.Addresses)+len(s.NotReadyAddresses) == 0 })
	byIP := func(a, b corev1.EndpointAddress) int { return cmp.Compare(a.IP, b.IP) }
	for i := range out {
		slices.SortFunc(out[i].Addresses, byIP)
		slices.SortFunc(out[i].NotReadyAddresses, byIP)
	}
	return out, cut
}

// subsetOf returns the subset of the given ports, new if there is none.
//
//nolint:staticcheck // Endpoints is deprecated, and what this package is about
func subsetOf(all *[]corev1.EndpointSubset, ports []corev1.EndpointPort) *corev1.EndpointSubset {
	i := slices.IndexFunc(*all, func(s corev1.EndpointSubset) bool { return equality.Semantic.DeepEqual(s.Ports, ports) })
	if i < 0 {
		*all = append(*all, corev1.EndpointSubset{Ports: ports})
		i = len(*all) - 1
	}
	return &(*all)[i]
}

func ports(from []discoveryv1.EndpointPort) []corev1.EndpointPort {
	var out []corev1.EndpointPort
	for _, p := range from {
		port := corev1.EndpointPort{AppProtocol: p.AppProtocol}
		if p.Name != nil {
			port.Name = *p.Name
		}
		if p.Port != nil {
			port.Port = *p.Port
		}
		if p.Protocol != nil {
			port.Protocol = *p.Protocol
		}
		out = append(out, port)
	}
	return out
}
