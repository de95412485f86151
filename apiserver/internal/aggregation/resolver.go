package aggregation

import (
	"fmt"
	"net"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// Resolver finds an address at which a Service is served: a ready endpoint and its
// target port, chosen at random, or the name that an ExternalName Service stands for.
type Resolver struct {
	services corelisters.ServiceLister
	slices   proxy.EndpointSliceGetter
}

// NewResolver returns a resolver fed by the factory's informers, which must not have
// been started yet.
func NewResolver(factory informers.SharedInformerFactory) (*Resolver, error) {
	slices, err := proxy.NewEndpointSliceIndexerGetter(factory.Discovery().V1().EndpointSlices())
	if err != nil {
		return nil, fmt.Errorf("index endpoint slices by service: %w", err)
	}
	return &Resolver{services: factory.Core().V1().Services().Lister(), slices: slices}, nil
}

// ResolveEndpoint returns the URL of one endpoint of a Service's port.
func (r *Resolver) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	service, err := r.services.Services(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return &url.URL{Scheme: "https", Host: net.JoinHostPort(service.Spec.ExternalName, strconv.Itoa(int(port)))}, nil
	}
	return proxy.ResolveEndpoint(r.services, r.slices, namespace, name, port)
}
