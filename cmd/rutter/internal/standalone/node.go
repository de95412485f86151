package standalone

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/apiserver/pki"
	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/netproxy"
	"github.com/rutter-project/rutter/nodeagent"
	"github.com/rutter-project/rutter/schemas"
)

// node is this machine's node agent and network.
type node struct {
	name    string
	network *netproxy.Proxy
	agent   *nodeagent.Agent
	nodes   cache.SharedIndexInformer
}

func (c *Cluster) agentConfig() nodeagent.Config {
	cfg := nodeagent.DefaultConfig()
	cfg.NodeName = c.cfg.NodeName
	cfg.NodeIPs = []netip.Addr{c.cfg.Address}
	cfg.DataDir, cfg.RunDir, cfg.LogDir = c.cfg.DataDir, c.cfg.RunDir, c.cfg.podLogs()
	cfg.Listen = fmt.Sprintf(":%d", c.cfg.NodePort)
	return cfg
}

func (c *Cluster) networkConfig() (netproxy.Config, error) {
	cfg, err := netproxy.DefaultConfig(c.cfg.NodeName, c.cfg.DataDir)
	if err != nil {
		return cfg, err
	}
	cfg.Datapath.RunDir = c.cfg.networkRunDir()
	return cfg, nil
}

// newNode wires the node from the shared informers and the node's own identity.
func (c *Cluster) newNode() (*node, error) {
	identity := pki.Leaf{Name: "node-" + c.cfg.NodeName, CommonName: "system:node:" + c.cfg.NodeName, Organizations: []string{nodesGroup}, Client: true}
	api, err := c.connection(identity)
	if err != nil {
		return nil, err
	}
	api.UserAgent = "nodeagent/rutter"
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		return nil, err
	}
	serving, err := c.ca.Issue(pki.Leaf{Name: "node-" + c.cfg.NodeName + "-serving", CommonName: identity.CommonName, Organizations: identity.Organizations,
		Hosts: []string{c.cfg.NodeName, "127.0.0.1", c.cfg.Address.String()}, Server: true})
	if err != nil {
		return nil, err
	}
	informers := nodeInformers{c.informers}
	netCfg, err := c.networkConfig()
	if err != nil {
		return nil, err
	}
	network, err := netproxy.New(netCfg, informers, c.log)
	if err != nil {
		return nil, err
	}
	if err := prometheus.Register(network.Collector()); err != nil { // the API server's /metrics shows it
		return nil, fmt.Errorf("metrics of the network: %w", err)
	}
	cfg := c.agentConfig()
	cfg.CertFile, cfg.KeyFile, cfg.ClientCAFile = serving.CertFile, serving.KeyFile, c.ca.CAFile()
	agent, err := nodeagent.New(cfg, nodeagent.Dependencies{
		Client: client, Pods: podRoute{bus: c.bus, client: client}, Network: podNetwork{network},
		Changes: &objectChanges{informers: c.informers}, Services: corelisters.NewServiceLister(informers.Services().GetIndexer()),
		Log: c.log.With().Str("component", "nodeagent").Logger(),
	})
	if err != nil {
		return nil, err
	}
	return &node{name: c.cfg.NodeName, network: network, agent: agent, nodes: informers.Nodes()}, nil
}

// Run runs the network and the agent together; neither is of use alone.
func (n *node) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.network.Run(ctx) })
	g.Go(func() error { return n.agent.Run(ctx) })
	return g.Wait()
}

// WaitReady returns when the bus says that the node is Ready and its network works.
func (n *node) WaitReady(ctx context.Context) error {
	ready := make(chan struct{}, 1)
	check := func(obj any) {
		if node, ok := obj.(*corev1.Node); ok && node.Name == n.name && isReady(node) {
			select {
			case ready <- struct{}{}:
			default:
			}
		}
	}
	registered, err := n.nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: check, UpdateFunc: func(_, obj any) { check(obj) }})
	if err != nil {
		return err
	}
	defer func() { _ = n.nodes.RemoveEventHandler(registered) }()
	for _, wait := range []<-chan struct{}{n.agent.Ready(), n.network.Ready(), ready} {
		select {
		case <-wait:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func isReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// nodeInformers names the informers that a node reads.
type nodeInformers struct{ *bus.Informers }

func (i nodeInformers) Services() cache.SharedIndexInformer {
	return i.For(corev1.SchemeGroupVersion.WithResource("services"), &corev1.Service{})
}

func (i nodeInformers) EndpointSlices() cache.SharedIndexInformer {
	return i.For(discoveryv1.SchemeGroupVersion.WithResource("endpointslices"), &discoveryv1.EndpointSlice{})
}

func (i nodeInformers) Nodes() cache.SharedIndexInformer {
	return i.For(corev1.SchemeGroupVersion.WithResource("nodes"), &corev1.Node{})
}

// podNetwork gives the agent the network in its own words.
type podNetwork struct{ proxy *netproxy.Proxy }

func (n podNetwork) Attach(ctx context.Context, pod nodeagent.PodRef) (nodeagent.PodNetwork, error) {
	got, err := n.proxy.Attach(ctx, netproxy.PodRef{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels})
	return nodeagent.PodNetwork{IPs: got.IPs, NetNSPath: got.NetNSPath}, err
}

func (n podNetwork) Detach(ctx context.Context, uid string) error { return n.proxy.Detach(ctx, uid) }

// podRoute brings the agent the pods of its node, off the node's own subject.
type podRoute struct {
	bus    *bus.Client
	client kubernetes.Interface
}

func (r podRoute) Run(ctx context.Context, nodeName string, sink nodeagent.PodSink) error {
	list := func(ctx context.Context) ([]*corev1.Pod, int64, error) {
		got, err := r.client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
			FieldSelector: fields.OneTermEqualSelector("spec.nodeName", nodeName).String()})
		if err != nil {
			return nil, 0, err
		}
		pods := make([]*corev1.Pod, len(got.Items))
		for i := range got.Items {
			pods[i] = &got.Items[i]
		}
		rev, err := parseRevision(got.ResourceVersion)
		return pods, rev, err
	}
	return r.bus.NodeRoute(ctx, nodeName, list, routeSink{sink})
}

// routeSink gives the bus' events to the agent.
type routeSink struct{ nodeagent.PodSink }

func (s routeSink) Sync(pods []*corev1.Pod, rev int64) { s.Replace(pods, rev) }

func (s routeSink) Apply(e bus.RouteEvent) {
	switch e.Type {
	case schemas.Deleted, schemas.Left:
		s.Remove(e.Pod, e.Rev)
	default:
		s.Upsert(e.Pod, e.Rev)
	}
}

// objectChanges tells the agent which ConfigMaps, Secrets, ClusterTrustBundles and
// PodCertificateRequests changed.
type objectChanges struct{ informers *bus.Informers }

var errNoInformer = errors.New("informer could not be followed")

func (o *objectChanges) Run(ctx context.Context, changed func(nodeagent.ObjectRef), missed func()) error {
	watch := func(kind string, informer cache.SharedIndexInformer) (func(), error) {
		tell := func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if m, ok := obj.(metav1.Object); ok {
				changed(nodeagent.ObjectRef{Kind: kind, Namespace: m.GetNamespace(), Name: m.GetName()})
			}
		}
		registered, err := informer.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
			AddFunc: func(obj any, initial bool) {
				if !initial {
					tell(obj)
				}
			},
			UpdateFunc: func(_, obj any) { tell(obj) },
			DeleteFunc: tell,
		})
		return func() { _ = informer.RemoveEventHandler(registered) }, err
	}
	core := corev1.SchemeGroupVersion
	stopMaps, err1 := watch("ConfigMap", o.informers.For(core.WithResource("configmaps"), &corev1.ConfigMap{}))
	stopSecrets, err2 := watch("Secret", o.informers.For(core.WithResource("secrets"), &metav1.PartialObjectMetadata{}))
	stopBundles, err3 := watch("ClusterTrustBundle", o.informers.For(certificatesv1.SchemeGroupVersion.WithResource("clustertrustbundles"), &metav1.PartialObjectMetadata{}))
	stopRequests, err4 := watch("PodCertificateRequest", o.informers.For(certificatesv1.SchemeGroupVersion.WithResource("podcertificaterequests"), &metav1.PartialObjectMetadata{}))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return fmt.Errorf("%w: %w", errNoInformer, err)
	}
	defer stopMaps()
	defer stopSecrets()
	defer stopBundles()
	defer stopRequests()
	missed()
	<-ctx.Done()
	return nil
}

func parseRevision(resourceVersion string) (int64, error) {
	rev, err := strconv.ParseInt(resourceVersion, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resourceVersion %q of a list: %w", resourceVersion, err)
	}
	return rev, nil
}
