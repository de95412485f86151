package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/rs/zerolog"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/conversion"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/rutter-project/rutter/apiserver/internal/audit"
	"github.com/rutter-project/rutter/apiserver/internal/customresources"
	"github.com/rutter-project/rutter/apiserver/internal/history"
	"github.com/rutter-project/rutter/apiserver/internal/kinds"
	"github.com/rutter-project/rutter/apiserver/internal/serve"
	"github.com/rutter-project/rutter/apiserver/internal/store"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas/bundle"
)

// recordingReader is who reads a recording: whoever has reached the handler.
var recordingReader = &user.DefaultInfo{Name: "reader", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}

// recording serves what was recorded. Nothing it is made of reaches out of the process:
// requests read the past, so that stores never ask etcd, and what would be asked over the
// network is refused.
type recording struct {
	stores *stores
	client *kubernetes.Clientset
	access authorizer.Authorizer
	rules  authorizer.RuleResolver
}

// OpenRecording returns a handler that serves a bundle as a read-only API server: its end,
// and below /at and /history every instant in it. It has no access control of its own, and
// takes the bundle over. Nothing runs, and nothing has to be closed.
func OpenRecording(ctx context.Context, b *bundle.Bundle, address string, log zerolog.Logger) (http.Handler, error) {
	recorded, err := history.NewRecording(b)
	if err != nil {
		return nil, err
	}
	present := view.New(recorded.WaitFor)
	if err := recorded.Present(ctx, present); err != nil {
		return nil, fmt.Errorf("state at the end of the recording: %w", err)
	}
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://recording", Dial: refuseDial})
	if err != nil {
		return nil, err
	}
	allow := authorizerfactory.NewAlwaysAllowAuthorizer()
	r := &recording{client: client, access: allow, rules: allow}
	cfg := DefaultConfig()
	r.stores = &stores{cfg: cfg, view: present, leases: store.NewLeases(nil), sealer: nothingSealed{}, opened: map[schema.GroupVersionResource]*store.Store{}}
	api, err := r.install(cfg)
	if err != nil {
		return nil, err
	}
	custom, then, err := r.custom()
	if err != nil {
		return nil, err
	}
	trail, err := audit.New(audit.DefaultConfig())
	if err != nil {
		return nil, err
	}
	health := &serve.Health{}
	health.Add(serve.Check{Name: "ping", Run: func(context.Context) error { return nil }})
	return serve.New(serve.Config{
		API: api, Authenticator: authenticator.RequestFunc(anybody), Authorizer: r.access, Audiences: audiences,
		Health: health, Address: address, Stored: r.stores.asStored(api),
		Custom: custom, CustomAt: func(ctx context.Context) (serve.Custom, string) { return then.at(ctx, custom) },
		Front:   func(next http.Handler) http.Handler { return next },
		History: history.New(recorded.Parts(present), history.DefaultConfig(), log), Ended: fmt.Sprintf("rev-%d", b.Header.To.Rev), Audit: trail,
	})
}

func anybody(*http.Request) (*authenticator.Response, bool, error) {
	return &authenticator.Response{Audiences: audiences, User: recordingReader}, true, nil
}

var errRecording = errors.New("this is a recording: nothing behind it can be asked")

func refuseDial(context.Context, string, string) (net.Conn, error) { return nil, errRecording }

// install makes the built-in kinds. What of them writes is never asked.
func (r *recording) install(cfg Config) (*kinds.API, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tokens, err := kinds.Tokens(Issuer, key)
	if err != nil {
		return nil, err
	}
	return kinds.Install(kinds.Config{
		Storage: r.stores, RawStorage: r.stores.raw, Client: r.client, Informers: informers.NewSharedInformerFactory(r.client, 0), Admission: presentAdmission{admission.NewChainHandler()},
		Authenticator: authenticator.RequestFunc(anybody), Authorizer: r.access, Reviews: readOnlyInPast{r.access}, Rules: readRulesInPast{r.rules},
		Instant: view.InstantOf, Present: view.WithoutPast, Tokens: tokens, Audiences: audiences,
		ReadOnly: true, EventTTL: cfg.EventTTL, NodePorts: cfg.NodePorts, MaxRequestBytes: maxRequestBytes, MinRequestTimeout: minRequestTimeout,
	})
}

// custom serves the kinds that are defined at the end, and at other instants.
func (r *recording) custom() (custom, *thens, error) {
	definitions := r.stores.of(apiextensions.SchemeGroupVersion.WithResource("customresourcedefinitions"))
	if definitions == nil {
		return custom{}, nil, errNoDefinitions
	}
	converters, err := conversion.NewCRConverterFactory(nil, func(webhook.AuthenticationInfoResolver) webhook.AuthenticationInfoResolver { return noWebhooks{} })
	if err != nil {
		return custom{}, nil, fmt.Errorf("conversion webhooks: %w", err)
	}
	config := customresources.Config{
		Source: customresources.Then(definitions.Table(), definitions.Prefix()), Open: r.stores.custom, Prefix: prefixOf, Converters: converters,
		Admission: presentAdmission{admission.NewChainHandler()}, Authorizer: r.access, MaxRequestBytes: maxRequestBytes, MinRequestTimeout: minRequestTimeout,
	}
	return custom{customresources.New(config)}, &thens{config: config, prefix: definitions.Prefix(), present: definitions.Table(), made: map[string]custom{}}, nil
}

// noWebhooks refuses to call whatever a definition in a recording names.
type noWebhooks struct{}

// ClientConfigFor implements webhook.AuthenticationInfoResolver.
func (noWebhooks) ClientConfigFor(string) (*rest.Config, error) { return nil, errRecording }

// ClientConfigForService implements webhook.AuthenticationInfoResolver.
func (noWebhooks) ClientConfigForService(string, string, int) (*rest.Config, error) {
	return nil, errRecording
}

// nothingSealed serves Secrets as a recording has them: without their values.
type nothingSealed struct{}

// Seal implements store.Sealer.
func (nothingSealed) Seal(string, []byte) ([]byte, error) { return nil, errRecording }

// Open implements store.Sealer.
func (nothingSealed) Open(_ string, object []byte) ([]byte, bool, error) { return object, false, nil }
