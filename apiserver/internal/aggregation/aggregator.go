package aggregation

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	kubeinformers "k8s.io/client-go/informers"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	componentmetrics "k8s.io/component-base/metrics"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	"k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	"k8s.io/kube-aggregator/pkg/client/informers/externalversions"
	"k8s.io/kube-aggregator/pkg/controllers/autoregister"
	local "k8s.io/kube-aggregator/pkg/controllers/status/local"
	availability "k8s.io/kube-aggregator/pkg/controllers/status/metrics"
	remote "k8s.io/kube-aggregator/pkg/controllers/status/remote"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	// registrars and checkers are how many APIServices are written or checked at a time.
	registrars, checkers = 2, 3
	// resync must not be 0: it lets those who follow APIServices ask to see them again, as
	// who checks every half minute whether servers still answer.
	resync = 5 * time.Minute
	// refresh is how often discovery of aggregated servers is read again: what they serve
	// may change without a sign. While one does not answer it is asked sooner.
	refresh     = time.Minute
	soonRefresh = time.Second
	// fetchTimeout bounds one question to an aggregated server.
	fetchTimeout = 5 * time.Second
)

// Config is what an Aggregator is made of. All fields are required.
type Config struct {
	Loopback  *rest.Config // how APIServices are read and written
	Informers kubeinformers.SharedInformerFactory
	Resolver  *Resolver
	Identity  func() (cert, key []byte) // the front proxy's certificate as it is now, in PEM
}

// Aggregator serves the groups of other API servers. Make it with New, run it once
// with Run.
type Aggregator struct {
	backends  *backends
	informers externalversions.SharedInformerFactory
	register  autoRegistration
	run       []func(stop <-chan struct{})

	changed    chan struct{} // has room for one: an APIService has changed
	generation atomic.Int64  // raised when what is merged has changed

	mu   sync.Mutex
	seen map[types.UID]*described // by APIService; guarded by mu

	swaggers  kept[spec.Swagger]
	documents kept[spec3.OpenAPI]

	registered registered
	announced  announced
	metrics    componentmetrics.KubeRegistry
}

// Metrics tell which APIServices are unavailable.
func (a *Aggregator) Metrics() prometheus.Gatherer { return a.metrics }

// autoRegistration keeps APIServices of what this server serves itself.
type autoRegistration interface {
	autoregister.AutoAPIServiceRegistration
	Run(workers int, stop <-chan struct{})
}

// New wires an aggregator. Informers of the configuration must not have been started.
func New(c Config) (*Aggregator, error) {
	client, err := clientset.NewForConfig(c.Loopback)
	if err != nil {
		return nil, fmt.Errorf("client of APIServices: %w", err)
	}
	factory := externalversions.NewSharedInformerFactory(client, resync)
	services := factory.Apiregistration().V1().APIServices()
	a := &Aggregator{
		backends:  &backends{services: services.Lister(), resolver: c.Resolver, identity: c.Identity, open: map[types.UID]*backend{}},
		informers: factory, register: autoregister.NewAutoRegisterController(services, client.ApiregistrationV1()),
		changed: make(chan struct{}, 1), seen: map[types.UID]*described{}, metrics: componentmetrics.NewKubeRegistry(),
	}
	metrics := availability.New()
	if err := metrics.Register(a.metrics.Register, a.metrics.CustomRegister); err != nil {
		return nil, err
	}
	here, err := local.New(services, client.ApiregistrationV1(), metrics)
	if err != nil {
		return nil, err
	}
	there, err := remote.New(services, c.Informers.Core().V1().Services(), c.Informers.Discovery().V1().EndpointSlices(), client.ApiregistrationV1(),
		nil, c.Identity, c.Resolver, metrics)
	if err != nil {
		return nil, err
	}
	a.run = []func(<-chan struct{}){
		func(stop <-chan struct{}) { a.register.Run(registrars, stop) },
		func(stop <-chan struct{}) { here.Run(checkers, stop) },
		func(stop <-chan struct{}) { there.Run(checkers, stop) },
	}
	_, err = services.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { a.notice(nil, obj) },
		UpdateFunc: a.notice,
		DeleteFunc: func(obj any) { a.notice(nil, obj) },
	})
	return a, err
}

// notice wakes the reading of discovery if an aggregated server is or was concerned.
func (a *Aggregator) notice(old, obj any) {
	if !elsewhere(old) && !elsewhere(obj) {
		return
	}
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// elsewhere tells that another server serves what an APIService stands for.
func elsewhere(obj any) bool {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	service, ok := obj.(*apiregistration.APIService)
	return ok && service.Spec.Service != nil
}

// Run works until the context ends.
func (a *Aggregator) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, run := range a.run {
		g.Go(func() error { run(ctx.Done()); return nil })
	}
	g.Go(func() error { a.follow(ctx); return nil })
	a.informers.Start(ctx.Done())
	err := g.Wait()
	a.informers.Shutdown()
	return err
}

// follow keeps what is known of aggregated servers: read when an APIService changes, and
// again after a while.
func (a *Aggregator) follow(ctx context.Context) {
	timer := time.NewTimer(refresh)
	defer timer.Stop()
	wait := soonRefresh
	for {
		select {
		case <-a.changed:
			wait = soonRefresh
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if a.read(ctx) {
			wait = refresh
		}
		timer.Reset(wait)
		wait = min(2*wait, refresh)
	}
}

// remote lists the APIServices that other servers serve.
func (a *Aggregator) remote() []*apiregistration.APIService {
	all, err := a.backends.services.List(labels.Everything())
	if err != nil {
		return nil // a lister of everything has no errors
	}
	var found []*apiregistration.APIService
	for _, service := range all {
		if elsewhere(service) {
			found = append(found, service)
		}
	}
	return found
}

func available(service *apiregistration.APIService) bool {
	return helper.IsAPIServiceConditionTrue(service, apiregistration.Available)
}

func gvOf(service *apiregistration.APIService) schema.GroupVersion {
	return schema.GroupVersion{Group: service.Spec.Group, Version: service.Spec.Version}
}

// Generation changes whenever what aggregated servers serve has.
func (a *Aggregator) Generation() int64 { return a.generation.Load() }
