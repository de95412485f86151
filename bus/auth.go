package bus

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"github.com/rutter-project/rutter/schemas"
)

const (
	nodeUserPrefix   = "system:node:"
	nodesGroup       = "system:nodes"
	coreUser         = "core"
	authorizeTimeout = 2 * time.Second
	defaultGrantTime = time.Hour
)

// authenticator decides who may connect and what they may do. Whatever it does
// not know, it denies.
type authenticator struct {
	server *Server
	core   map[string]bool
	log    zerolog.Logger // of what anybody may cause, and so bounded
}

// Check implements the server's Authentication.
func (a *authenticator) Check(c natsserver.ClientAuthentication) bool {
	user, err := a.user(c)
	if err != nil {
		a.log.Warn().Err(err).Str("remote", remoteOf(c)).Msg("connection to the bus denied")
		return false
	}
	c.RegisterUser(user)
	return true
}

func remoteOf(c natsserver.ClientAuthentication) string {
	if addr := c.RemoteAddress(); addr != nil {
		return addr.String()
	}
	return ""
}

// inProcess reports that the client is in this process: it came by a pipe.
func inProcess(c natsserver.ClientAuthentication) bool {
	addr := c.RemoteAddress()
	return addr == nil || addr.Network() == "pipe"
}

func (a *authenticator) user(c natsserver.ClientAuthentication) (*natsserver.User, error) {
	if c.Kind() != natsserver.CLIENT {
		return nil, errors.New("not a client")
	}
	opts := c.GetOpts()
	if inProcess(c) {
		return a.inProcessUser(opts.Username, opts.Password)
	}
	cert := certificateOf(c)
	if cert != nil && a.core[cert.Subject.CommonName] {
		return a.coreUser(cert.Subject.CommonName)
	}
	user, err := a.edgeUser(Credentials{Token: tokenOf(opts), Certificate: cert})
	if err != nil {
		return nil, err
	}
	if err := a.server.connections.take(user.Username, c.GetID(), a.server.open); err != nil {
		return nil, err
	}
	return user, nil
}

// edgeUser is a node or somebody whom the Authorizer knows.
func (a *authenticator) edgeUser(c Credentials) (*natsserver.User, error) {
	if c.Certificate != nil {
		node, ok := strings.CutPrefix(c.Certificate.Subject.CommonName, nodeUserPrefix)
		if ok && node != "" && slices.Contains(c.Certificate.Subject.Organization, nodesGroup) {
			return a.nodeUser(node)
		}
	}
	return a.grantedUser(c)
}

func (a *authenticator) inProcessUser(name, password string) (*natsserver.User, error) {
	want := a.server.password(name)
	if subtle.ConstantTimeCompare([]byte(want), []byte(password)) != 1 {
		return nil, errors.New("wrong in-process credential")
	}
	if node, ok := strings.CutPrefix(name, nodeUserPrefix); ok {
		return a.nodeUser(node)
	}
	return a.coreUser(name)
}

// password is the credential of an in-process user, which only this process can
// compute.
func (s *Server) password(user string) string {
	mac := hmac.New(sha256.New, []byte(s.secret))
	mac.Write([]byte(user))
	return hex.EncodeToString(mac.Sum(nil))
}

func (a *authenticator) coreUser(name string) (*natsserver.User, error) {
	account, err := a.server.nats.LookupAccount(accountCore)
	if err != nil {
		return nil, err
	}
	return &natsserver.User{Username: name, Account: account}, nil
}

// nodeUser may follow its own route, repair gaps in it, and ask for its last
// message.
func (a *authenticator) nodeUser(node string) (*natsserver.User, error) {
	account, err := a.server.nats.LookupAccount(accountEdge)
	if err != nil {
		return nil, err
	}
	return &natsserver.User{
		Username: nodeUserPrefix + node, Account: account, Permissions: nodePermissions(node),
	}, nil
}

func nodePermissions(node string) *natsserver.Permissions {
	token, route := schemas.EscapeToken(node), schemas.NodeRoute(node)
	return &natsserver.Permissions{
		Publish: &natsserver.SubjectPermission{Allow: []string{
			edgeAPI + ".CONSUMER.CREATE." + StreamHistory + "." + token + "." + route,
			edgeAPI + ".CONSUMER.MSG.NEXT." + StreamHistory + "." + token,
			edgeAPI + ".CONSUMER.DELETE." + StreamHistory + "." + token,
			edgeAPI + ".DIRECT.GET." + StreamLastN + "." + route,
		}},
		Subscribe: &natsserver.SubjectPermission{Allow: []string{
			schemas.LiveNodeRoute(node), LiveResync, nodeInbox(node) + ".>",
		}},
	}
}

// grantedUser asks the caller's Authorizer.
func (a *authenticator) grantedUser(c Credentials) (*natsserver.User, error) {
	if a.server.cfg.Authorize == nil {
		return nil, errors.New("no authorizer for other clients")
	}
	if c.Token == "" && c.Certificate == nil {
		return nil, errors.New("no credentials")
	}
	ctx, cancel := context.WithTimeout(context.Background(), authorizeTimeout)
	defer cancel()
	grant, err := a.server.cfg.Authorize(ctx, c)
	if err != nil {
		return nil, err
	}
	if len(grant.Filters) == 0 {
		return nil, errors.New("nothing is granted to user " + grant.User)
	}
	account, err := a.server.nats.LookupAccount(accountEdge)
	if err != nil {
		return nil, err
	}
	expires := grant.Expires
	if expires.IsZero() {
		expires = time.Now().Add(defaultGrantTime)
	}
	return &natsserver.User{
		Username: grant.User, Account: account, Permissions: tapPermissions(grant.User, grant.Filters), ConnectionDeadline: expires,
	}, nil
}

// tapPermissions lets a client follow the filters live and read their past. It may
// not ask for information on the stream: that can list the names of all objects.
// Consumers have random names, which is what keeps taps from reading each
// other's.
func tapPermissions(user string, filters []string) *natsserver.Permissions {
	publish := []string{
		edgeAPI + ".CONSUMER.MSG.NEXT." + StreamArchive + ".*",
		edgeAPI + ".CONSUMER.DELETE." + StreamArchive + ".*",
		edgeAPI + ".CONSUMER.INFO." + StreamArchive + ".*",
		edgeAPI + ".CONSUMER.CREATE." + StreamArchive + ".*." + schemas.ResyncSubject,
	}
	subscribe := []string{LiveResync, userInbox(user) + ".>"}
	for _, filter := range filters {
		publish = append(publish, edgeAPI+".CONSUMER.CREATE."+StreamArchive+".*."+filter)
		subscribe = append(subscribe, schemas.LiveRoot+filter)
	}
	return &natsserver.Permissions{
		Publish:   &natsserver.SubjectPermission{Allow: publish},
		Subscribe: &natsserver.SubjectPermission{Allow: subscribe},
	}
}

func certificateOf(c natsserver.ClientAuthentication) *x509.Certificate {
	state := c.GetTLSConnectionState()
	if state == nil || len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return nil
	}
	return state.VerifiedChains[0][0]
}

// tokenOf is the bearer token, which generic clients can send as a password too.
func tokenOf(opts *natsserver.ClientOpts) string {
	if opts.Token != "" {
		return opts.Token
	}
	return opts.Password
}

// nodeInbox and userInbox are where a client gets replies. They differ for every
// identity, so that nobody can listen to another's.
func nodeInbox(node string) string { return "_INBOX.n." + schemas.EscapeToken(node) }
func userInbox(user string) string { return "_INBOX.u." + schemas.EscapeToken(user) }
