package kinds

import (
	"net"
	"net/http"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/util/proxy"
	api "k8s.io/kubernetes/pkg/apis/core"
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
	"k8s.io/kubernetes/pkg/probe"
	"k8s.io/kubernetes/pkg/registry/core/componentstatus"
	configmapstore "k8s.io/kubernetes/pkg/registry/core/configmap/storage"
	endpointsstore "k8s.io/kubernetes/pkg/registry/core/endpoint/storage"
	eventstore "k8s.io/kubernetes/pkg/registry/core/event/storage"
	limitrangestore "k8s.io/kubernetes/pkg/registry/core/limitrange/storage"
	namespacestore "k8s.io/kubernetes/pkg/registry/core/namespace/storage"
	nodestore "k8s.io/kubernetes/pkg/registry/core/node/storage"
	pvstore "k8s.io/kubernetes/pkg/registry/core/persistentvolume/storage"
	pvcstore "k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim/storage"
	podstore "k8s.io/kubernetes/pkg/registry/core/pod/storage"
	podtemplatestore "k8s.io/kubernetes/pkg/registry/core/podtemplate/storage"
	rcstore "k8s.io/kubernetes/pkg/registry/core/replicationcontroller/storage"
	quotastore "k8s.io/kubernetes/pkg/registry/core/resourcequota/storage"
	secretstore "k8s.io/kubernetes/pkg/registry/core/secret/storage"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"
	servicestore "k8s.io/kubernetes/pkg/registry/core/service/storage"
	serviceaccountstore "k8s.io/kubernetes/pkg/registry/core/serviceaccount/storage"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// KubeletPort is where a node agent serves the kubelet API unless its Node says otherwise.
const KubeletPort = 10250

func (c Config) core() (resources, error) {
	b := newBuilder()
	add1[*eventstore.REST](b, "events")(eventstore.NewREST(c.Storage, uint64(c.EventTTL.Seconds())))
	add2[*quotastore.REST, *quotastore.StatusREST](b, "resourcequotas")(quotastore.NewREST(c.Storage))
	add3[*namespacestore.REST, *namespacestore.StatusREST, *namespacestore.FinalizeREST](b, "namespaces", "finalize")(namespacestore.NewREST(c.Storage))
	add1[*configmapstore.REST](b, "configmaps")(configmapstore.NewREST(c.Storage))
	add1[*podtemplatestore.REST](b, "podtemplates")(podtemplatestore.NewREST(c.Storage))
	add1[*limitrangestore.REST](b, "limitranges")(limitrangestore.NewREST(c.Storage))
	add2[*pvstore.REST, *pvstore.StatusREST](b, "persistentvolumes")(pvstore.NewREST(c.Storage))
	add2[*pvcstore.REST, *pvcstore.StatusREST](b, "persistentvolumeclaims")(pvcstore.NewREST(c.Storage))
	add1[*endpointsstore.REST](b, "endpoints")(endpointsstore.NewREST(c.Storage))
	if s, err := rcstore.NewStorage(c.Storage); b.keep(err) {
		b.r["replicationcontrollers"], b.r["replicationcontrollers/status"], b.r["replicationcontrollers/scale"] = s.Controller, s.Status, s.Scale
	}
	b.r["componentstatuses"] = componentstatus.NewStorage(c.componentServers)
	c.nodesAndPods(b)
	return b.done()
}

// nodesAndPods makes the storages that reach into the node agents, and those that
// need them.
func (c Config) nodesAndPods(b *builder) {
	transport := c.proxyTransport()
	node, err := nodestore.NewStorage(c.Storage, c.kubeletClient(), transport)
	if !b.keep(err) {
		return
	}
	b.r["nodes"], b.r["nodes/status"], b.r["nodes/proxy"] = node.Node, node.Status, node.Proxy
	pod, err := podstore.NewStorage(c.Storage, separateEnds{node.KubeletConnectionInfo}, transport, c.Client.PolicyV1(), c.Authorizer)
	if !b.keep(err) {
		return
	}
	b.r["bindings"] = pod.LegacyBinding
	b.r["pods"] = pod.Pod
	b.r["pods/attach"] = pod.Attach
	b.r["pods/binding"] = pod.Binding
	b.r["pods/ephemeralcontainers"] = pod.EphemeralContainers
	b.r["pods/eviction"] = pod.Eviction
	b.r["pods/exec"] = pod.Exec
	b.r["pods/log"] = pod.Log
	b.r["pods/portforward"] = pod.PortForward
	b.r["pods/proxy"] = pod.Proxy
	b.r["pods/resize"] = pod.Resize
	b.r["pods/status"] = pod.Status
	c.services(b, pod, transport)
	c.serviceAccounts(b, pod, node)
}

func (c Config) services(b *builder, pod podstore.PodStorage, transport http.RoundTripper) {
	ips, err := c.clusterIPs()
	if !b.keep(err) {
		return
	}
	ports, err := c.nodePorts()
	if !b.keep(err) {
		return
	}
	slices, err := proxy.NewEndpointSliceIndexerGetter(c.Informers.Discovery().V1().EndpointSlices())
	if !b.keep(err) {
		return
	}
	service, status, serviceProxy, err := servicestore.NewREST(c.Storage, api.IPv4Protocol,
		map[api.IPFamily]ipallocator.Interface{api.IPv4Protocol: ips}, ports, slices, pod.Pod, transport)
	if !b.keep(err) {
		return
	}
	b.r["services"], b.r["services/status"], b.r["services/proxy"] = service, status, serviceProxy
}

// clusterIPs is how Services get addresses.
func (c Config) clusterIPs() (ipallocator.Interface, error) {
	if c.ReadOnly {
		_, none, err := net.ParseCIDR("192.0.2.0/24") // for documentation
		if err != nil {
			return nil, err
		}
		return ipallocator.NewInMemory(none)
	}
	ips, err := ipallocator.NewMetaAllocator(c.Client.NetworkingV1(),
		c.Informers.Networking().V1().ServiceCIDRs(), c.Informers.Networking().V1().IPAddresses(), false, nil)
	if err != nil {
		return nil, err
	}
	ips.EnableMetrics()
	return ips, nil
}

func (c Config) nodePorts() (portallocator.Interface, error) {
	allocator, err := portallocator.New(c.NodePorts, c.allocations(nodePortAllocations))
	if err != nil {
		return nil, err
	}
	if !c.ReadOnly {
		allocator.EnableMetrics()
	}
	return allocator, nil
}

// tokensExtended is how long a pod's token holds that a kubelet asks for, as upstream has
// it: clients that read it only once go on working, and are counted. It ends with the pod.
const tokensExtended = serviceaccount.ExpirationExtensionSeconds * time.Second

func (c Config) serviceAccounts(b *builder, pod podstore.PodStorage, node *nodestore.NodeStorage) {
	secret, err := secretstore.NewREST(c.Storage)
	if !b.keep(err) {
		return
	}
	b.r["secrets"] = secret
	webhooks := c.Client.AdmissionregistrationV1()
	account, err := serviceaccountstore.NewREST(c.Storage, c.Tokens, c.Audiences, c.Authorizer, 0,
		pod.Pod.Store, secret.Store, node.Node.Store,
		webhooks.ValidatingWebhookConfigurations(), webhooks.MutatingWebhookConfigurations(), true, tokensExtended)
	if !b.keep(err) {
		return
	}
	b.r["serviceaccounts"], b.r["serviceaccounts/token"] = account, account.Token
}

func (c Config) kubeletClient() kubeletclient.KubeletClientConfig {
	return kubeletclient.KubeletClientConfig{
		Port:                  KubeletPort,
		PreferredAddressTypes: []string{string(api.NodeInternalIP), string(api.NodeHostName), string(api.NodeExternalIP)},
		TLSClientConfig: kubeletclient.KubeletTLSConfig{
			CertFile: c.KubeletClientCert, KeyFile: c.KubeletClientKey, CAFile: c.ClusterCA,
		},
	}
}

// proxyTransport is for the proxy subresources of pods, services and nodes. Their
// certificates are the workload's own, so they are not verified, as in upstream.
func (c Config) proxyTransport() http.RoundTripper {
	return utilnet.SetTransportDefaults(&http.Transport{
		DialContext:     (&net.Dialer{}).DialContext,
		TLSClientConfig: insecureProxyTLS(),
	})
}

// component answers for one part of the control plane in componentstatuses.
type component func() error

func (f component) DoServerCheck() (probe.Result, string, error) {
	if err := f(); err != nil {
		return probe.Failure, err.Error(), nil
	}
	return probe.Success, "ok", nil
}

func (c Config) componentServers() map[string]componentstatus.Server {
	servers := map[string]componentstatus.Server{}
	for name, check := range c.Components {
		servers[name] = component(check)
	}
	return servers
}
