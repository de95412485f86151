package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
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
	authn      authenticator.Request // guarded by mu
	authz      authorizer.Authorizer // guarded by mu
	namespaces corelisters.NamespaceLister
}

// grantLife is after how long a tap has to show its credentials again.
const grantLife = 10 * time.Minute

var (
	errNotServing  = errors.New("the API server does not serve yet")
	errNoIdentity  = errors.New("credentials are not known")
	errNothingOpen = errors.New("may watch no resource, in no namespace")
)

func (g *guard) open(authn authenticator.Request, authz authorizer.Authorizer, namespaces corelisters.NamespaceLister) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.authn, g.authz, g.namespaces = authn, authz, namespaces
}

// Authorize is a bus.Authorizer: whoever may watch everything reads everything, others
// read the namespaces in which they may watch everything.
func (s *Server) Authorize(ctx context.Context, c bus.Credentials) (bus.Grant, error) {
	g := &s.guard
	g.mu.Lock()
	authn, authz, namespaces := g.authn, g.authz, g.namespaces
	g.mu.Unlock()
	if authn == nil {
		return bus.Grant{}, errNotServing
	}
	who, err := identify(ctx, authn, c)
	if err != nil {
		return bus.Grant{}, err
	}
	grant := bus.Grant{User: who.GetName(), Expires: time.Now().Add(grantLife)}
	if mayWatch(ctx, authz, who, "") {
		grant.Filters = []string{schemas.SubjectRoot + ">"}
		return grant, nil
	}
	all, err := namespaces.List(labels.Everything())
	if err != nil {
		return bus.Grant{}, err
	}
	for _, ns := range all {
		if mayWatch(ctx, authz, who, ns.Name) {
			grant.Filters = append(grant.Filters, schemas.Filter(schemas.Key{
				Group: schemas.AnyToken, Resource: schemas.AnyToken, Namespace: ns.Name, Name: schemas.AnyToken}))
		}
	}
	if len(grant.Filters) == 0 {
		return bus.Grant{}, fmt.Errorf("%s %w", who.GetName(), errNothingOpen)
	}
	return grant, nil
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

func mayWatch(ctx context.Context, authz authorizer.Authorizer, who user.Info, namespace string) bool {
	decision, _, err := authz.Authorize(ctx, authorizer.AttributesRecord{
		User: who, Verb: "watch", APIGroup: "*", APIVersion: "*", Resource: "*", Namespace: namespace, ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}
