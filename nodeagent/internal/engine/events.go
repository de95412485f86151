package engine

import (
	"context"
	"strconv"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"
	"github.com/rs/zerolog"
)

// Sink is told what happens to containers. Its methods must not block long.
type Sink interface {
	// Exited tells that a container's process ended.
	Exited(id string, code int32, at time.Time)
	// OutOfMemory tells that the kernel killed a process of the container.
	OutOfMemory(id string)
	// Resynced tells all that exists, after a connection was made anew:
	// whatever is not told here was told before or will be.
	Resynced(all []Found)
}

// markTopic is the subject on which Run tells itself that events flow.
const markTopic = "/rutter/mark"

// Waits between tries to connect again.
const (
	firstWait = 100 * time.Millisecond
	maxWait   = 5 * time.Second
)

// Run delivers events to the sink until ctx ends. It connects again whenever
// containerd was away.
func (e *Engine) Run(ctx context.Context, sink Sink, log zerolog.Logger) error {
	wait := firstWait
	for n := 0; ctx.Err() == nil; n++ {
		began := time.Now()
		err := e.stream(ctx, sink, "mark-"+strconv.Itoa(n)+"-"+strconv.FormatInt(time.Now().UnixNano(), 36))
		if ctx.Err() != nil {
			return nil
		}
		log.Warn().Err(err).Msg("containerd's events broke off, connecting again")
		if time.Since(began) > maxWait {
			wait = firstWait
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, maxWait)
	}
	return nil
}

// stream follows one connection. A subscription is not acknowledged, so a mark
// is published until it comes back; only then is the list taken.
func (e *Engine) stream(ctx context.Context, sink Sink, mark string) error {
	ctx, cancel := context.WithCancel(e.Context(ctx))
	defer cancel()
	ns := "namespace==" + e.cfg.Namespace
	ch, errs := e.client.EventService().Subscribe(ctx, ns+`,topic=="/tasks/exit"`, ns+`,topic=="/tasks/oom"`, ns+`,topic=="`+markTopic+`"`)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case env := <-ch:
			if env.Topic == markTopic && marked(env, mark) {
				tick.Stop()
				all, err := e.List(ctx)
				if err != nil {
					return err
				}
				sink.Resynced(all)
				return forward(ctx, ch, errs, sink)
			}
			tell(sink, env)
		case err := <-errs:
			return err
		case <-tick.C:
			if err := e.client.EventService().Publish(ctx, markTopic, &eventsapi.TaskPaused{ContainerID: mark}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func forward(ctx context.Context, ch <-chan *events.Envelope, errs <-chan error, sink Sink) error {
	for {
		select {
		case env := <-ch:
			tell(sink, env)
		case err := <-errs:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func marked(env *events.Envelope, mark string) bool {
	ev, err := typeurl.UnmarshalAny(env.Event)
	if err != nil {
		return false
	}
	m, ok := ev.(*eventsapi.TaskPaused)
	return ok && m.ContainerID == mark
}

func tell(sink Sink, env *events.Envelope) {
	ev, err := typeurl.UnmarshalAny(env.Event)
	if err != nil {
		return // not one of ours
	}
	switch ev := ev.(type) {
	case *eventsapi.TaskExit:
		if ev.ID == ev.ContainerID { // other ids are of exec'd processes
			sink.Exited(ev.ContainerID, int32(ev.ExitStatus), ev.ExitedAt.AsTime())
		}
	case *eventsapi.TaskOOM:
		sink.OutOfMemory(ev.ContainerID)
	default: // marks
	}
}
