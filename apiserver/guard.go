package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/schemas"
)

// guard answers the bus' question who may read what, by the same credentials and the
// same RBAC as the API (invariant 9). It denies until the server is set up.
type guard struct {
	mu         sync.Mutex
	authn      authenticator.Request       // guarded by mu
	authz      authorizer.Authorizer       // guarded by mu
	rules      authorizer.RuleResolver     // guarded by mu
	namespaces corelisters.NamespaceLister // guarded by mu
}

// grantLife is after how long a tap has to show its credentials again.
const grantLife = 10 * time.Minute

var (
	errNotServing     = errors.New("the API server does not serve yet")
	errNoIdentity     = errors.New("credentials are not known")
	errWebhooksDecide = errors.New("is no member of system:masters, and with --authorization-config only they read the bus, since webhooks can't be asked in advance; use watches instead")
	errNothingOpen    = errors.New("may watch no resource, in no namespace")
)

func (g *guard) open(a access, namespaces corelisters.NamespaceLister) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.authn, g.authz, g.rules, g.namespaces = a.authn, a.authz, a.rules, namespaces
}

// Authorize is a bus.Authorizer: a client reads the events of exactly those objects that
// it may watch. What it may is looked up when it connects, and again after grantLife.
func (s *Server) Authorize(ctx context.Context, c bus.Credentials) (bus.Grant, error) {
	g := &s.guard
	g.mu.Lock()
	authn, authz, rules, namespaces := g.authn, g.authz, g.rules, g.namespaces
	g.mu.Unlock()
	if authn == nil {
		return bus.Grant{}, errNotServing
	}
	who, err := identify(ctx, authn, c)
	if err != nil {
		return bus.Grant{}, err
	}
	if s.cfg.Access.AuthorizationFile != "" && !slices.Contains(who.GetGroups(), user.SystemPrivilegedGroup) {
		return bus.Grant{}, fmt.Errorf("%s %w", who.GetName(), errWebhooksDecide)
	}
	grant := bus.Grant{User: who.GetName(), Expires: time.Now().Add(grantLife)}
	if mayWatchAll(ctx, authz, who) {
		grant.Filters = []string{schemas.AllObjects}
		return grant, nil
	}
	all, err := namespaces.List(labels.Everything())
	if err != nil {
		return bus.Grant{}, err
	}
	// A binding to a role that is not there is an error, and no reason to withhold what
	// other bindings grant; rules only ever add.
	cluster, _, _, _ := rules.RulesFor(ctx, who, "")
	byNamespace := make(map[string][]authorizer.ResourceRuleInfo, len(all))
	for _, ns := range all {
		byNamespace[ns.Name], _, _, _ = rules.RulesFor(ctx, who, ns.Name)
	}
	if grant.Filters, err = grantedFilters(cluster, byNamespace); err != nil {
		return bus.Grant{}, fmt.Errorf("%s %w", who.GetName(), err)
	}
	if len(grant.Filters) == 0 {
		return bus.Grant{}, fmt.Errorf("%s %w", who.GetName(), errNothingOpen)
	}
	return grant, ctx.Err()
}

// identify runs the API's authenticators on what the client showed.
func identify(ctx context.Context, authn authenticator.Request, c bus.Credentials) (user.Info, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
	if err != nil {
		return nil, err
	}
	if c.Token != "" {
		r.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if c.Certificate != nil {
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.Certificate}}
	}
	resp, ok, err := authn.AuthenticateRequest(r)
	switch {
	case err != nil:
		return nil, err
	case !ok || resp.User.GetName() == user.Anonymous:
		return nil, errNoIdentity
	}
	return resp.User, nil
}

// mayWatchAll is asked first, since system:masters is no rule of RBAC.
func mayWatchAll(ctx context.Context, authz authorizer.Authorizer, who user.Info) bool {
	decision, _, err := authz.Authorize(ctx, authorizer.AttributesRecord{
		User: who, Verb: "watch", APIGroup: "*", APIVersion: "*", Resource: "*", ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}
