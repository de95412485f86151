package kinds

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	coreinformers "k8s.io/client-go/informers/core/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/registry/core/rangeallocation"
	addresses "k8s.io/kubernetes/pkg/registry/core/service/ipallocator/controller"
	ports "k8s.io/kubernetes/pkg/registry/core/service/portallocator/controller"
)

const (
	// repairEvery is upstream's interval for node ports, and for looking at all addresses.
	repairEvery = 3 * time.Minute
	// firstPause and lastPause are how long a first repair has until the next try, whether
	// it fails or takes long. Upstream gives up after a minute and ends the server.
	firstPause = time.Second
	lastPause  = 15 * time.Minute
)

// Repairs keep allocations and Services together: what was allocated for a Service that
// never came to be is given back, and what a Service holds is allocated.
type Repairs struct {
	fresh []func() repair
}

// repair is one of upstream's loops. It runs once.
type repair struct {
	// run calls repaired when everything was looked at. If that fails it may return, or
	// wait for as long as it does between two repairs.
	run    func(repaired func(), stop chan struct{})
	forget func() // what the loop has left with others; may be nil
}

var errNoRegistry = errors.New("allocations of node ports can't be read as a whole")

// NewRepairs must be called before the informers start.
func NewRepairs(c Config) (*Repairs, error) {
	allocated, err := c.allocations(nodePortAllocations)(c.NodePorts.Size, c.NodePorts.String(), 0)
	if err != nil {
		return nil, err
	}
	registry, ok := allocated.(rangeallocation.RangeRegistry)
	if !ok {
		return nil, errNoRegistry
	}
	services, networking := c.Informers.Core().V1().Services(), c.Informers.Networking().V1()
	services.Informer() // who is asked for is started
	networking.ServiceCIDRs().Informer()
	networking.IPAddresses().Informer()
	return &Repairs{fresh: []func() repair{
		func() repair {
			var h handlers
			loop := addresses.NewRepairIPAddress(repairEvery, c.Client, h.services(services), networking.ServiceCIDRs(), h.ipAddresses(networking.IPAddresses()))
			return repair{run: loop.RunUntil, forget: h.remove}
		},
		func() repair {
			return repair{run: ports.NewRepair(repairEvery, c.Client.CoreV1(), c.Client.EventsV1(), c.NodePorts, registry).RunUntil}
		},
	}}, nil
}

// Run repairs until the context ends. It calls repaired once, when everything was looked
// at for the first time.
func (r *Repairs) Run(ctx context.Context, repaired func()) {
	var left atomic.Int64
	left.Store(int64(len(r.fresh)))
	var g sync.WaitGroup
	for _, fresh := range r.fresh {
		first := sync.OnceFunc(func() {
			if left.Add(-1) == 0 {
				repaired()
			}
		})
		g.Go(func() { keepRepairing(ctx, fresh, first) })
	}
	g.Wait()
}

// keepRepairing runs a loop until the context ends, and a fresh one as long as the first
// repair has failed.
func keepRepairing(ctx context.Context, fresh func() repair, repaired func()) {
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, lastPause) {
		try(ctx, fresh(), pause, repaired)
	}
}

// try runs a loop until the context ends, or if the first repair fails, for the pause that
// is due after that.
func try(ctx context.Context, r repair, pause time.Duration, repaired func()) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	defer context.AfterFunc(ctx, func() { close(stop) })()
	over := time.AfterFunc(pause, cancel)
	defer over.Stop()
	r.run(func() { over.Stop(); repaired() }, stop)
	<-ctx.Done()
	if r.forget != nil {
		r.forget()
	}
}

// handlers are what a loop has asked shared informers to call. It never takes them back.
type handlers struct {
	added []addedHandler
}

type addedHandler struct {
	informer cache.SharedIndexInformer
	handle   cache.ResourceEventHandlerRegistration
}

func (h *handlers) remove() {
	for _, a := range h.added {
		_ = a.informer.RemoveEventHandler(a.handle) // fails only for handlers of other informers
	}
}

func (h *handlers) services(of coreinformers.ServiceInformer) coreinformers.ServiceInformer {
	return serviceInformer{of, handledInformer{of.Informer(), h}}
}

func (h *handlers) ipAddresses(of networkinginformers.IPAddressInformer) networkinginformers.IPAddressInformer {
	return ipAddressInformer{of, handledInformer{of.Informer(), h}}
}

type serviceInformer struct {
	coreinformers.ServiceInformer
	handled cache.SharedIndexInformer
}

func (i serviceInformer) Informer() cache.SharedIndexInformer { return i.handled }

type ipAddressInformer struct {
	networkinginformers.IPAddressInformer
	handled cache.SharedIndexInformer
}

func (i ipAddressInformer) Informer() cache.SharedIndexInformer { return i.handled }

// handledInformer notes the handlers that are added.
type handledInformer struct {
	cache.SharedIndexInformer
	notes *handlers
}

func (i handledInformer) AddEventHandlerWithResyncPeriod(handler cache.ResourceEventHandler, resync time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	handle, err := i.SharedIndexInformer.AddEventHandlerWithResyncPeriod(handler, resync)
	if err == nil {
		i.notes.added = append(i.notes.added, addedHandler{i.SharedIndexInformer, handle})
	}
	return handle, err
}
