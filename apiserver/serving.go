package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/util/waitgroup"
	requestfilters "k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/server/filters"

	"github.com/rutter-project/rutter/apiserver/internal/serve"
)

// ServingConfig is how connections are served, and how they end.
type ServingConfig struct {
	// MaxStreams is how many requests a client may have under way on a connection.
	MaxStreams int
	// GoawayChance is how likely a request over HTTP/2 has its client open a new
	// connection, so that a load balancer can choose again. What runs is not cut off.
	GoawayChance float64
	// ShutdownDelay is for how long everything is served after the server was told to
	// stop. /readyz fails meanwhile, so that load balancers can look elsewhere.
	ShutdownDelay time.Duration
	// ShutdownRetryAfter answers requests that come after the delay with 429 until those
	// before them are answered, instead of taking no more connections.
	ShutdownRetryAfter bool
}

// DefaultServingConfig returns kube-apiserver's defaults.
func DefaultServingConfig() ServingConfig { return ServingConfig{MaxStreams: 100} }

// maxGoawayChance is upstream's: with more, clients would be busy connecting.
const maxGoawayChance = 0.02

// Validate names the first setting that is wrong, by its flag.
func (c ServingConfig) Validate() error {
	switch {
	case c.MaxStreams < 1:
		return fmt.Errorf("--http2-max-streams-per-connection %d is less than 1", c.MaxStreams)
	case !(c.GoawayChance >= 0 && c.GoawayChance <= maxGoawayChance): // NaN is neither
		return fmt.Errorf("--goaway-chance %v is not between 0 and %v", c.GoawayChance, maxGoawayChance)
	case c.ShutdownDelay < 0:
		return fmt.Errorf("--shutdown-delay-duration %s is negative", c.ShutdownDelay)
	}
	return nil
}

// bodyBuffer is how much of a request's body is taken before a handler reads it: as much
// as nearly all bodies have. It bounds the frames as well, which are read as a whole.
const bodyBuffer = 256 << 10

// http2 are the limits of connections, upstream's.
func (c ServingConfig) http2() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams: c.MaxStreams, MaxReadFrameSize: bodyBuffer,
		MaxReceiveBufferPerStream: bodyBuffer, MaxReceiveBufferPerConnection: c.MaxStreams * bodyBuffer,
	}
}

// ending are the steps of a server's end.
type ending struct {
	told     chan struct{}           // closed when the server is to stop
	refusing chan struct{}           // closed when requests are refused, if they ever are
	inFlight waitgroup.SafeWaitGroup // requests that come to an end by themselves, if some are refused
}

func newEnding() *ending {
	return &ending{told: make(chan struct{}), refusing: make(chan struct{})}
}

var errStopping = errors.New("the server is stopping")

// check is the part of readiness that fails from when the server is to stop.
func (e *ending) check(context.Context) error {
	select {
	case <-e.told:
		return errStopping
	default:
		return nil
	}
}

// wait returns when the delay after told is over, or serving has ended without that.
func (e *ending) wait(told, serving context.Context, delay time.Duration) {
	select {
	case <-told.Done():
	case <-serving.Done():
		return
	}
	close(e.told)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-serving.Done():
	}
}

// connections wraps the handler for clients. Stopping ends when the server is to answer
// what it has and nothing more.
func (s *Server) connections(stopping context.Context, h http.Handler) http.Handler {
	h = endWatches(stopping, h)
	if s.cfg.Serving.ShutdownRetryAfter {
		h = filters.WithWaitGroup(h, serve.LongRunning(), &s.ending.inFlight)
		h = requestfilters.WithRequestInfo(h, serve.RequestInfo())
		h = filters.WithRetryAfter(h, s.ending.refusing)
	}
	if chance := s.cfg.Serving.GoawayChance; chance > 0 {
		h = filters.WithProbabilisticGoaway(h, chance)
	}
	return h
}

// refuse has requests answered with 429 from now on, and returns when those before are
// answered, or the context ends. What it returns waits for them however long that takes.
func (e *ending) refuse(ctx context.Context) (wait func()) {
	close(e.refusing)
	answered := make(chan struct{})
	go func() { defer close(answered); e.inFlight.Wait() }()
	select {
	case <-answered:
	case <-ctx.Done():
	}
	return func() { <-answered }
}
