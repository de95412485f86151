package netproxy

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"sync"
	"time"

	"github.com/rutter-project/rutter/netproxy/datapath"
)

// errStopped says that Run has returned.
var errStopped = errors.New("node's network is stopped")

// PodRef names a pod.
type PodRef struct {
	UID, Namespace, Name string
	Labels               map[string]string // for network policies, which are not enforced yet
}

// PodNetwork is a pod's place in the network.
type PodNetwork struct {
	IPs       []netip.Addr // the primary one first
	NetNSPath string       // bind mount of its network namespace
}

// Attach gives a pod addresses, a network namespace and a device in it, and remembers them until Detach. A pod that
// was attached before, also by another process, keeps what it has. It waits until the node's network is ready.
func (p *Proxy) Attach(ctx context.Context, pod PodRef) (PodNetwork, error) {
	d, m, done, err := p.use(ctx, pod.UID)
	if err != nil {
		return PodNetwork{}, fmt.Errorf("attach pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	defer done()
	start := time.Now()
	l, err := m.acquire(pod.UID, pod.Namespace, pod.Name)
	if err != nil {
		return PodNetwork{}, err
	}
	path, err := d.AddPod(datapath.Pod(l))
	if err != nil {
		return PodNetwork{}, err
	}
	p.metrics.attach.Observe(time.Since(start).Seconds())
	return PodNetwork{IPs: l.IPs, NetNSPath: path}, nil
}

// Detach takes a pod off the network and forgets its addresses. It is no error if it was not attached.
func (p *Proxy) Detach(ctx context.Context, uid string) error {
	d, m, done, err := p.use(ctx, uid)
	if err != nil {
		return fmt.Errorf("detach pod %s: %w", uid, err)
	}
	defer done()
	l, ok := m.get(uid)
	if !ok {
		return nil
	}
	if err := d.RemovePod(datapath.Pod(l)); err != nil {
		return err // the addresses stay taken: they may still be in use
	}
	return m.release(uid)
}

// Attached lists the pods that hold addresses, also those of a former process.
func (p *Proxy) Attached(ctx context.Context) ([]PodRef, error) {
	_, m, done, err := p.use(ctx, "")
	if err != nil {
		return nil, err
	}
	defer done()
	var out []PodRef
	for _, l := range m.all() {
		out = append(out, PodRef{UID: l.UID, Namespace: l.Namespace, Name: l.Name})
	}
	return out, nil
}

// use waits for the datapath and holds it and the pod until done is called.
func (p *Proxy) use(ctx context.Context, uid string) (d *datapath.Datapath, m *ipam, done func(), err error) {
	select {
	case <-p.ready:
	case <-ctx.Done():
		return nil, nil, nil, fmt.Errorf("node's network is not ready (pod range assigned: %t): %w",
			len(p.feed.ownCIDRs()) > 0, ctx.Err())
	}
	lock := p.lockOf(uid)
	lock.Lock()
	p.mu.RLock()
	if p.datapath == nil {
		p.mu.RUnlock()
		lock.Unlock()
		return nil, nil, nil, errStopped
	}
	return p.datapath, p.ipam, func() { p.mu.RUnlock(); lock.Unlock() }, nil
}

// lockOf is the lock of a pod; some pods share one.
func (p *Proxy) lockOf(uid string) *sync.Mutex {
	h := fnv.New32a()
	_, _ = h.Write([]byte(uid))
	return &p.locks[h.Sum32()%uint32(len(p.locks))]
}
