package kinds

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/kubernetes/pkg/registry/core/rangeallocation"
	addresses "k8s.io/kubernetes/pkg/registry/core/service/ipallocator/controller"
	ports "k8s.io/kubernetes/pkg/registry/core/service/portallocator/controller"
)

// repairEvery is upstream's interval for node ports, and for looking at all addresses.
const repairEvery = 3 * time.Minute

// Repairs keep allocations and Services together: what was allocated for a Service that
// never came to be is given back, and what a Service holds is allocated.
type Repairs struct {
	loops []func(repaired func(), stop chan struct{})
}

var errNoRegistry = errors.New("allocations of node ports can't be read as a whole")

// NewRepairs must be called before the informers start.
func NewRepairs(c Config) (*Repairs, error) {
	portRange, err := utilnet.ParsePortRange(c.NodePorts)
	if err != nil {
		return nil, err
	}
	allocated, err := c.allocations(nodePortAllocations)(portRange.Size, portRange.String(), 0)
	if err != nil {
		return nil, err
	}
	registry, ok := allocated.(rangeallocation.RangeRegistry)
	if !ok {
		return nil, errNoRegistry
	}
	networking := c.Informers.Networking().V1()
	return &Repairs{loops: []func(func(), chan struct{}){
		addresses.NewRepairIPAddress(repairEvery, c.Client, c.Informers.Core().V1().Services(), networking.ServiceCIDRs(), networking.IPAddresses()).RunUntil,
		ports.NewRepair(repairEvery, c.Client.CoreV1(), c.Client.EventsV1(), *portRange, registry).RunUntil,
	}}, nil
}

// Run repairs until the context ends. It calls repaired once, when everything was looked
// at for the first time.
func (r *Repairs) Run(ctx context.Context, repaired func()) {
	stop := make(chan struct{})
	defer context.AfterFunc(ctx, func() { close(stop) })()
	var left atomic.Int64
	left.Store(int64(len(r.loops)))
	first := func() {
		if left.Add(-1) == 0 {
			repaired()
		}
	}
	var g sync.WaitGroup
	for _, loop := range r.loops {
		g.Go(func() { loop(first, stop) })
	}
	g.Wait()
}
