package netproxy_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/miekg/dns"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	fcache "k8s.io/client-go/tools/cache/testing"

	"github.com/rutter-project/rutter/netproxy"
	"github.com/rutter-project/rutter/netproxy/datapath"
	"github.com/rutter-project/rutter/netproxy/internal/lab"
)

const dnsVIP = "10.96.0.10:53"

// world is the API's objects, and informers on them.
type world struct {
	services, slices, nodes *fcache.FakeControllerSource
	informers               map[string]cache.SharedIndexInformer
}

func newWorld(t testing.TB) *world {
	t.Helper()
	source := func() *fcache.FakeControllerSource {
		s := fcache.NewFakeControllerSource()
		t.Cleanup(s.Shutdown)
		return s
	}
	return &world{services: source(), slices: source(), nodes: source()}
}

func (w *world) Services() cache.SharedIndexInformer       { return w.informers["services"] }
func (w *world) EndpointSlices() cache.SharedIndexInformer { return w.informers["slices"] }
func (w *world) Nodes() cache.SharedIndexInformer          { return w.informers["nodes"] }

// follow starts new informers, as a process does.
func (w *world) follow(ctx context.Context) (done func()) {
	w.informers = map[string]cache.SharedIndexInformer{
		"services": cache.NewSharedIndexInformer(w.services, &corev1.Service{}, 0, nil),
		"slices":   cache.NewSharedIndexInformer(w.slices, &discoveryv1.EndpointSlice{}, 0, nil),
		"nodes":    cache.NewSharedIndexInformer(w.nodes, &corev1.Node{}, 0, nil),
	}
	ended := make(chan struct{})
	for _, i := range w.informers {
		go func() {
			i.RunWithContext(ctx)
			ended <- struct{}{}
		}()
	}
	return func() {
		for range w.informers {
			<-ended
		}
	}
}

func node(name string, cidrs ...string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}
}

func service(name, ip string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			ClusterIP: ip, ClusterIPs: []string{ip},
			Ports: []corev1.ServicePort{{Name: "http", Port: 8080, Protocol: corev1.ProtocolTCP}},
		},
	}
}

func slice(service string, ips ...netip.Addr) *discoveryv1.EndpointSlice {
	name, port, proto := "http", int32(80), corev1.ProtocolTCP
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}},
	}
	for _, ip := range ips {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip.String()}})
	}
	return s
}

// process is a running Proxy.
type process struct {
	*netproxy.Proxy
	kill func()
}

func run(t testing.TB, w *world, cfg netproxy.Config) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := w.follow(ctx)
	p, err := netproxy.New(cfg, w, zerolog.New(zerolog.NewTestWriter(t)))
	require.NoError(t, err)
	result := make(chan error, 1)
	go func() { result <- p.Run(ctx) }()
	killed := false
	out := &process{Proxy: p, kill: func() {
		if killed {
			return
		}
		killed = true
		cancel()
		require.NoError(t, <-result)
		ended()
	}}
	t.Cleanup(out.kill)
	select {
	case <-p.Ready():
	case err := <-result:
		cancel()
		t.Fatalf("not ready: %v", err)
	}
	return out
}

func config(t testing.TB, n *lab.Node) netproxy.Config {
	t.Helper()
	cfg, err := netproxy.DefaultConfig(n.Config.Node, t.TempDir())
	require.NoError(t, err)
	cfg.Datapath = n.Config
	cfg.Datapath.PodCIDRs = nil
	cfg.DNS.ResolvConf = ""
	t.Cleanup(func() { require.NoError(t, netproxy.Destroy(cfg)) })
	return cfg
}

func attach(t testing.TB, p *process, n *lab.Node, name string) (netproxy.PodNetwork, *lab.Process) {
	t.Helper()
	got, err := p.Attach(t.Context(), netproxy.PodRef{UID: "uid-" + name, Namespace: "default", Name: name})
	require.NoError(t, err)
	return got, lab.Start(t, got.NetNSPath, n.Config.Cgroup)
}

// eventually waits for an informer's event to have come through.
func eventually(t *testing.T, check func() bool) {
	t.Helper()
	require.Eventually(t, check, 5*time.Second, 5*time.Millisecond)
}

func TestServiceByNameAcrossRestart(t *testing.T) {
	n := lab.NewNode(t, "10.244.7.0/24", "fd44:0:0:7::/64")
	cfg := config(t, n)
	w := newWorld(t)
	w.nodes.Add(node(n.Config.Node, "10.244.7.0/24", "fd44:0:0:7::/64"))
	w.services.Add(service("web", "10.96.0.77"))
	p := run(t, w, cfg)
	one, server1 := attach(t, p, n, "one")
	two, server2 := attach(t, p, n, "two")
	_, client := attach(t, p, n, "client")
	require.Len(t, one.IPs, 2)
	server1.Serve("tcp", ":80", "one")
	server2.Serve("tcp", ":80", "two")

	a := client.Open("tcp", "10.96.0.77:8080")
	require.Contains(t, a.Err, "refused")
	w.slices.Add(slice("web", one.IPs[0], two.IPs[0]))
	eventually(t, func() bool { return len(client.Many("tcp", "10.96.0.77:8080", 20)) == 2 })

	for _, network := range []string{"udp", "tcp"} {
		got := client.Ask(network, dnsVIP, "web.default.svc.cluster.local", dns.TypeA)
		require.Len(t, got, 1)
		require.True(t, strings.HasSuffix(got[0], "10.96.0.77"), got[0])
	}
	require.Equal(t, []string{"NXDOMAIN"}, client.Ask("udp", dnsVIP, "none.default.svc.cluster.local", dns.TypeA))

	kept := client.Open("tcp", "10.96.0.77:8080")
	require.Empty(t, kept.Err)
	p.kill()
	require.Empty(t, client.RoundTrip(kept.Conn).Err, "without a process")
	require.Len(t, client.Many("tcp", "10.96.0.77:8080", 20), 2, "without a process")

	w.slices.Modify(slice("web", two.IPs[0])) // while nobody looks
	p = run(t, w, cfg)
	require.Empty(t, client.RoundTrip(kept.Conn).Err)
	require.Equal(t, map[string]int{"two": 10}, client.Many("tcp", "10.96.0.77:8080", 10))
	again, err := p.Attach(t.Context(), netproxy.PodRef{UID: "uid-one", Namespace: "default", Name: "one"})
	require.NoError(t, err)
	require.Equal(t, one, again, "a pod keeps what it has")
	require.Len(t, client.Ask("udp", dnsVIP, "web.default.svc.cluster.local", dns.TypeA), 1)
}

func TestDetachAndDestroyLeaveNothing(t *testing.T) {
	n := lab.NewNode(t, "10.244.7.0/24", "fd44:0:0:7::/64")
	cfg := config(t, n)
	w := newWorld(t)
	w.nodes.Add(node(n.Config.Node, "10.244.7.0/24", "fd44:0:0:7::/64"))
	w.services.Add(service("web", "10.96.0.77"))
	p := run(t, w, cfg)
	h := lab.Handle(t, n.Config.NetNS)
	var ips [][]netip.Addr
	for _, name := range []string{"one", "two"} {
		got, err := p.Attach(t.Context(), netproxy.PodRef{UID: "uid-" + name, Namespace: "default", Name: name})
		require.NoError(t, err)
		ips = append(ips, got.IPs)
	}
	require.NotEqual(t, ips[0], ips[1])
	require.NoError(t, p.Detach(t.Context(), "uid-one"))
	require.NoError(t, p.Detach(t.Context(), "uid-one"), "twice is no error")
	pods, err := p.Attached(t.Context())
	require.NoError(t, err)
	require.Len(t, pods, 1)
	next, err := p.Attach(t.Context(), netproxy.PodRef{UID: "uid-three", Namespace: "default", Name: "three"})
	require.NoError(t, err)
	require.NotEqual(t, ips[0], next.IPs, "an address rests before it is given again")
	p.kill()
	_, err = p.Attach(t.Context(), netproxy.PodRef{UID: "uid-four", Namespace: "default", Name: "four"})
	require.ErrorContains(t, err, "stopped")

	require.NoError(t, netproxy.Destroy(cfg))
	eventually(t, func() bool { // namespaces go asynchronously
		links, err := h.LinkList()
		return err == nil && len(links) == 1
	})
	routes, err := h.RouteList(nil, 0)
	require.NoError(t, err)
	for _, r := range routes {
		require.NotEqual(t, 82, int(r.Protocol), "%v", r)
	}
	for _, path := range []string{
		filepath.Join(cfg.Datapath.BPFFS, "rutter", n.Config.Node), cfg.StateDir,
		filepath.Join(cfg.Datapath.RunDir, "netns"), cfg.Datapath.Cgroup,
	} {
		_, err := os.Stat(path)
		require.ErrorIs(t, err, os.ErrNotExist, path)
	}
	require.NoError(t, datapath.InNetNS(n.Config.NetNS, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := c.ListTables()
		require.Empty(t, tables)
		return err
	}))
	require.NoError(t, netproxy.Destroy(cfg), "twice is no error")
}

func TestAttachSaysWhyItWaits(t *testing.T) {
	n := lab.NewNode(t, "10.244.7.0/24")
	p, err := netproxy.New(config(t, n), newWorld(t), zerolog.Nop())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = p.Attach(ctx, netproxy.PodRef{UID: "u", Namespace: "ns", Name: "p"})
	require.ErrorContains(t, err, "not ready (pod range assigned: false)")
}
