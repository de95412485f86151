package kinds

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	restful "github.com/emicklei/go-restful/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	apiserverapi "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubernetes/pkg/controller/serviceaccount"
	kubeauthenticator "k8s.io/kubernetes/pkg/kubeapiserver/authenticator"
	kubeauthorizer "k8s.io/kubernetes/pkg/kubeapiserver/authorizer"
	"k8s.io/kubernetes/pkg/kubeapiserver/authorizer/modes"
	"k8s.io/kubernetes/pkg/routes"
	serviceaccounttoken "k8s.io/kubernetes/pkg/serviceaccount"
	"k8s.io/kubernetes/plugin/pkg/auth/authenticator/token/bootstrap"
)

// TokenGenerator signs service-account tokens.
type TokenGenerator = serviceaccounttoken.TokenGenerator

// Tokens returns a generator of tokens by issuer, signed with key (*ecdsa.PrivateKey
// or *rsa.PrivateKey).
func Tokens(issuer string, key any) (TokenGenerator, error) {
	return serviceaccounttoken.JWTTokenGenerator(issuer, key)
}

// SecretTokens signs tokens for Secrets: each names its account and its Secret, and has no
// end of its own.
func SecretTokens(key any) (func(context.Context, *corev1.ServiceAccount, *corev1.Secret) (string, error), error) {
	generator, err := Tokens(serviceaccounttoken.LegacyIssuer, key)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	return func(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
		public, private := serviceaccounttoken.LegacyClaims(*account, *secret)
		return generator.GenerateToken(ctx, public, private)
	}, nil
}

// IssuerServices serve the discovery documents of the service-account issuer (OpenID
// Connect Discovery 1.0, section 3) and its public keys.
func IssuerServices(issuer, address string, publicKeys []any) ([]*restful.WebService, error) {
	keys, err := serviceaccounttoken.StaticPublicKeysGetter(publicKeys)
	if err != nil {
		return nil, fmt.Errorf("service-account keys: %w", err)
	}
	provider, err := serviceaccounttoken.NewOpenIDMetadataProvider(issuer, "", address, keys)
	if err != nil {
		return nil, err
	}
	return issuerServices(provider), nil
}

// IssuerDescription are the same services for OpenAPI alone; they can't be called.
func IssuerDescription() []*restful.WebService { return issuerServices(nil) }

func issuerServices(provider serviceaccounttoken.OpenIDMetadataProvider) []*restful.WebService {
	container := Container()
	routes.NewOpenIDMetadataServer(provider).Install(container)
	return container.RegisteredWebServices()
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
	// BootstrapTokens accepts the tokens in kube-system's Secrets of their type.
	BootstrapTokens bool
	// File is the path of an AuthenticationConfiguration; empty for none.
	File string
}

// anonymousPaths may be read by anyone: whether the server is up, and its version.
var anonymousPaths = []string{"/healthz", "/livez", "/readyz", "/version"}

// Authentication accepts client certificates, service-account tokens bound to live
// objects, and what the configuration adds; without credentials only health and version
// are reachable, unless the file says otherwise.
func Authentication(ctx context.Context, c AuthenticationConfig) (*Authenticator, error) {
	keys, err := serviceaccounttoken.StaticPublicKeysGetter(c.PublicKeys)
	if err != nil {
		return nil, fmt.Errorf("service-account keys: %w", err)
	}
	var conditions []apiserverapi.AnonymousAuthCondition
	for _, path := range anonymousPaths {
		conditions = append(conditions, apiserverapi.AnonymousAuthCondition{Path: path})
	}
	file := authenticationFile{AuthenticationConfiguration: &apiserverapi.AuthenticationConfiguration{}}
	if c.File != "" {
		if file, err = readAuthentication(c.File, c.Issuer); err != nil {
			return nil, err
		}
	}
	anonymous := apiserverapi.AnonymousAuthConfig{Enabled: true, Conditions: conditions}
	if file.Anonymous != nil {
		anonymous = *file.Anonymous
	}
	core, webhooks := c.Informers.Core().V1(), c.Informers.Admissionregistration().V1()
	cfg := kubeauthenticator.Config{
		Anonymous:                      anonymous,
		BootstrapToken:                 c.BootstrapTokens,
		BootstrapTokenAuthenticator:    bootstrap.NewTokenAuthenticator(core.Secrets().Lister().Secrets(metav1.NamespaceSystem)),
		AuthenticationConfig:           file.AuthenticationConfiguration,
		AuthenticationConfigData:       file.data,
		OIDCSigningAlgs:                oidc.AllValidSigningAlgorithms(),
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
	request, update, _, _, err := cfg.New(ctx)
	return &Authenticator{Request: request, issuer: c.Issuer, server: c.ServerID, file: file, update: update}, err
}

// authorizationBackoff is how often a webhook that does not answer is asked again; as
// kube-apiserver does.
var authorizationBackoff = wait.Backoff{Duration: 500 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 5}

// Authorization is system:masters, then the Node authorizer, then RBAC; or, after
// system:masters, what the AuthorizationConfiguration in file says, now and whenever it
// changes.
func Authorization(ctx context.Context, serverID string, factory informers.SharedInformerFactory, file string) (authorizer.Authorizer, authorizer.RuleResolver, error) {
	cfg := kubeauthorizer.Config{
		VersionedInformerFactory: factory,
		AuthorizationConfiguration: &apiserverapi.AuthorizationConfiguration{Authorizers: []apiserverapi.AuthorizerConfiguration{
			{Type: apiserverapi.AuthorizerType(modes.ModeNode), Name: "node"},
			{Type: apiserverapi.AuthorizerType(modes.ModeRBAC), Name: "rbac"},
		}},
	}
	if file != "" {
		var err error
		cfg.ReloadFile, cfg.WebhookRetryBackoff = file, &authorizationBackoff
		if cfg.AuthorizationConfiguration, cfg.InitialAuthorizationConfigurationData, err = readAuthorization(file); err != nil {
			return nil, nil, err
		}
	}
	return cfg.New(ctx, serverID)
}

// insecureProxyTLS is for connections to workloads, whose certificates are their own.
func insecureProxyTLS() *tls.Config { return &tls.Config{InsecureSkipVerify: true} } //nolint:gosec // as upstream's proxy subresources
