package bus

import (
	"context"
	"fmt"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	sigsjson "sigs.k8s.io/json"

	"github.com/rutter-project/rutter/schemas"
)

// source is a ListerWatcher that reads one resource from STATE. It serves one
// reflector.
type source struct {
	c       *Client
	gvr     schema.GroupVersionResource
	example runtime.Object
	log     zerolog.Logger
	track   *tracker
	relists atomic.Int64
	drop    func(*nats.Msg) bool // loses messages, in tests; nil otherwise

	mu  sync.Mutex
	pos place // what the reflector was given last; guarded by mu
}

// place is where a reader of STATE stands.
type place struct {
	seq   uint64
	rev   int64
	epoch string
}

func newSource(c *Client, gvr schema.GroupVersionResource, example runtime.Object, log zerolog.Logger) *source {
	return &source{
		c: c, gvr: gvr, example: example, track: newTracker(),
		log: log.With().Str("component", "informer").Str("kind", gvr.Resource).Logger(),
	}
}

func (s *source) filter() string { return schemas.SubjectPrefix(s.gvr.Group, s.gvr.Resource, "") }

// List implements cache.Lister.
func (s *source) List(options metav1.ListOptions) (runtime.Object, error) {
	return s.ListWithContext(context.Background(), options)
}

// Watch implements cache.Watcher.
func (s *source) Watch(options metav1.ListOptions) (watch.Interface, error) {
	return s.WatchWithContext(context.Background(), options)
}

// ListWithContext reads the current objects. The stream's order makes any
// requested revision that the relay has passed "not older than".
func (s *source) ListWithContext(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
	w := s.start(ctx, place{})
	defer w.Stop()
	items := map[string]runtime.Object{}
	for event := range w.ResultChan() {
		key, rev, err := identify(event.Object)
		if event.Type == watch.Error {
			return nil, apierrors.FromObject(event.Object)
		}
		if err != nil {
			return nil, err
		}
		switch event.Type {
		case watch.Deleted:
			delete(items, key)
		case watch.Bookmark:
			return listOf(items, rev), nil
		default:
			items[key] = event.Object
		}
	}
	return nil, fmt.Errorf("list %s from the bus: %w", s.gvr.Resource, context.Cause(ctx))
}

func listOf(items map[string]runtime.Object, rev string) *metav1.List {
	list := &metav1.List{ListMeta: metav1.ListMeta{ResourceVersion: rev}}
	for _, item := range items {
		list.Items = append(list.Items, runtime.RawExtension{Object: item})
	}
	return list
}

// WatchWithContext sends the current objects first if asked to, ending with the
// bookmark that says so. Otherwise it goes on where the last watch or list
// ended, and only there: elsewhere the stream no longer has every change.
func (s *source) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	if options.SendInitialEvents != nil && *options.SendInitialEvents {
		return s.start(ctx, place{}), nil
	}
	s.mu.Lock()
	pos := s.pos
	s.mu.Unlock()
	if pos.seq == 0 || strconv.FormatInt(pos.rev, 10) != options.ResourceVersion {
		return nil, apierrors.NewResourceExpired(fmt.Sprintf("the bus can't resume %s at revision %s", s.gvr.Resource, options.ResourceVersion))
	}
	return s.start(ctx, pos), nil
}

func (s *source) start(ctx context.Context, from place) *stateWatch {
	ctx, cancel := context.WithCancel(ctx)
	w := &stateWatch{
		source: s, cancel: cancel, done: make(chan struct{}), events: make(chan watch.Event, watchBuffer),
		at: from, synced: from.seq != 0,
	}
	go w.run(ctx)
	return w
}

// moved notes what the reflector has been given.
func (s *source) moved(to place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pos = to
}

// decode makes an object of the informer's type from a stored one.
func (s *source) decode(ctx context.Context, e schemas.Event) (runtime.Object, error) {
	e, err := s.c.whole(ctx, e)
	if err != nil {
		return nil, err
	}
	obj := reflect.New(reflect.TypeOf(s.example).Elem()).Interface().(runtime.Object)
	if err := sigsjson.UnmarshalCaseSensitivePreserveInts(e.Object, obj); err != nil {
		return nil, fmt.Errorf("decode %s at revision %d: %w", e.Key, e.Rev, err)
	}
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return nil, fmt.Errorf("decode %s at revision %d: %w", e.Key, e.Rev, err)
	}
	accessor.SetResourceVersion(strconv.FormatInt(e.Rev, 10))
	return obj, nil
}

// bookmark ends the initial events at a revision.
func (s *source) bookmark(rev int64) (runtime.Object, error) {
	obj := s.example.DeepCopyObject()
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	accessor.SetResourceVersion(strconv.FormatInt(rev, 10))
	accessor.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	return obj, nil
}

// identify gives namespace/name and resourceVersion of an object.
func identify(obj runtime.Object) (key, rev string, err error) {
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return "", "", err
	}
	return accessor.GetNamespace() + "/" + accessor.GetName(), accessor.GetResourceVersion(), nil
}
