package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"

	"github.com/rutter-project/rutter/apiserver/internal/view"
)

const (
	watchBuffer = 100
	watchBatch  = 100
	// bookmarkEvery and bookmarkBefore say when a watch that asked for bookmarks gets
	// one: about every minute, and shortly before its time is over (KEP-956).
	bookmarkEvery  = time.Minute
	bookmarkBefore = 2 * time.Second
)

// Watch implements storage.Interface. A watcher is a cursor into the view's log; it
// sends what its client takes and never holds up anybody else.
func (s *Store) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	if err := checkSegments(key); err != nil {
		return nil, err
	}
	asked, err := s.versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	rev := int64(min(asked, math.MaxInt64)) // beyond is what never comes
	prefix := key
	if opts.Recursive && (prefix == "" || prefix[len(prefix)-1] != '/') {
		prefix += "/"
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{
		store: s, prefix: prefix, opts: opts, cancel: cancel,
		out:     make(chan watch.Event, watchBuffer),
		pred:    opts.Predicate,
		sent:    rev,
		initial: opts.SendInitialEvents != nil && *opts.SendInitialEvents,
	}
	if selector, whole := s.selector(opts.Predicate); whole {
		w.quick = &selector
	}
	go w.run(ctx, rev)
	return w, nil
}

type watcher struct {
	store   *Store
	prefix  string
	opts    storage.ListOptions
	pred    storage.SelectionPredicate
	quick   *view.Selector // is all of pred, if not nil
	cancel  context.CancelFunc
	out     chan watch.Event
	initial bool  // the initial state ends with a marked bookmark
	sent    int64 // events up to here have been sent or are not wanted; owned by run
	seen    int64 // revision up to which the log has been read; owned by run
}

func (w *watcher) ResultChan() <-chan watch.Event { return w.out }
func (w *watcher) Stop()                          { w.cancel() }

func (w *watcher) run(ctx context.Context, rev int64) {
	defer close(w.out)
	defer w.cancel()
	cursor, stop, err := w.start(ctx, rev)
	utilflowcontrol.WatchInitialized(ctx) // the costly part is over
	if stop != nil {
		defer func() { w.cancel(); stop() }()
	}
	if err == nil {
		err = w.follow(ctx, cursor)
		w.store.CountEnd(err)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	select {
	case w.out <- watch.Event{Type: watch.Error, Object: statusOf(err, rev)}:
	case <-ctx.Done():
	}
}

// start sends the initial state if one is due and returns where to go on, and if not nil
// what to call in the end.
func (w *watcher) start(ctx context.Context, rev int64) (view.Follower, func(), error) {
	synthetic := w.initial || (w.opts.SendInitialEvents == nil && rev == 0)
	if !synthetic && rev != 0 {
		return w.store.Follow(ctx, rev)
	}
	if err := w.store.waitForList(ctx, w.opts); err != nil {
		return nil, nil, err
	}
	snap, cursor, stop, err := w.store.SnapshotAndFollow(ctx)
	if err != nil {
		return nil, nil, err
	}
	w.sent, w.seen = snap.Rev, snap.Rev
	if !synthetic {
		return cursor, stop, nil
	}
	sent := 0
	defer func() { w.store.CountInitial(sent) }()
	snap.Ascend(w.prefix, "", func(i *view.Item) bool {
		if !w.opts.Recursive && i.Key != w.prefix {
			return false
		}
		var is bool
		if is, err = w.matches(i); err == nil && is {
			sent++
			err = w.sendObject(ctx, watch.Added, i)
		}
		return err == nil
	})
	if err == nil && w.initial && w.pred.AllowWatchBookmarks {
		err = w.sendBookmark(ctx, true)
	}
	return cursor, stop, err
}

func (w *watcher) follow(ctx context.Context, cursor view.Follower) error {
	bookmark, stop := w.bookmarks(ctx)
	defer stop()
	ended, retired := false, w.store.cfg.Retired
	for {
		events, seen, more, err := cursor.Poll(watchBatch)
		if errors.Is(err, view.ErrEnd) {
			return w.finish(ctx, seen)
		}
		if err != nil {
			return err
		}
		for i := range events {
			if events[i].Rev <= w.sent {
				continue
			}
			if err := w.sendEvent(ctx, &events[i]); err != nil {
				return lastWords(&events[i], err)
			}
		}
		w.seen = max(w.seen, seen)
		if ended && len(events) < watchBatch {
			return nil
		}
		select {
		case <-more:
		case <-retired: // what came before is sent
			ended, retired = true, nil
		case <-bookmark:
			rev := w.store.Newest(ctx)
			if cursor.Behind() {
				continue // there is news; the bookmark would overtake it
			}
			w.seen = max(w.seen, rev)
			if err := w.sendBookmark(ctx, false); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// finish ends the replay of a past with a bookmark that says so.
func (w *watcher) finish(ctx context.Context, seen int64) error {
	w.seen = max(w.seen, seen)
	if !w.pred.AllowWatchBookmarks {
		return nil
	}
	return w.sendBookmark(ctx, false)
}

// bookmarks ticks when a bookmark is due; never if none were asked for.
func (w *watcher) bookmarks(ctx context.Context) (<-chan time.Time, func()) {
	if !w.pred.AllowWatchBookmarks && !w.opts.ProgressNotify {
		return nil, func() {}
	}
	every := bookmarkEvery
	if deadline, ok := ctx.Deadline(); ok {
		if left := time.Until(deadline) - bookmarkBefore; left > 0 && left < every {
			every = left
		}
	}
	t := time.NewTicker(every)
	return t.C, t.Stop
}

// sendEvent sends what the change is to this watcher: an object that begins to match
// its selector is added, one that ceases to match is deleted.
func (w *watcher) sendEvent(ctx context.Context, e *view.Event) error {
	if !w.covers(e.Item.Key) {
		return nil
	}
	var was, is bool
	var err error
	if e.Prev != nil {
		if was, err = w.matches(e.Prev); err != nil {
			return err
		}
	}
	if e.Type != view.Deleted {
		if is, err = w.matches(e.Item); err != nil {
			return err
		}
	}
	switch {
	case is && was:
		return w.sendObject(ctx, watch.Modified, e.Item)
	case is:
		return w.sendObject(ctx, watch.Added, e.Item)
	case was:
		return w.sendLast(ctx, e)
	default:
		return nil
	}
}

// sendLast sends the object as it last matched, with the revision of the change that
// took it away.
func (w *watcher) sendLast(ctx context.Context, e *view.Event) error {
	obj, err := w.store.Object(e.Prev)
	if err != nil {
		return err
	}
	obj = obj.DeepCopyObject()
	if err := w.store.versioner.UpdateObject(obj, uint64(e.Rev)); err != nil {
		return err
	}
	return w.send(ctx, watch.Event{Type: watch.Deleted, Object: obj})
}

func (w *watcher) covers(key string) bool {
	if !w.opts.Recursive {
		return key == w.prefix
	}
	return len(key) > len(w.prefix) && key[:len(w.prefix)] == w.prefix
}

func (w *watcher) matches(i *view.Item) (bool, error) {
	if w.quick != nil {
		return w.quick.Matches(i), nil
	}
	obj, err := w.store.Object(i)
	if err != nil {
		return false, err
	}
	return w.pred.Matches(obj)
}

func (w *watcher) sendObject(ctx context.Context, kind watch.EventType, i *view.Item) error {
	obj, err := w.store.Object(i)
	if err != nil {
		return err
	}
	return w.send(ctx, watch.Event{Type: kind, Object: obj})
}

func (w *watcher) sendBookmark(ctx context.Context, initialEnd bool) error {
	obj := w.store.cfg.NewFunc()
	if err := w.store.versioner.UpdateObject(obj, uint64(w.seen)); err != nil {
		return err
	}
	if initialEnd {
		if err := storage.AnnotateInitialEventsEndBookmark(obj); err != nil {
			return err
		}
	}
	return w.send(ctx, watch.Event{Type: watch.Bookmark, Object: obj})
}

func (w *watcher) send(ctx context.Context, e watch.Event) error {
	select {
	case w.out <- e:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// statusOf is what the client is told when its watch ends by a fault.
func statusOf(err error, rev int64) runtime.Object {
	if errors.Is(err, view.ErrGone) {
		status := TooOld(strconv.FormatInt(rev, 10), err).Status()
		return &status
	}
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		status := known.Status()
		return &status
	}
	status := apierrors.NewInternalError(err).Status()
	status.ListMeta = metav1.ListMeta{}
	return &status
}

// TooOld is what a watch is told whose revision the log no longer has; gone is a
// view.ErrGone.
func TooOld(rev string, gone error) *apierrors.StatusError {
	text := "too old resource version: " + rev
	var dropped *view.DroppedError
	if errors.As(gone, &dropped) {
		text += fmt.Sprintf(" (%d)", dropped.Rev)
	}
	return apierrors.NewResourceExpired(text)
}
