// Package engine runs controllers. A controller names what it watches and how an
// object of that becomes a key; the engine queues keys, limits their rate, and calls
// Reconcile with a context that carries the revisions which woke it, so that every
// write names its cause.
//
// Reconcile is level-triggered: it reads the present state from informers, converges,
// and returns. An error queues the key again with back-off. A controller whose last
// write has not come back through its informers yet returns nil: the write's own event
// will call it again (see Writes).
//
// Concurrency: one key is never reconciled by two workers at a time; different keys
// are. Everything here is safe for concurrent use.
package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/rutter-project/rutter/schemas"
)

// Source hands out the one shared informer of a resource, fed by the event bus.
type Source interface {
	For(gvr schema.GroupVersionResource, obj runtime.Object) cache.SharedIndexInformer
}

// Reconciler is what a controller does with one key.
type Reconciler interface {
	// Name is the controller's name in logs, metrics and User-Agents: "replicaset".
	Name() string
	// Reconcile converges the object named by key ("namespace/name" or "name").
	Reconcile(ctx context.Context, key string) error
}

// maxCauses bounds the revisions remembered for a key between two reconciliations; the
// newest win.
const maxCauses = 16

// Controller queues keys for one reconciler.
type Controller struct {
	reconciler Reconciler
	workers    int
	log        zerolog.Logger
	queue      workqueue.TypedRateLimitingInterface[string]
	synced     []cache.InformerSynced
	events     []*Events

	mu     sync.Mutex
	causes map[string][]int64 // what woke each queued key; guarded by mu
}

// NewController returns a controller that reconciles with the given number of workers.
func NewController(r Reconciler, workers int, log zerolog.Logger) *Controller {
	return &Controller{
		reconciler: r, workers: workers, log: log.With().Str("component", r.Name()).Logger(), causes: map[string][]int64{},
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](5*time.Millisecond, time.Minute),
			workqueue.TypedRateLimitingQueueConfig[string]{Name: r.Name()}),
	}
}

// Mapper names the keys that a change of obj concerns. old is nil unless the change is
// an update.
type Mapper func(old, obj any) []string

// Watch queues the keys that mapper names for every change the informer sees.
func (c *Controller) Watch(informer cache.SharedIndexInformer, mapper Mapper) error {
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.wake(obj, mapper(nil, obj)) },
		UpdateFunc: func(old, obj any) { c.wake(obj, mapper(old, obj)) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			c.wake(obj, mapper(nil, obj))
		},
	}
	return c.Follow(informer, handler)
}

// Follow registers a handler that queues by itself; Run waits until it has seen what
// is there.
func (c *Controller) Follow(informer cache.SharedIndexInformer, handler cache.ResourceEventHandler) error {
	registered, err := informer.AddEventHandler(handler)
	if err != nil {
		return fmt.Errorf("%s: watch: %w", c.reconciler.Name(), err)
	}
	c.synced = append(c.synced, registered.HasSynced)
	return nil
}

func (c *Controller) wake(obj any, keys []string) {
	rev := Revision(obj)
	for _, key := range keys {
		c.Enqueue(key, rev)
	}
}

// Enqueue queues a key because of the change at revision rev (0: none).
func (c *Controller) Enqueue(key string, rev int64) {
	if rev > 0 {
		c.mu.Lock()
		c.causes[key] = newest(append(c.causes[key], rev))
		c.mu.Unlock()
	}
	c.queue.Add(key)
}

// EnqueueAfter queues a key when a time has passed, for what only time can show. It
// names no cause.
func (c *Controller) EnqueueAfter(key string, wait time.Duration) { c.queue.AddAfter(key, wait) }

// newest cuts causes to the last maxCauses.
func newest(causes []int64) []int64 { return causes[max(0, len(causes)-maxCauses):] }

// Run reconciles until the context ends.
func (c *Controller) Run(ctx context.Context) error {
	defer c.queue.ShutDown()
	for _, e := range c.events {
		defer e.broadcaster.Shutdown()
	}
	if !cache.WaitForCacheSync(ctx.Done(), c.synced...) {
		return fmt.Errorf("%s: informers did not fill: %w", c.reconciler.Name(), context.Cause(ctx))
	}
	c.log.Debug().Msg("controller started")
	var g errgroup.Group
	g.Go(func() error {
		<-ctx.Done()
		c.queue.ShutDown()
		return nil
	})
	for range c.workers {
		g.Go(func() error {
			for c.next(ctx) {
			}
			return nil
		})
	}
	return g.Wait()
}

func (c *Controller) next(ctx context.Context) bool {
	key, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(key)
	c.mu.Lock()
	causes := c.causes[key]
	delete(c.causes, key)
	c.mu.Unlock()
	err := c.reconciler.Reconcile(schemas.WithCause(ctx, causes...), key)
	if err == nil || ctx.Err() != nil {
		c.queue.Forget(key)
		return true
	}
	var later After
	if errors.As(err, &later) {
		c.queue.Forget(key)
		c.queue.AddAfter(key, later.Wait)
		return true
	}
	c.keep(key, causes)
	c.queue.AddRateLimited(key)
	c.log.Warn().Str("key", key).Int("tries", c.queue.NumRequeues(key)).Err(err).Msg("reconcile failed, will try again")
	return true
}

// keep puts causes back for the next try.
func (c *Controller) keep(key string, causes []int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.causes[key] = newest(append(causes, c.causes[key]...))
}

// After is returned by Reconcile when only time can bring progress.
type After struct{ Wait time.Duration }

func (a After) Error() string { return "again in " + a.Wait.String() }

// Revision is the object's resourceVersion as etcd's revision, 0 if it has none.
func Revision(obj any) int64 {
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return 0
	}
	rev, err := strconv.ParseInt(accessor.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return rev
}

// Self maps an object to its own key.
func Self(_, obj any) []string {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		return nil
	}
	return []string{key}
}
