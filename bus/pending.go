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

// mostOf are the connections of the account EDGE that come first in an order, with their users.
func (s *Server) mostOf(order natsserver.SortOpt) []*natsserver.ConnInfo {
	conns, err := s.nats.Connz(&natsserver.ConnzOptions{Account: accountEdge, Username: true, Sort: order, Limit: maxLooked})
	if err != nil {
		s.log.Warn().Err(err).Str("order", string(order)).Msg("what clients take of the bus is not known")
		return nil
	}
	return conns.Conns
}

func (s *Server) cutOff() {
	conns := s.mostOf(natsserver.ByPending)
	waiting := 0
	for _, c := range conns {
		waiting += c.Pending
	}
	for _, c := range conns {
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
