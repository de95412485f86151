package apiserver

import (
	"context"
	"crypto/subtle"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"github.com/rutter-project/rutter/apiserver/internal/aggregation"
	"github.com/rutter-project/rutter/apiserver/internal/kinds"
	"github.com/rutter-project/rutter/apiserver/internal/policystatus"
	"github.com/rutter-project/rutter/apiserver/internal/serve"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/apiserver/pki"
)

// loopbackUser is the API server talking to itself.
var loopbackUser = &user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}

// handler builds access control, admission, the kinds and the HTTP side. Admission works
// until its own context ends.
func (s *Server) handler(ctx, admitting context.Context) (http.Handler, error) {
	keys, err := s.cfg.Access.tokenKeys(s.cfg.PKI)
	if err != nil {
		return nil, err
	}
	authn, err := s.authentication(ctx, keys.public)
	if err != nil {
		return nil, err
	}
	authz, rules, err := kinds.Authorization(ctx, s.cfg.ID, s.informers, s.cfg.Access.AuthorizationFile)
	if err != nil {
		return nil, err
	}
	tokens, err := kinds.Tokens(Issuer, keys.signing)
	if err != nil {
		return nil, err
	}
	may := access{authn: authn, authz: authz, rules: rules, tokens: tokens}
	s.guard.open(may, s.informers.Core().V1().Namespaces().Lister())
	installed, err := s.install(admitting, may)
	if err != nil {
		return nil, err
	}
	issuer, err := kinds.IssuerServices(Issuer, s.advertised(), keys.public)
	if err != nil {
		return nil, err
	}
	s.addChecks()
	return serve.New(serve.Config{
		API: installed, Authenticator: authn, Authorizer: authz, Audiences: audiences,
		Issuer: issuer, Health: s.health, Address: s.advertised(), Stored: s.stores.asStored(installed), Custom: s.extension, CustomAt: s.extension.at, Front: s.extension.front,
		History: s.history, Audit: s.audit, Metrics: s.metrics(), Flags: s.cfg.Flags,
		Flow: s.flow.control, Work: s.workEstimator(),
	})
}

// access is who may do what.
type access struct {
	authn  authenticator.Request
	authz  authorizer.Authorizer
	rules  authorizer.RuleResolver
	tokens kinds.TokenGenerator
}

func (s *Server) authentication(ctx context.Context, tokenKeys []any) (authenticator.Request, error) {
	others, err := kinds.Authentication(ctx, kinds.AuthenticationConfig{
		ServerID: s.cfg.ID, ClientCA: s.trust.clients, Issuer: Issuer, Audiences: audiences,
		PublicKeys: tokenKeys, Client: s.client, Informers: s.informers,
		BootstrapTokens: s.cfg.Access.BootstrapTokens, File: s.cfg.Access.AuthenticationFile,
	})
	if err != nil {
		return nil, err
	}
	s.identities = others
	loopback := bearertoken.New(authenticator.TokenFunc(func(_ context.Context, token string) (*authenticator.Response, bool, error) {
		if subtle.ConstantTimeCompare([]byte(token), []byte(s.loopbackToken)) != 1 {
			return nil, false, nil
		}
		return &authenticator.Response{Audiences: audiences, User: loopbackUser}, true, nil
	}))
	return newCertificates(union.New(loopback, others), s.trust.clients.Pool), nil
}

func (s *Server) install(ctx context.Context, a access) (*kinds.API, error) {
	dyn, err := dynamic.NewForConfig(s.clientConfig)
	if err != nil {
		return nil, err
	}
	mapping := &mapper{discovered: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(s.client.Discovery()))}
	documents := &kinds.LocalOpenAPI{}
	services, err := aggregation.NewResolver(s.informers)
	if err != nil {
		return nil, err
	}
	hooks := webhooks{services: services}
	if hooks.authentication, err = kinds.WebhookAuthentication(s.clientConfig); err != nil {
		return nil, err
	}
	admit, err := kinds.Admission(ctx, kinds.AdmissionConfig{
		ServerID: s.cfg.ID, Client: s.client, Dynamic: dyn, Informers: s.informers,
		Authorizer: a.authz, Mapper: mapping, Services: hooks.services, Webhooks: hooks.authentication, OpenAPI: documents,
		File: s.cfg.Access.AdmissionFile,
	})
	if err != nil {
		return nil, err
	}
	admit = presentAdmission{admit}
	kubelet, err := s.cfg.PKI.Issue(pki.Leaf{Name: "apiserver-kubelet-client", CommonName: "kube-apiserver-kubelet-client",
		Organizations: []string{user.SystemPrivilegedGroup}, Client: true})
	if err != nil {
		return nil, err
	}
	config := kinds.Config{
		Storage: s.stores, RawStorage: s.stores.raw, Client: s.client, Informers: s.informers, Admission: admit,
		Authenticator: a.authn, Authorizer: a.authz, Reviews: readOnlyInPast{a.authz}, Rules: readRulesInPast{a.rules}, Instant: view.InstantOf, Present: view.WithoutPast, Tokens: a.tokens, Audiences: audiences,
		EventTTL: s.cfg.EventTTL, NodePorts: s.cfg.NodePorts,
		ClusterCA: s.cfg.PKI.CAFile(), KubeletClientCert: kubelet.CertFile, KubeletClientKey: kubelet.KeyFile,
		Components:      map[string]func() error{"etcd-0": s.etcdHealthy},
		MaxRequestBytes: maxRequestBytes, MinRequestTimeout: minRequestTimeout,
	}
	installed, err := kinds.Install(config)
	if err != nil {
		return nil, err
	}
	if s.repairs, err = kinds.NewRepairs(config); err != nil {
		return nil, err
	}
	if s.extension, err = s.extend(hooks, admit, a.authz); err != nil {
		return nil, err
	}
	documents.Serve(installed, s.extension.OpenAPIV3)
	mapping.follow(s.extension.Generation)
	s.policies, err = policystatus.New(s.client, s.informers.Admissionregistration().V1().ValidatingAdmissionPolicies(),
		&validating.TypeChecker{SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: documents.Discovery(s.client.Discovery())}, RestMapper: mapping})
	return installed, err
}

// webhooks is how webhooks are found and called.
type webhooks struct {
	services       *aggregation.Resolver
	authentication webhook.AuthenticationInfoResolverWrapper
}

const etcdTimeout = 2 * time.Second

func (s *Server) etcdHealthy() error {
	ctx, cancel := context.WithTimeout(context.Background(), etcdTimeout)
	defer cancel()
	return s.pingEtcd(ctx)
}

// healthKey is read to see whether etcd answers; nothing is there.
const healthKey = "/rutter/health"

func (s *Server) pingEtcd(ctx context.Context) error {
	_, err := s.cfg.Etcd.Get(ctx, healthKey)
	return err
}
