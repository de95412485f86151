package netproxy

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/netproxy/resolve"
)

// dnsPort is where clients ask.
const dnsPort = 53

// follow hands the informers' events to the feed and waits for the first lists.
func (p *Proxy) follow(ctx context.Context) (forget func(), err error) {
	var undo []func()
	forget = func() {
		for _, fn := range undo {
			fn()
		}
	}
	var synced []cache.DoneChecker
	for _, in := range []struct {
		informer cache.SharedIndexInformer
		handle   func(obj any, present bool)
	}{
		{p.informers.Services(), p.onService},
		{p.informers.EndpointSlices(), p.onSlice},
		{p.informers.Nodes(), p.onNode},
	} {
		reg, err := in.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { in.handle(obj, true) },
			UpdateFunc: func(_, obj any) { in.handle(obj, true) },
			DeleteFunc: func(obj any) { in.handle(obj, false) },
		})
		if err != nil {
			forget()
			return nil, fmt.Errorf("follow informer: %w", err)
		}
		undo = append(undo, func() {
			if err := in.informer.RemoveEventHandler(reg); err != nil {
				p.log.Warn().Err(err).Msg("informer not left cleanly")
			}
		})
		synced = append(synced, reg.HasSyncedChecker())
	}
	for _, s := range synced {
		select {
		case <-s.Done():
		case <-ctx.Done():
			return forget, nil // Run sees the end of the context next
		}
	}
	return forget, nil
}

func unwrap(obj any) any {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return gone.Obj
	}
	return obj
}

func (p *Proxy) onService(obj any, present bool) {
	svc, ok := unwrap(obj).(*corev1.Service)
	if !ok {
		return
	}
	name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	if !present {
		svc = nil
	}
	p.feed.setService(name, svc)
}

func (p *Proxy) onSlice(obj any, present bool) {
	if s, ok := unwrap(obj).(*discoveryv1.EndpointSlice); ok {
		p.feed.setSlice(s, present)
	}
}

func (p *Proxy) onNode(obj any, present bool) {
	if n, ok := unwrap(obj).(*corev1.Node); ok {
		p.feed.setNode(n, present)
	}
}

// awaitCIDRs waits until this node has been given its pod ranges.
func (p *Proxy) awaitCIDRs(ctx context.Context) ([]netip.Prefix, error) {
	for {
		if cidrs := p.feed.ownCIDRs(); len(cidrs) > 0 {
			return cidrs, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-p.feed.wake:
		}
	}
}

// withDNS replaces a service's port 53 on the DNS addresses by the node's own server.
func withDNS(svc resolve.Service, cfg DNSConfig, server []netip.AddrPort) resolve.Service {
	svc.Name = cfg.Service
	ports := make([]resolve.ServicePort, 0, len(svc.Ports)+2)
	for _, port := range svc.Ports {
		port.Fronts = slices.DeleteFunc(slices.Clone(port.Fronts), func(f resolve.Front) bool {
			return f.Port == dnsPort && slices.Contains(cfg.VIPs, f.Addr)
		})
		if len(port.Fronts) > 0 {
			ports = append(ports, port)
		}
	}
	for _, vip := range cfg.VIPs {
		for _, at := range server {
			if at.Addr().Is6() != vip.Is6() {
				continue
			}
			for _, proto := range []resolve.Protocol{resolve.TCP, resolve.UDP} {
				ports = append(ports, resolve.ServicePort{
					ID: resolve.PortID{
						Namespace: cfg.Service.Namespace, Name: cfg.Service.Name, Port: "/node/" + vip.String(),
						Protocol: proto, IPv6: vip.Is6(),
					},
					Fronts:  []resolve.Front{{Addr: vip, Port: dnsPort, Protocol: proto}},
					Cluster: []netip.AddrPort{at}, Serving: map[netip.AddrPort]bool{at: false},
				})
			}
		}
	}
	svc.Ports = ports
	return svc
}
