package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// turnSubject is where a server tells, within CORE, its turn: how often its streams have
// begun to come back, and have. It is odd while they do. Until all are there the server
// says of the others that they do not exist; whoever made these anew would empty them.
const turnSubject = "gate.TURN"

var errComingBack = errors.New("the server's streams are coming back")

// answerTurn tells one client.
func (s *Server) answerTurn(msg *nats.Msg) {
	if err := msg.Respond(strconv.AppendUint(nil, s.turn.Load(), 10)); err != nil {
		s.log.Warn().Err(err).Msg("turn of the streams not told")
	}
}

// serverTurn is the turn of the server. It is 0 of one that does not tell, because it is not
// embedded.
func (c *Client) serverTurn(ctx context.Context) (uint64, error) {
	if c.cfg.Server != nil {
		return c.cfg.Server.turn.Load(), nil
	}
	return c.askNumber(ctx, turnSubject, nil)
}

// askNumber asks an embedded server something. Another one's answer is 0.
func (c *Client) askNumber(ctx context.Context, subject string, request []byte) (uint64, error) {
	msg, err := c.nc.RequestWithContext(ctx, subject, request)
	if errors.Is(err, nats.ErrNoResponders) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("bus: %s: %w", subject, explain(err))
	}
	n, err := strconv.ParseUint(string(msg.Data), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("bus: %s: %w", subject, err)
	}
	return n, nil
}

// existing is a stream as it is, nil if there is none.
func (c *Client) existing(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	info, err := c.streamInfo(ctx, name)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return info, err
	}
	before, err := c.serverTurn(ctx)
	if err != nil {
		return nil, err
	}
	info, err = c.streamInfo(ctx, name)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return info, err
	}
	after, err := c.serverTurn(ctx)
	if err == nil && (before%2 == 1 || after != before) {
		err = fmt.Errorf("bus: stream %s: %w", name, errComingBack)
	}
	return nil, err
}
