package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/schemas"
)

// Informers are shared informers that live off the bus instead of HTTP watches:
// one for each resource, made when first asked for. Delivered objects carry the
// etcd revision as their resourceVersion; a deleted one carries the revision of
// its deletion.
type Informers struct {
	c   *Client
	log zerolog.Logger

	mu      sync.Mutex
	byGVR   map[schema.GroupVersionResource]*informer // guarded by mu
	group   *errgroup.Group                           // nil unless Run runs; guarded by mu
	ctx     context.Context                           // of the group; guarded by mu
	started map[schema.GroupVersionResource]bool      // guarded by mu
}

type informer struct {
	cache.SharedIndexInformer
	source  *source
	handler cache.ResourceEventHandlerRegistration // ours, which tells the tracker
}

// NewInformers makes an empty set.
func NewInformers(c *Client, log zerolog.Logger) *Informers {
	return &Informers{
		c: c, log: log,
		byGVR:   map[schema.GroupVersionResource]*informer{},
		started: map[schema.GroupVersionResource]bool{},
	}
}

// For returns the one shared informer of a resource. obj is an example of the
// type into which stored objects are decoded; its version must be the one that
// is stored. Asked for while Run runs, the informer starts at once.
func (i *Informers) For(gvr schema.GroupVersionResource, obj runtime.Object) cache.SharedIndexInformer {
	i.mu.Lock()
	defer i.mu.Unlock()
	if inf, ok := i.byGVR[gvr]; ok {
		return inf.SharedIndexInformer
	}
	src := newSource(i.c, gvr, obj, i.log)
	inf := &informer{
		source: src,
		SharedIndexInformer: cache.NewSharedIndexInformerWithOptions(src, obj, cache.SharedIndexInformerOptions{
			ObjectDescription: gvr.String(),
			Indexers:          cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc},
		}),
	}
	var err error
	inf.handler, err = inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    src.track.applied,
		UpdateFunc: func(_, obj any) { src.track.applied(obj) },
		DeleteFunc: src.track.applied,
	})
	if err != nil {
		panic("bus: handler on an informer that was just made: " + err.Error())
	}
	i.byGVR[gvr] = inf
	i.startLocked(i.ctx, gvr)
	return inf.SharedIndexInformer
}

// startLocked runs an informer if Run runs. The caller holds mu.
func (i *Informers) startLocked(ctx context.Context, gvr schema.GroupVersionResource) {
	if i.group == nil || i.started[gvr] {
		return
	}
	i.started[gvr] = true
	inf := i.byGVR[gvr]
	i.group.Go(func() error {
		inf.RunWithContext(ctx)
		return nil
	})
}

// Run runs all informers, those asked for later too, until ctx ends. It can be
// called once.
func (i *Informers) Run(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	i.mu.Lock()
	if i.ctx != nil {
		i.mu.Unlock()
		return errors.New("bus: informers have been run before")
	}
	i.group, i.ctx = group, groupCtx
	for gvr := range i.byGVR {
		i.startLocked(groupCtx, gvr)
	}
	i.mu.Unlock()
	<-ctx.Done()
	i.mu.Lock()
	i.group = nil
	i.mu.Unlock()
	return group.Wait()
}

// WaitForSync waits until all informers asked for so far hold what was on the
// bus when they started, and their handlers have seen it.
func (i *Informers) WaitForSync(ctx context.Context) error {
	for _, inf := range i.all() {
		for _, done := range []<-chan struct{}{inf.HasSyncedChecker().Done(), inf.handler.HasSyncedChecker().Done()} {
			select {
			case <-done:
			case <-ctx.Done():
				return fmt.Errorf("bus: informer of %s has not synced: %w", inf.source.gvr.Resource, ctx.Err())
			}
		}
	}
	return nil
}

// WaitForRevision waits until all informers asked for so far hold everything up
// to rev, and their handlers have been called for it. rev is the
// resourceVersion of some object, of whatever resource.
func (i *Informers) WaitForRevision(ctx context.Context, rev int64) error {
	if err := i.c.WaitForRevision(ctx, rev); err != nil {
		return err
	}
	head, err := i.c.Head(ctx, StreamState)
	if err != nil {
		return err
	}
	for _, inf := range i.all() {
		seq, err := i.c.lastSeq(ctx, StreamState, inf.source.filter())
		if err != nil {
			return err
		}
		if err := inf.source.track.wait(ctx, head.Epoch, seq, inf.has); err != nil {
			return fmt.Errorf("bus: informer of %s has not seen revision %d: %w", inf.source.gvr.Resource, rev, err)
		}
	}
	return nil
}

// Relists is how often informers have lost their place in the stream and begun anew with
// a snapshot. Handlers then see what differs, not each change in between.
func (i *Informers) Relists() int64 {
	var n int64
	for _, inf := range i.all() {
		n += inf.source.relists.Load()
	}
	return n
}

func (i *Informers) all() []*informer {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := make([]*informer, 0, len(i.byGVR))
	for _, inf := range i.byGVR {
		out = append(out, inf)
	}
	return out
}

// has reports whether the informer's store has namespace/name.
func (inf *informer) has(key string) bool {
	_, exists, err := inf.GetStore().GetByKey(strings.TrimPrefix(key, "/"))
	return err == nil && exists
}

// lastSeq is the sequence of the last message on a filter, 0 if there is none.
func (c *Client) lastSeq(ctx context.Context, stream, filter string) (uint64, error) {
	msg, err := c.lastMsg(ctx, stream, filter)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return msg.Sequence, nil
}

func (c *Client) lastMsg(ctx context.Context, stream, filter string) (*jetstream.RawStreamMsg, error) {
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("bus: stream %s: %w", stream, explain(err))
	}
	msg, err := s.GetLastMsgForSubject(ctx, filter)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, fmt.Errorf("bus: last message on %s: %w", filter, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("bus: last message on %s: %w", filter, explain(err))
	}
	return msg, nil
}

// WaitForRevision waits until STATE has every change up to rev, which is the
// resourceVersion of some object.
func (c *Client) WaitForRevision(ctx context.Context, rev int64) error {
	reached, lost := make(chan struct{}), c.whenLost()
	sub, err := c.nc.Subscribe(schemas.LiveRoot+schemas.AllObjects, once(reached, func(msg *nats.Msg) bool {
		e, err := schemas.ParseEvent(map[string][]string(msg.Header), msg.Data)
		return err == nil && reaches(e, rev)
	}))
	if err != nil {
		return fmt.Errorf("bus: wait for revision %d: %w", rev, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := c.nc.FlushTimeout(requestTimeout); err != nil {
		return fmt.Errorf("bus: wait for revision %d: %w", rev, err)
	}
	msg, err := c.lastMsg(ctx, StreamState, schemas.AllObjects)
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return err
	default:
		e, err := parseStored(msg)
		if err != nil {
			return err
		}
		if reaches(e, rev) {
			return nil
		}
	}
	select {
	case <-reached:
		return nil
	case <-lost:
		return fmt.Errorf("bus: wait for revision %d: %w", rev, errConnectionLost)
	case <-ctx.Done():
		return fmt.Errorf("bus: wait for revision %d: %w", rev, ctx.Err())
	}
}

// once makes a handler of messages that closes done with the first one that is right.
// nats.go calls it from one goroutine.
func once(done chan<- struct{}, right func(*nats.Msg) bool) nats.MsgHandler {
	closed := false
	return func(msg *nats.Msg) {
		if !closed && right(msg) {
			closed = true
			close(done)
		}
	}
}

// reaches reports that nothing up to rev comes after e. During a resync, order
// is that of the closing message only.
func reaches(e schemas.Event, rev int64) bool {
	if e.Resync != 0 && e.Type != schemas.Gap {
		return false
	}
	return e.Rev > rev || e.Rev == rev && e.Last()
}
