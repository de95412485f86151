package bus

import (
	"fmt"
	"maps"
	"sync"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// What one user of the account EDGE may have, who may be an agent on every node of a large
// cluster: connections, of the maxConnections of all, and subscriptions over all of them.
const (
	maxConnectionsEach   = 10_000
	maxSubscriptionsEach = 20_000
)

const (
	// maxAwaited is how many answers the account EDGE may await before it is looked at who
	// asks for them. The server remembers each request for the next messages of a consumer,
	// with the subject to answer to, for two minutes, answered or not.
	maxAwaited = 20_000
	// maxRequests is how many requests one user may send in a second from then on.
	maxRequests = 500
	// keptOut is for how long who sends more can't connect: until what was asked for is
	// forgotten.
	keptOut = 2 * time.Minute
)

// connections are those of each user of the account EDGE.
type connections struct {
	max int // of one user; fixed but in tests

	mu sync.Mutex
	// of are the ids by user, as far as they may still be open, and out is until when a user
	// is kept out. Guarded by mu.
	of  map[string]map[uint64]bool
	out map[string]time.Time
}

func newConnections() *connections {
	return &connections{max: maxConnectionsEach, of: map[string]map[uint64]bool{}, out: map[string]time.Time{}}
}

// keepOut refuses all connections of a user until then.
func (c *connections) keepOut(user string, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out[user] = until
}

// take notes a connection of a user, and refuses more than one may have. open tells of an id
// whether the connection is still there.
func (c *connections) take(user string, id uint64, open func(uint64) bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until, ok := c.out[user]; ok {
		if time.Now().Before(until) {
			return fmt.Errorf("%s sent more than %d requests in a second and is kept out until %s", user, maxRequests, until.Format(time.RFC3339))
		}
		delete(c.out, user)
	}
	ids := c.of[user]
	if len(ids) >= c.max { // some may be gone; to look each time would make many connections slow
		maps.DeleteFunc(ids, func(known uint64, _ bool) bool { return !open(known) })
	}
	if len(ids) >= c.max {
		return fmt.Errorf("%s has %d connections to the bus, which is all that one user may have; close some", user, c.max)
	}
	if ids == nil {
		ids = map[uint64]bool{}
		c.of[user] = ids
	}
	ids[id] = true
	return nil
}

// open reports that a connection is still there.
func (s *Server) open(id uint64) bool { return s.nats.GetClient(id) != nil }

// boundSubscriptions cuts off the connections with the most subscriptions of each user of the
// account EDGE who has more than maxSubscriptionsEach, as far as it looks. One change is sent once
// for each subscription that it matches, before the stream takes the next one.
func (s *Server) boundSubscriptions() {
	if s.nats.NumSubscriptions() <= maxSubscriptionsEach {
		return
	}
	conns, has := s.mostOf(natsserver.BySubs), map[string]uint32{}
	for _, c := range conns {
		has[c.AuthorizedUser] += c.NumSubs
	}
	for _, c := range conns {
		user := c.AuthorizedUser
		if has[user] <= maxSubscriptionsEach {
			continue
		}
		s.clients.Warn().Uint64("connection", c.Cid).Str("remote", c.IP).Str("user", user).Uint32("subscriptions", has[user]).Int("max", maxSubscriptionsEach).
			Msg("connection to the bus cut off, its user has too many subscriptions")
		has[user] -= c.NumSubs
		_ = s.nats.DisconnectClientByID(c.Cid) // an error says that it is gone
	}
}

// asking is what connections had sent at a look.
type asking struct {
	at   time.Time
	sent map[uint64]int64 // by id
}

// boundRequests keeps out users of the account EDGE who ask for so much that the server's
// memory of it grows without bound. It takes what the last look returned, and returns what
// the next one needs.
func (s *Server) boundRequests(last asking) asking {
	core, err := s.nats.LookupAccount(accountCore)
	if err != nil || core.NumPendingAllResponses() <= maxAwaited {
		return asking{}
	}
	conns := s.mostOf(natsserver.ByInMsgs)
	if conns == nil {
		return asking{}
	}
	now, asked := asking{at: time.Now(), sent: map[uint64]int64{}}, map[string]int64{}
	for _, c := range conns {
		now.sent[c.Cid] = c.InMsgs
		asked[c.AuthorizedUser] += c.InMsgs - last.sent[c.Cid]
	}
	if last.sent == nil {
		return now
	}
	allowed := int64(maxRequests * now.at.Sub(last.at).Seconds())
	for _, c := range conns {
		user := c.AuthorizedUser
		if asked[user] <= allowed {
			continue
		}
		s.connections.keepOut(user, now.at.Add(keptOut))
		s.clients.Warn().Uint64("connection", c.Cid).Str("remote", c.IP).Str("user", user).Int64("requests", asked[user]).Int64("max", allowed).
			Dur("for", keptOut).Msg("user of the bus kept out, it asks for too much")
		_ = s.nats.DisconnectClientByID(c.Cid) // an error says that it is gone
	}
	return now
}
