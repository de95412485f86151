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
	// pendingCheck is how often that is looked at.
	pendingCheck = 500 * time.Millisecond
	// maxLooked is how many connections, those with the most, are looked at.
	maxLooked = 1024
)

// boundPending cuts off who reads the least while too much waits, until ctx ends.
func (s *Server) boundPending(ctx context.Context) {
	tick := time.NewTicker(pendingCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.cutOff()
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
