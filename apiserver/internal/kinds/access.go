package kinds

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"

	restful "github.com/emicklei/go-restful/v3"
	apiserverapi "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubernetes/pkg/controller/serviceaccount"
	kubeauthenticator "k8s.io/kubernetes/pkg/kubeapiserver/authenticator"
	kubeauthorizer "k8s.io/kubernetes/pkg/kubeapiserver/authorizer"
	"k8s.io/kubernetes/pkg/kubeapiserver/authorizer/modes"
	"k8s.io/kubernetes/pkg/routes"
	serviceaccounttoken "k8s.io/kubernetes/pkg/serviceaccount"
)

// TokenGenerator signs service-account tokens.
type TokenGenerator = serviceaccounttoken.TokenGenerator

// Tokens returns a generator of tokens by issuer, signed with key (*ecdsa.PrivateKey
// or *rsa.PrivateKey).
func Tokens(issuer string, key any) (TokenGenerator, error) {
	return serviceaccounttoken.JWTTokenGenerator(issuer, key)
}

// IssuerHandler serves the discovery documents of the service-account issuer (OpenID
// Connect Discovery 1.0, section 3) and its public keys.
func IssuerHandler(issuer, address string, publicKeys []any) (http.Handler, error) {
	keys, err := serviceaccounttoken.StaticPublicKeysGetter(publicKeys)
	if err != nil {
		return nil, fmt.Errorf("service-account keys: %w", err)
	}
	provider, err := serviceaccounttoken.NewOpenIDMetadataProvider(issuer, "", address, keys)
	if err != nil {
		return nil, err
	}
	container := restful.NewContainer()
	routes.NewOpenIDMetadataServer(provider).Install(container)
	return container, nil
}

// AuthenticationConfig says whom to believe.
type AuthenticationConfig struct {
	ServerID   string
	ClientCA   dynamiccertificates.CAContentProvider
	Issuer     string
	Audiences  authenticator.Audiences
	PublicKeys []any // of the service-account issuer
	Client     kubernetes.Interface
	Informers  informers.SharedInformerFactory
}

// anonymousPaths may be read by anyone: whether the server is up, and its version.
var anonymousPaths = []string{"/healthz", "/livez", "/readyz", "/version"}

// Authentication accepts client certificates and service-account tokens bound to live
// objects; without credentials only health and version are reachable.
func Authentication(ctx context.Context, c AuthenticationConfig) (authenticator.Request, error) {
	keys, err := serviceaccounttoken.StaticPublicKeysGetter(c.PublicKeys)
	if err != nil {
		return nil, fmt.Errorf("service-account keys: %w", err)
	}
	var conditions []apiserverapi.AnonymousAuthCondition
	for _, path := range anonymousPaths {
		conditions = append(conditions, apiserverapi.AnonymousAuthCondition{Path: path})
	}
	core, webhooks := c.Informers.Core().V1(), c.Informers.Admissionregistration().V1()
	cfg := kubeauthenticator.Config{
		Anonymous:                      apiserverapi.AnonymousAuthConfig{Enabled: true, Conditions: conditions},
		ServiceAccountLookup:           true,
		ServiceAccountIssuers:          []string{c.Issuer},
		APIAudiences:                   c.Audiences,
		ServiceAccountPublicKeysGetter: keys,
		ServiceAccountTokenGetter: serviceaccount.NewGetterFromClient(c.Client,
			core.Secrets().Lister(), core.ServiceAccounts().Lister(), core.Pods().Lister(), core.Nodes().Lister(),
			webhooks.ValidatingWebhookConfigurations().Lister(), webhooks.MutatingWebhookConfigurations().Lister()),
		SecretsWriter:           c.Client.CoreV1(),
		ClientCAContentProvider: c.ClientCA,
		APIServerID:             c.ServerID,
	}
	request, _, _, _, err := cfg.New(ctx)
	return request, err
}

// Authorization is system:masters, then the Node authorizer, then RBAC.
func Authorization(ctx context.Context, serverID string, factory informers.SharedInformerFactory) (authorizer.Authorizer, authorizer.RuleResolver, error) {
	cfg := kubeauthorizer.Config{
		VersionedInformerFactory: factory,
		AuthorizationConfiguration: &apiserverapi.AuthorizationConfiguration{Authorizers: []apiserverapi.AuthorizerConfiguration{
			{Type: apiserverapi.AuthorizerType(modes.ModeNode), Name: "node"},
			{Type: apiserverapi.AuthorizerType(modes.ModeRBAC), Name: "rbac"},
		}},
	}
	return cfg.New(ctx, serverID)
}

// insecureProxyTLS is for connections to workloads, whose certificates are their own.
func insecureProxyTLS() *tls.Config { return &tls.Config{InsecureSkipVerify: true} } //nolint:gosec // as upstream's proxy subresources
