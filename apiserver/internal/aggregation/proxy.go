package aggregation

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/httpstream" //nolint:staticcheck // deprecated, but client-go and apimachinery still speak in its types
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
	proxyutil "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/client-go/transport"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	listers "k8s.io/kube-aggregator/pkg/client/listers/apiregistration/v1"
)

// backends are the connections to aggregated servers.
type backends struct {
	services listers.APIServiceLister
	resolver *Resolver
	identity func() (cert, key []byte)

	mu   sync.Mutex
	open map[types.UID]*backend // guarded by mu
}

// backend is one aggregated server as its APIService describes it.
type backend struct {
	spec      apiregistration.APIServiceSpec
	identity  []byte // the certificate that is shown
	transport http.RoundTripper
	err       error // of making the transport
}

// of returns the APIService of a group version if another server serves it.
func (b *backends) of(gv schema.GroupVersion) (*apiregistration.APIService, bool) {
	service, err := b.services.Get(gv.Version + "." + gv.Group)
	if err != nil || service.Spec.Service == nil {
		return nil, false
	}
	return service, true
}

// backend returns the connection to an APIService's server, a new one if that or the front
// proxy's certificate changed.
func (b *backends) backend(service *apiregistration.APIService) *backend {
	b.mu.Lock()
	defer b.mu.Unlock()
	cert, key := b.identity()
	if old, ok := b.open[service.UID]; ok && bytes.Equal(old.identity, cert) && equality.Semantic.DeepEqual(old.spec, service.Spec) {
		return old
	}
	made := &backend{spec: service.Spec, identity: cert}
	made.transport, made.err = transport.New(&transport.Config{TLS: transport.TLSConfig{
		Insecure: service.Spec.InsecureSkipTLSVerify, CAData: service.Spec.CABundle,
		ServerName: service.Spec.Service.Name + "." + service.Spec.Service.Namespace + ".svc",
		CertData:   cert, KeyData: key,
	}})
	b.open[service.UID] = made
	return made
}

// only forgets the connections of services that are gone.
func (b *backends) only(present map[types.UID]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.open, func(uid types.UID, _ *backend) bool { return !present[uid] })
}

// address is where an APIService's server can be reached now.
func (b *backends) address(service *apiregistration.APIService) (*url.URL, error) {
	s := service.Spec.Service
	return b.resolver.ResolveEndpoint(s.Namespace, s.Name, *s.Port)
}

// get asks an aggregated server something for the API server itself.
func (b *backends) get(ctx context.Context, service *apiregistration.APIService, path, accept string) (*http.Response, error) {
	server := b.backend(service)
	if server.err != nil {
		return nil, server.err
	}
	address, err := b.address(service)
	if err != nil {
		return nil, err
	}
	address.Path = path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	transport.SetAuthProxyHeaders(req, "system:kube-aggregator", "", []string{"system:masters"}, nil)
	return server.transport.RoundTrip(req)
}

// Handler passes requests for aggregated groups on and leaves others to next.
func (a *Aggregator) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		gv, ok := versionOf(req.URL.Path)
		if !ok {
			next.ServeHTTP(w, req)
			return
		}
		service, ok := a.backends.of(gv)
		if !ok {
			next.ServeHTTP(w, req)
			return
		}
		a.pass(w, req, service)
	})
}

// versionOf reads the group version of a path below /apis.
func versionOf(path string) (schema.GroupVersion, bool) {
	parts := strings.SplitN(strings.Trim(path, "/"), "/", 4)
	if len(parts) < 3 || parts[0] != "apis" {
		return schema.GroupVersion{}, false
	}
	return schema.GroupVersion{Group: parts[1], Version: parts[2]}, true
}

const unavailable = "service unavailable"

// pass sends one request on.
func (a *Aggregator) pass(w http.ResponseWriter, req *http.Request, service *apiregistration.APIService) {
	user, ok := request.UserFrom(req.Context())
	if !ok {
		http.Error(w, "missing user", http.StatusInternalServerError)
		return
	}
	if !helper.IsAPIServiceConditionTrue(service, apiregistration.Available) {
		http.Error(w, unavailable, http.StatusServiceUnavailable)
		return
	}
	server := a.backends.backend(service)
	if server.err != nil {
		http.Error(w, fmt.Sprintf("connect to APIService %s: %v", service.Name, server.err), http.StatusInternalServerError)
		return
	}
	location, err := a.backends.address(service)
	if err != nil {
		http.Error(w, unavailable, http.StatusServiceUnavailable)
		return
	}
	location.Path, location.RawQuery = req.URL.Path, req.URL.Query().Encode()
	out, cancel := proxyutil.NewRequestForProxy(location, req)
	defer cancel()
	upgrade := httpstream.IsUpgradeRequest(req)
	if upgrade { // is dialled without the round tripper
		transport.SetAuthProxyHeaders(out, user.GetName(), user.GetUID(), user.GetGroups(), user.GetExtra())
	}
	signed := transport.NewAuthProxyRoundTripper(user.GetName(), user.GetUID(), user.GetGroups(), user.GetExtra(), server.transport)
	passer := proxy.NewUpgradeAwareHandler(location, signed, true, upgrade, responder{w})
	passer.RejectForwardingRedirects = true
	utilflowcontrol.RequestDelegated(req.Context())
	passer.ServeHTTP(w, out)
}

// responder answers when the other server does not.
type responder struct{ w http.ResponseWriter }

// Object implements rest.Responder.
func (r responder) Object(status int, obj runtime.Object) {
	responsewriters.WriteRawJSON(status, obj, r.w)
}

// Error implements rest.Responder.
func (r responder) Error(_ http.ResponseWriter, _ *http.Request, err error) {
	http.Error(r.w, err.Error(), http.StatusServiceUnavailable)
}
