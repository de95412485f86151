package kinds

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	core "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/networking"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"
	servicestore "k8s.io/kubernetes/pkg/registry/core/service/storage"
	servicecidrstore "k8s.io/kubernetes/pkg/registry/networking/servicecidr/storage"
)

// pastAllocations gives addresses and node ports to Services in dry runs on the past:
// what the Services of then had is taken, the rest is free. Nothing that is given out
// outlives the request.
type pastAllocations struct {
	instant          func(context.Context) (time.Time, bool)
	services, ranges *genericregistry.Store
	opened           oneStorage // of Services
	ports            utilnet.PortRange
}

// oneStorage makes further registries of a resource share the storage of the first.
type oneStorage struct{ options generic.RESTOptions }

// GetRESTOptions implements generic.RESTOptionsGetter.
func (o oneStorage) GetRESTOptions(schema.GroupResource, runtime.Object) (generic.RESTOptions, error) {
	return o.options, nil
}

func newOneStorage(options generic.RESTOptions, opened storage.Interface) oneStorage {
	options.Decorator = func(*storagebackend.ConfigForResource, string, func(runtime.Object) (string, error),
		func() runtime.Object, func() runtime.Object, storage.AttrFunc, storage.IndexerFuncs, *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		return opened, func() {}, nil
	}
	return oneStorage{options}
}

var errNoServices = errors.New("the storage of services, or of servicecidrs, is not of the expected type")

// allocateInPast makes the storage of Services allocate as of the instant that a
// request reads.
func (c Config) allocateInPast(all map[schema.GroupVersion]resources) error {
	services, ok := all[core.SchemeGroupVersion]["services"].(*servicestore.REST)
	ranges, known := all[networkingv1.SchemeGroupVersion]["servicecidrs"].(*servicecidrstore.REST)
	if !ok || !known {
		return errNoServices
	}
	options, err := c.Storage.GetRESTOptions(schema.GroupResource{Resource: "services"}, &api.Service{})
	if err != nil {
		return err
	}
	pastAllocations{
		instant: c.Instant, services: services.Store, ranges: ranges.Store,
		opened: newOneStorage(options, services.Store.Storage.Storage), ports: c.NodePorts,
	}.install()
	return nil
}

// install puts itself before the allocations of the present.
func (p pastAllocations) install() {
	create, update := p.services.BeginCreate, p.services.BeginUpdate
	p.services.BeginCreate = func(ctx context.Context, obj runtime.Object, options *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
		if _, past := p.instant(ctx); !past {
			return create(ctx, obj, options)
		}
		then, err := p.then(ctx, obj)
		if err != nil {
			return nil, err
		}
		return then.BeginCreate(ctx, obj, options)
	}
	p.services.BeginUpdate = func(ctx context.Context, obj, old runtime.Object, options *metav1.UpdateOptions) (genericregistry.FinishFunc, error) {
		if _, past := p.instant(ctx); !past {
			return update(ctx, obj, old, options)
		}
		then, err := p.then(ctx, obj)
		if err != nil {
			return nil, err
		}
		return then.BeginUpdate(ctx, obj, old, options)
	}
}

// then is a registry of Services whose allocators know what was taken.
func (p pastAllocations) then(ctx context.Context, wanted runtime.Object) (*genericregistry.Store, error) {
	services := &api.ServiceList{}
	if err := listAll(ctx, p.services, services); err != nil {
		return nil, err
	}
	ips, err := p.addresses(ctx, wanted.(*api.Service))
	if err != nil {
		return nil, err
	}
	ports, err := portallocator.NewInMemory(p.ports)
	if err != nil {
		return nil, err
	}
	for i := range services.Items {
		take(&services.Items[i], ips, ports)
	}
	rest, _, _, err := servicestore.NewREST(p.opened, api.IPv4Protocol, map[api.IPFamily]ipallocator.Interface{api.IPv4Protocol: ips}, ports, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	return rest.Store, nil
}

// listAll lists the objects of all namespaces.
func listAll(ctx context.Context, from *genericregistry.Store, into runtime.Object) error {
	everywhere := request.WithNamespace(ctx, "")
	return from.Storage.GetList(ctx, from.KeyRootFunc(everywhere), storage.ListOptions{Recursive: true, Predicate: storage.Everything}, into)
}

// addresses is the range of then that the wanted address lies in, or the first.
func (p pastAllocations) addresses(ctx context.Context, wanted *api.Service) (*ipallocator.Range, error) {
	found := &networking.ServiceCIDRList{}
	if err := listAll(ctx, p.ranges, found); err != nil {
		return nil, err
	}
	ip := net.ParseIP(wanted.Spec.ClusterIP)
	var chosen *net.IPNet
	for i := range found.Items {
		for _, text := range found.Items[i].Spec.CIDRs {
			_, cidr, err := net.ParseCIDR(text)
			if err != nil || cidr.IP.To4() == nil {
				continue
			}
			if chosen == nil || ip != nil && cidr.Contains(ip) {
				chosen = cidr
			}
		}
	}
	if chosen == nil {
		return nil, apierrors.NewServiceUnavailable("there was no ServiceCIDR at that instant, so that no Service could have been given an address")
	}
	ips, err := ipallocator.NewInMemory(chosen)
	if err != nil {
		return nil, fmt.Errorf("addresses of services in %s: %w", chosen, err)
	}
	return ips, nil
}

// take marks what a Service has; what lies outside of the ranges can't be given out.
func take(s *api.Service, ips *ipallocator.Range, ports *portallocator.PortAllocator) {
	for _, text := range s.Spec.ClusterIPs {
		if ip := net.ParseIP(text); ip != nil {
			_ = ips.Allocate(ip)
		}
	}
	for _, port := range s.Spec.Ports {
		if port.NodePort != 0 {
			_ = ports.Allocate(int(port.NodePort)) // TCP and UDP may share one
		}
	}
	if port := s.Spec.HealthCheckNodePort; port != 0 {
		_ = ports.Allocate(int(port))
	}
}
