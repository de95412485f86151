package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rutter-project/rutter/schemas"
)

// gateAPI is where requests of the account EDGE for consumers arrive in CORE.
const gateAPI = "gate.CONSUMER.CREATE."

// What a consumer of the account EDGE may cost.
const (
	maxInactive      = 10 * time.Minute // after which the server forgets one that nobody reads
	maxCreateRequest = 8 << 10
	maxConsumersEach = 5000 // of one user, who may be many agents
	maxPulls         = 64   // that may wait at a consumer, each with a subject to answer to
	maxUnacked       = 1000 // messages of a consumer, each of which the server remembers
	maxCreating      = 64   // at a time, of all
	// maxAsking and maxAskingBytes are how many more may wait; others get no answer. The
	// largest message fits, so that it is refused with a reason.
	maxAsking      = 16_384
	maxAskingBytes = 16 << 20
)

// gate reads the requests for consumers that come from the account EDGE, and hands on those
// that do no harm. The subject of a request says which messages are wanted, and that is
// for the server to check. Its body can name a subject to deliver to, which the server
// takes for one of the account CORE: who may write one object and read its events could hand
// the relay a checkpoint, and so have it leave out changes.
type gate struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	log  zerolog.Logger
	work errgroup.Group // requests on their way to the server

	mu sync.Mutex
	// made are the consumers of each user, as far as they may still be there: the name
	// behind the stream's. Guarded by mu.
	made map[string]map[string]bool
}

// openGate connects in the process and begins to answer.
func openGate(s *Server) (*gate, error) {
	nc, err := nats.Connect("", nats.Name("gate"), nats.InProcessServer(s.nats), nats.UserInfo(coreUser, s.password(coreUser)),
		nats.MaxReconnects(-1), nats.Timeout(requestTimeout),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			s.clients.Warn().Err(err).Msg("gate does not keep up with requests")
		}))
	if err != nil {
		return nil, fmt.Errorf("bus: gate: %w", err)
	}
	g := &gate{nc: nc, log: s.clients, made: map[string]map[string]bool{}}
	g.work.SetLimit(maxCreating)
	if g.js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(requestTimeout)); err == nil {
		var requests *nats.Subscription
		if requests, err = nc.Subscribe(gateAPI+">", g.take); err == nil {
			err = requests.SetPendingLimits(maxAsking, maxAskingBytes)
		}
	}
	if err == nil {
		_, err = nc.Subscribe(turnSubject, s.answerTurn)
	}
	if err == nil {
		_, err = nc.Subscribe(holesSubject, s.answerHoles)
	}
	if err == nil {
		err = nc.FlushTimeout(requestTimeout)
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("bus: gate: %w", err)
	}
	return g, nil
}

func (g *gate) close() {
	g.nc.Close()
	_ = g.work.Wait() // its functions return no error
}

func (g *gate) take(msg *nats.Msg) {
	user, request, err := g.check(msg)
	if err != nil {
		g.log.Warn().Err(err).Str("user", user).Msg("consumer refused")
		g.refuse(msg, err)
		return
	}
	g.work.Go(func() error {
		answer, err := g.nc.Request(apiCore+".CONSUMER.CREATE."+strings.TrimPrefix(msg.Subject, gateAPI), request, requestTimeout)
		if err == nil {
			err = msg.Respond(answer.Data)
		}
		if err != nil {
			g.log.Warn().Err(err).Str("user", user).Msg("consumer not asked for")
		}
		return nil
	})
}

// check returns who asks, and the request as it may be handed on.
func (g *gate) check(msg *nats.Msg) (user string, request []byte, err error) {
	var from natsserver.ClientInfo
	if err := json.Unmarshal([]byte(msg.Header.Get(natsserver.ClientInfoHdr)), &from); err != nil || from.User == "" {
		return "", nil, errors.New("the request does not say who asks")
	}
	if msg.Header.Get(schemas.HeaderRev) != "" {
		return from.User, nil, errors.New("a message of the stream is no request") // an answer was led here
	}
	if len(msg.Data) > maxCreateRequest {
		return from.User, nil, fmt.Errorf("the request has more than %d bytes", maxCreateRequest)
	}
	var asked natsserver.CreateConsumerRequest
	if err := json.Unmarshal(msg.Data, &asked); err != nil {
		return from.User, nil, fmt.Errorf("the request can't be read: %w", err)
	}
	if err := checkConsumer(&asked.Config); err != nil {
		return from.User, nil, err
	}
	asked.Config.MemoryStorage = true
	if asked.Config.MaxWaiting <= 0 {
		asked.Config.MaxWaiting = maxPulls // the server's own default is more
	}
	if err := g.count(from.User, asked.Stream+"."+asked.Config.Name); err != nil {
		return from.User, nil, err
	}
	request, err = json.Marshal(asked) // what was checked is what is asked for
	return from.User, request, err
}

// checkConsumer refuses what a client of the account EDGE may not ask for.
func checkConsumer(c *natsserver.ConsumerConfig) error {
	switch {
	case c.DeliverSubject != "" || c.DeliverGroup != "":
		return errors.New("deliver_subject: consumers are pulled here; leave it out")
	case c.Durable != "":
		return errors.New("durable_name: consumers don't last here; give a name and inactive_threshold, and note how far you have read")
	case c.InactiveThreshold > maxInactive:
		return fmt.Errorf("inactive_threshold: at most %s", maxInactive)
	case c.MaxWaiting > maxPulls:
		return fmt.Errorf("max_waiting: at most %d", maxPulls)
	case c.MaxAckPending < 0 || c.MaxAckPending > maxUnacked:
		return fmt.Errorf("max_ack_pending: from 1 to %d", maxUnacked)
	case c.Name == "" || strings.ContainsAny(c.Name, ".*> "):
		return errors.New("name: give one, without dots, spaces and stars")
	case !reflect.DeepEqual(*c, plain(*c)):
		return errors.New("the request has fields that consumers can't have here; it may have name, description, filter_subject, deliver_policy and where to begin, ack_policy and its limits, replay_policy, headers_only, limits of requests, inactive_threshold and metadata")
	default:
		return nil
	}
}

// plain is a consumer without all that only the system, or several servers, have a use for.
func plain(c natsserver.ConsumerConfig) natsserver.ConsumerConfig {
	return natsserver.ConsumerConfig{
		Name: c.Name, Description: c.Description, Metadata: c.Metadata, FilterSubject: c.FilterSubject,
		DeliverPolicy: c.DeliverPolicy, OptStartSeq: c.OptStartSeq, OptStartTime: c.OptStartTime, ReplayPolicy: c.ReplayPolicy, HeadersOnly: c.HeadersOnly,
		AckPolicy: c.AckPolicy, AckWait: c.AckWait, MaxDeliver: c.MaxDeliver, BackOff: c.BackOff, MaxAckPending: c.MaxAckPending,
		MaxWaiting: c.MaxWaiting, MaxRequestBatch: c.MaxRequestBatch, MaxRequestExpires: c.MaxRequestExpires, MaxRequestMaxBytes: c.MaxRequestMaxBytes,
		InactiveThreshold: c.InactiveThreshold, MemoryStorage: c.MemoryStorage, Replicas: c.Replicas,
	}
}

// count notes a consumer and refuses more than one user may have at a time.
func (g *gate) count(user, name string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.made[user]) >= maxConsumersEach && !g.made[user][name] {
		if err := g.forget(user); err != nil {
			return err
		}
		if len(g.made[user]) >= maxConsumersEach {
			return fmt.Errorf("%s has %d consumers; delete some, or let them end", user, maxConsumersEach)
		}
	}
	if g.made[user] == nil {
		g.made[user] = map[string]bool{}
	}
	g.made[user][name] = true
	return nil
}

// forget drops the consumers of a user that are gone. The caller holds mu.
func (g *gate) forget(user string) error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	there := map[string]bool{}
	for _, name := range []string{StreamArchive, StreamHistory} {
		stream, err := g.js.Stream(ctx, name)
		if err != nil {
			return fmt.Errorf("count consumers: %w", err)
		}
		names := stream.ConsumerNames(ctx)
		for consumer := range names.Name() {
			there[name+"."+consumer] = true
		}
		if err := names.Err(); err != nil {
			return fmt.Errorf("count consumers: %w", err)
		}
	}
	for name := range g.made[user] {
		if !there[name] {
			delete(g.made[user], name)
		}
	}
	return nil
}

// refuse answers as the server would.
func (g *gate) refuse(msg *nats.Msg, reason error) {
	if msg.Reply == "" {
		return
	}
	body, err := json.Marshal(natsserver.JSApiConsumerCreateResponse{ApiResponse: natsserver.ApiResponse{
		Type:  natsserver.JSApiConsumerCreateResponseType,
		Error: &natsserver.ApiError{Code: http.StatusBadRequest, ErrCode: uint16(jetstream.JSErrCodeBadRequest), Description: reason.Error()},
	}})
	if err == nil {
		err = g.nc.Publish(msg.Reply, body)
	}
	if err != nil {
		g.log.Warn().Err(err).Msg("refusal of a consumer not sent")
	}
}
