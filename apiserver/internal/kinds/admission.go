package kinds

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	admissionmetrics "k8s.io/apiserver/pkg/admission/metrics"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	webhookinitializer "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	quota "k8s.io/apiserver/pkg/quota/v1"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	kubeadmission "k8s.io/kubernetes/pkg/kubeapiserver/admission"
	"k8s.io/kubernetes/pkg/kubeapiserver/admission/exclusion"
	quotainstall "k8s.io/kubernetes/pkg/quota/v1/install"
	certapproval "k8s.io/kubernetes/plugin/pkg/admission/certificates/approval"
	ctbattest "k8s.io/kubernetes/plugin/pkg/admission/certificates/ctbattest"
	certsigning "k8s.io/kubernetes/plugin/pkg/admission/certificates/signing"
	certsubject "k8s.io/kubernetes/plugin/pkg/admission/certificates/subjectrestriction"
	"k8s.io/kubernetes/plugin/pkg/admission/defaulttolerationseconds"
	"k8s.io/kubernetes/plugin/pkg/admission/limitranger"
	"k8s.io/kubernetes/plugin/pkg/admission/network/defaultingressclass"
	"k8s.io/kubernetes/plugin/pkg/admission/nodedeclaredfeatures"
	"k8s.io/kubernetes/plugin/pkg/admission/noderestriction"
	"k8s.io/kubernetes/plugin/pkg/admission/nodetaint"
	"k8s.io/kubernetes/plugin/pkg/admission/podresize"
	"k8s.io/kubernetes/plugin/pkg/admission/podtopologylabels"
	podpriority "k8s.io/kubernetes/plugin/pkg/admission/priority"
	"k8s.io/kubernetes/plugin/pkg/admission/runtimeclass"
	"k8s.io/kubernetes/plugin/pkg/admission/scheduling/podgroupprotection"
	"k8s.io/kubernetes/plugin/pkg/admission/security/podsecurity"
	"k8s.io/kubernetes/plugin/pkg/admission/serviceaccount"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/persistentvolume/resize"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/storageclass/setdefault"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/storageobjectinuseprotection"
)

// admissionPlugin is a plugin in the place where kube-apiserver 1.37 runs it.
type admissionPlugin struct {
	name     string
	register func(*admission.Plugins)
}

// admissionOrder is what kube-apiserver 1.37 enables by default, in its order, and
// NodeRestriction, which the Node authorizer needs.
var admissionOrder = []admissionPlugin{
	{lifecycle.PluginName, lifecycle.Register},
	{limitranger.PluginName, limitranger.Register},
	{serviceaccount.PluginName, serviceaccount.Register},
	{noderestriction.PluginName, noderestriction.Register},
	{nodetaint.PluginName, nodetaint.Register},
	{podsecurity.PluginName, podsecurity.Register},
	{podpriority.PluginName, podpriority.Register},
	{defaulttolerationseconds.PluginName, defaulttolerationseconds.Register},
	{setdefault.PluginName, setdefault.Register},
	{storageobjectinuseprotection.PluginName, storageobjectinuseprotection.Register},
	{podgroupprotection.PluginName, podgroupprotection.Register},
	{resize.PluginName, resize.Register},
	{runtimeclass.PluginName, runtimeclass.Register},
	{certapproval.PluginName, certapproval.Register},
	{certsigning.PluginName, certsigning.Register},
	{ctbattest.PluginName, ctbattest.Register},
	{certsubject.PluginName, certsubject.Register},
	{defaultingressclass.PluginName, defaultingressclass.Register},
	{podtopologylabels.PluginName, podtopologylabels.Register},
	{nodedeclaredfeatures.PluginName, nodedeclaredfeatures.Register},
	{podresize.PluginName, podresize.Register},
	{mutatingpolicy.PluginName, mutatingpolicy.Register},
	{mutatingwebhook.PluginName, mutatingwebhook.Register},
	{validatingpolicy.PluginName, validatingpolicy.Register},
	{validatingwebhook.PluginName, validatingwebhook.Register},
	{resourcequota.PluginName, resourcequota.Register},
}

// AdmissionConfig is what the admission chain works with.
type AdmissionConfig struct {
	ServerID   string
	Client     kubernetes.Interface
	Dynamic    dynamic.Interface
	Informers  informers.SharedInformerFactory
	Authorizer authorizer.Authorizer
	Mapper     meta.RESTMapper
	Services   webhook.ServiceResolver
	Webhooks   webhook.AuthenticationInfoResolverWrapper
	OpenAPI    *LocalOpenAPI
	// File is the path of an AdmissionConfiguration; empty for none.
	File string
}

// Admission builds the chain of default admission plugins. The context ends what the
// plugins run in the background.
func Admission(ctx context.Context, c AdmissionConfig) (admission.Interface, error) {
	configs, err := readAdmission(c.File)
	if err != nil {
		return nil, err
	}
	evaluators, err := quotainstall.NewQuotaConfigurationForAdmission(c.Informers, ResourceConfig())
	if err != nil {
		return nil, fmt.Errorf("quota evaluators: %w", err)
	}
	chain := admission.PluginInitializers{
		initializer.NewAPIServerIDInitializer(c.ServerID),
		initializer.New(withLocalOpenAPI{c.Client, c.OpenAPI}, c.Dynamic, c.Informers, c.Authorizer, utilfeature.DefaultFeatureGate,
			compatibility.DefaultBuildEffectiveVersion(), ctx.Done(), c.Mapper),
		webhookinitializer.NewPluginInitializer(c.Webhooks, c.Services),
		kubeadmission.NewPluginInitializer(),
		quotaAndExclusions{quota: evaluators},
	}
	plugins := admission.NewPlugins()
	var names []string
	for _, p := range admissionOrder {
		p.register(plugins)
		names = append(names, p.name)
	}
	handler, err := plugins.NewFromPlugins(names, configs, chain, admission.DecoratorFunc(admissionmetrics.WithControllerMetrics))
	if err != nil && c.File != "" {
		err = fmt.Errorf("admission configuration %s: %w", c.File, err)
	}
	if err != nil {
		return nil, err
	}
	return admissionmetrics.WithStepMetrics(admission.NewChainHandler(handler, unservedWarning{})), nil
}

// WebhookAuthentication is how webhooks are called: as nobody, but for those that are
// this server itself.
func WebhookAuthentication(loopback *rest.Config) (webhook.AuthenticationInfoResolverWrapper, error) {
	inside, err := rest.TransportFor(loopback)
	if err != nil {
		return nil, fmt.Errorf("transport to this server: %w", err)
	}
	self := rest.CopyConfig(loopback)
	self.Wrap(func(http.RoundTripper) http.RoundTripper {
		return loopbackTransport{host: strings.TrimPrefix(loopback.Host, "http://"), inside: inside}
	})
	transport := utilnet.SetTransportDefaults(&http.Transport{TLSClientConfig: insecureProxyTLS()})
	return webhook.NewDefaultAuthenticationInfoResolverWrapper(transport, nil, self, nil), nil
}

// loopbackTransport sends requests to this server, whatever address they are for. Webhooks
// are called over TLS, which there is none of inside the process.
type loopbackTransport struct {
	host   string
	inside http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t loopbackTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.Scheme, req.URL.Host = "http", t.host
	return t.inside.RoundTrip(req)
}

// quotaAndExclusions hands plugins the quota evaluators, and policies the resources
// they must not intercept.
type quotaAndExclusions struct{ quota quota.Configuration }

func (i quotaAndExclusions) Initialize(plugin admission.Interface) {
	if wants, ok := plugin.(initializer.WantsQuotaConfiguration); ok {
		wants.SetQuotaConfiguration(i.quota)
	}
	if wants, ok := plugin.(initializer.WantsExcludedAdmissionResources); ok {
		wants.SetExcludedAdmissionResources(exclusion.Excluded())
	}
}

// ResourceConfig says that every served version is enabled.
func ResourceConfig() *serverstorage.ResourceConfig {
	cfg := serverstorage.NewResourceConfig()
	cfg.EnableVersions(groupOrder...)
	return cfg
}
