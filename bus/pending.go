package bus

import (
	"context"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

const (
	// maxPending is how many bytes may wait for all clients of the account EDGE together. The
	// server's own bound is for one connection: a thousand that read nothing would take all
	// memory before it cuts them off.
	maxPending = 256 << 20
	// clientsCheck is how often that and subscriptions are looked at.
	clientsCheck = 500 * time.Millisecond
	// maxLooked is how many connections, those with the most, are looked at.
	maxLooked = 1024
)

// boundClients cuts off who reads the least while too much waits, who subscribes to too much
// and who asks for too much, until ctx ends.
func (s *Server) boundClients(ctx context.Context) {
	tick := time.NewTicker(clientsCheck)
	defer tick.Stop()
	var last asking
	for {
		select {
		case <-tick.C:
			s.cutOff()
			s.boundSubscriptions()
			last = s.boundRequests(last)
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) cutOff() {
	conns, err := s.nats.Connz(&natsserver.ConnzOptions{Account: accountEdge, Sort: natsserver.ByPending, Limit: maxLooked})
	if err != nil {
		s.log.Warn().Err(err).Msg("what waits for clients is not known")
		return
	}
	waiting := 0
	for _, c := range conns.Conns {
		waiting += c.Pending
	}
	for _, c := range conns.Conns {
		if waiting <= s.maxPending {
			return
		}
		if err := s.nats.DisconnectClientByID(c.Cid); err != nil {
			continue // gone meanwhile
		}
		waiting -= c.Pending
		s.clients.Warn().Uint64("connection", c.Cid).Str("remote", c.IP).Int("bytes", c.Pending).Msg("connection to the bus cut off, it does not read")
	}
}
