package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// arrivals are the messages on one subject, in order. What nobody has taken yet waits in
// a list that is as long as it must be; the senders bound it, by flow control. The other
// forms of subscription hold a channel of 64 Ki places for each, half a megabyte that is
// hardly ever used.
type arrivals struct {
	messages chan *nats.Msg
	stop     func() // ends the subscription; must be called
	ended    <-chan struct{}
	timer    *time.Timer
}

// arrivals subscribes until ctx ends or the connection is lost.
func (c *Client) arrivals(ctx context.Context, subject string) (*arrivals, error) {
	ctx, cancel := context.WithCancel(ctx)
	a := &arrivals{messages: make(chan *nats.Msg, arrivalBuffer), ended: ctx.Done(), timer: time.NewTimer(time.Hour)}
	lost := c.whenLost()
	sub, err := c.nc.Subscribe(subject, func(msg *nats.Msg) {
		select {
		case a.messages <- msg:
		case <-ctx.Done():
		}
	})
	if err == nil {
		err = sub.SetPendingLimits(-1, -1)
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-ctx.Done():
		case <-lost:
			cancel()
		}
		_ = sub.Unsubscribe()
	}()
	a.stop = func() {
		cancel()
		<-done
		a.timer.Stop()
	}
	return a, nil
}

// next is the next message. It fails when none comes for so long, and when the
// subscription has ended.
func (a *arrivals) next(patience time.Duration) (*nats.Msg, error) {
	select {
	case msg := <-a.messages:
		return msg, nil
	default:
	}
	a.timer.Reset(patience)
	select {
	case msg := <-a.messages:
		return msg, nil
	case <-a.ended:
		return nil, errConnectionLost
	case <-a.timer.C:
		return nil, nats.ErrTimeout
	}
}
