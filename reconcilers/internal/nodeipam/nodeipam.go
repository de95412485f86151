// Package nodeipam gives every node its own network of pod addresses.
package nodeipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

const name = "node-ipam"

// ErrExhausted says that all networks of the cluster's range are taken.
var ErrExhausted = errors.New("no free pod network; use a larger pod CIDR or remove nodes")

type reconciler struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	pool   *pool
}

// New returns the controller for a range and the length of a node's prefix in it. It
// reads Nodes; it owns spec.podCIDRs.
func New(client kubernetes.Interface, podCIDR netip.Prefix, nodeBits int, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	if nodeBits < podCIDR.Bits() || nodeBits > podCIDR.Addr().BitLen()-2 {
		return nil, fmt.Errorf("%s: node prefix length %d does not fit into %s", name, nodeBits, podCIDR)
	}
	nodes := source.For(corev1.SchemeGroupVersion.WithResource("nodes"), &corev1.Node{})
	r := &reconciler{client: client, nodes: corelisters.NewNodeLister(nodes.GetIndexer()), pool: newPool(podCIDR.Masked(), nodeBits)}
	_, err := nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    r.note,
		UpdateFunc: func(_, obj any) { r.note(obj) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if n, ok := obj.(*corev1.Node); ok {
				r.pool.release(n.Name)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	// One worker: two nodes never race for one network.
	c := engine.NewController(r, 1, log)
	return c, c.Watch(nodes, engine.Self)
}

func (r *reconciler) Name() string { return name }

func (r *reconciler) note(obj any) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return
	}
	for _, cidr := range n.Spec.PodCIDRs {
		if prefix, err := netip.ParsePrefix(cidr); err == nil {
			r.pool.hold(n.Name, prefix)
		}
	}
}

func (r *reconciler) Reconcile(ctx context.Context, nodeName string) error {
	n, err := r.nodes.Get(nodeName)
	if apierrors.IsNotFound(err) || (err == nil && len(n.Spec.PodCIDRs) > 0) {
		return nil
	}
	if err != nil {
		return err
	}
	prefix, err := r.pool.take(nodeName)
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": n.UID},
		"spec":     map[string]any{"podCIDR": prefix.String(), "podCIDRs": []string{prefix.String()}}})
	if err != nil {
		return err
	}
	_, err = r.client.CoreV1().Nodes().Patch(ctx, nodeName, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		r.pool.release(nodeName) // its deletion may have been seen before it took one
		return nil
	}
	if err != nil {
		return fmt.Errorf("give %s to node %s: %w", prefix, nodeName, err)
	}
	return nil
}

// pool knows which networks are taken, by node.
type pool struct {
	cidr netip.Prefix
	bits int

	mu    sync.Mutex
	taken map[netip.Prefix]string // guarded by mu
}

func newPool(cidr netip.Prefix, bits int) *pool {
	return &pool{cidr: cidr, bits: bits, taken: map[netip.Prefix]string{}}
}

func (p *pool) hold(node string, prefix netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken[prefix] = node
}

func (p *pool) release(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for prefix, holder := range p.taken {
		if holder == node {
			delete(p.taken, prefix)
		}
	}
}

// take returns the node's network, or the first that is free.
func (p *pool) take(node string) (netip.Prefix, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for prefix, holder := range p.taken {
		if holder == node {
			return prefix, nil
		}
	}
	for prefix := netip.PrefixFrom(p.cidr.Addr(), p.bits); p.cidr.Contains(prefix.Addr()); prefix = next(prefix) {
		if _, ok := p.taken[prefix]; !ok {
			p.taken[prefix] = node
			return prefix, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("%w (%s in /%d)", ErrExhausted, p.cidr, p.bits)
}

// next is the network after prefix; after the last there is the zero prefix.
func next(prefix netip.Prefix) netip.Prefix {
	raw := prefix.Addr().As16()
	bit := prefix.Bits()
	if prefix.Addr().Is4() {
		bit += 96
	}
	for i := (bit - 1) / 8; i >= 0; i-- {
		step := byte(1)
		if i == (bit-1)/8 {
			step = 1 << (7 - (bit-1)%8)
		}
		raw[i] += step
		if raw[i] >= step {
			break
		}
	}
	addr := netip.AddrFrom16(raw)
	if prefix.Addr().Is4() {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, prefix.Bits())
}
