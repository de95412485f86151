package serve

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"

	"github.com/rutter-project/rutter/apiserver/internal/lane"
	"github.com/rutter-project/rutter/apiserver/internal/store"
	"github.com/rutter-project/rutter/apiserver/internal/view"
)

const (
	// pollLimit is how many events go out between two flushes at most.
	pollLimit = 512
	// bookmarkEvery and bookmarkBefore are when a watch that asked for bookmarks gets
	// one: about every minute, and shortly before it ends.
	bookmarkEvery  = time.Minute
	bookmarkBefore = 2 * time.Second
)

// stream is one WATCH: a cursor and a connection. Nothing is buffered for it but what
// goes into one write; a client that does not read stops only its own goroutine.
type stream struct {
	*ask
	p         *plain
	w         io.Writer
	flush     func()
	bookmarks bool
	begun     bool  // an event has been sent
	sent      int64 // events up to here are known to the client
	seen      int64 // revision up to which the log has been read
	buf       []byte
}

func (p *plain) watch(a *ask, w http.ResponseWriter, req *http.Request) {
	flusher, ok := w.(http.Flusher)
	if !ok {
		p.fail(w, req, apierrors.NewInternalError(errors.New("connection can't stream")), "")
		return
	}
	ctx, cancel := context.WithTimeout(req.Context(), watchTimeout(a.query, rand.Float64))
	defer cancel()
	s := &stream{ask: a, p: p, w: w, flush: flusher.Flush, bookmarks: a.query.Has("allowWatchBookmarks")}
	w.Header().Set("Content-Type", a.form.mediaType(true))
	w.WriteHeader(http.StatusOK)
	s.flush()
	if direct, ok := lane.Open(ctx); ok {
		s.w, s.flush = direct, func() {}
		defer func() {
			if !direct.Close(true) {
				panic(http.ErrAbortHandler) // the client must not take a part of an event for the end
			}
		}()
	}
	cursor, stop, err := s.begin(ctx)
	utilflowcontrol.WatchInitialized(ctx) // the costly part is over
	if stop != nil {
		defer func() { cancel(); stop() }()
	}
	if err == nil {
		err = s.follow(ctx, cursor)
		p.stored.Store.CountEnd(err)
	}
	if err != nil && ctx.Err() == nil {
		s.fault(err)
	}
}

// begin sends the initial state if one is due and returns where to go on, and if not nil
// what to call in the end.
func (s *stream) begin(ctx context.Context) (view.Follower, func(), error) {
	rv := s.query.Get("resourceVersion")
	initial := s.query.Has("sendInitialEvents")
	if rev, err := strconv.ParseInt(rv, 10, 64); err == nil && rev > 0 && !initial {
		s.sent, s.seen = rev, rev
		return s.p.stored.Store.Follow(ctx, rev)
	}
	if _, err := s.p.stored.Store.Fresh(ctx, rv); err != nil {
		return nil, nil, err
	}
	snap, cursor, stop, err := s.p.stored.Store.SnapshotAndFollow(ctx)
	if err != nil {
		return nil, nil, err
	}
	s.sent, s.seen = snap.Rev, snap.Rev
	sent := 0
	snap.Select(s.key, "", s.selector, func(i *view.Item) bool {
		if s.one && i.Key != s.key {
			return false
		}
		sent++
		if s.buf, err = s.form.appendFrame(s.buf, added, i, !s.begun); err == nil && len(s.buf) >= writeSize {
			err = s.write()
		}
		s.begun = true
		return err == nil && ctx.Err() == nil
	})
	s.p.stored.Store.CountInitial(sent)
	if err == nil && s.bookmarks { // whether the initial state was asked for by name or in the old way
		err = s.bookmark(true)
	}
	if err == nil {
		err = s.write()
	}
	return cursor, stop, err
}

func (s *stream) follow(ctx context.Context, cursor view.Follower) error {
	var timer *time.Timer
	var due <-chan time.Time
	if s.bookmarks {
		timer = time.NewTimer(untilBookmark(ctx))
		defer timer.Stop()
		due = timer.C
	}
	ended, retired := false, s.p.stored.Retired
	for {
		events, seen, more, err := cursor.Poll(pollLimit)
		if errors.Is(err, view.ErrEnd) {
			return s.finish(seen)
		}
		if err != nil {
			return err
		}
		if err := s.tellAll(events); err != nil {
			return err
		}
		s.seen = max(s.seen, seen)
		if ended && len(events) < pollLimit {
			return nil // the client comes back and finds the resource as it is now
		}
		select {
		case <-more:
		case <-due:
			timer.Reset(untilBookmark(ctx))
			rev := s.p.stored.Store.Newest(ctx)
			if cursor.Behind() {
				continue // there is news; the bookmark would overtake it
			}
			s.seen = max(s.seen, rev)
			if err := s.bookmark(false); err != nil {
				return err
			}
		case <-retired: // what came before is told: a definition's objects go before it does
			ended, retired = true, nil
		case <-ctx.Done():
			return nil
		}
	}
}

// finish ends the replay of a past with a bookmark that says so.
func (s *stream) finish(seen int64) error {
	if s.seen = max(s.seen, seen); s.bookmarks {
		if err := s.bookmark(false); err != nil {
			return err
		}
	}
	return s.write()
}

func untilBookmark(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		if left := time.Until(deadline) - bookmarkBefore; left > 0 && left < bookmarkEvery {
			return left
		}
	}
	return bookmarkEvery
}

// write sends what has gathered, in one piece.
func (s *stream) write() error {
	if err := s.send(s.buf); err != nil {
		return err
	}
	if cap(s.buf) > 2*writeSize {
		s.buf = nil
	}
	s.buf = s.buf[:0]
	return nil
}

func (s *stream) send(frame []byte) error {
	if len(frame) == 0 {
		return nil
	}
	if _, err := s.w.Write(frame); err != nil {
		return err
	}
	s.flush()
	return nil
}

const (
	added    = "ADDED"
	modified = "MODIFIED"
	deleted  = "DELETED"
)

// tellAll sends what changes are to this watcher. A single one, which is how they come
// mostly, is not copied first.
func (s *stream) tellAll(events []view.Event) error {
	for i := range events {
		frame, err := s.tell(&events[i])
		if err != nil {
			return err
		}
		if len(events) == 1 && len(s.buf) == 0 {
			return s.send(frame)
		}
		s.buf = append(s.buf, frame...)
	}
	return s.write()
}

// tell returns what a change is to this watcher, nil if nothing: an object that begins to
// match its selector is added, one that ceases to match is deleted.
func (s *stream) tell(e *view.Event) ([]byte, error) {
	if e.Rev <= s.sent || !strings.HasPrefix(e.Item.Key, s.key) || s.one && e.Item.Key != s.key {
		return nil, nil
	}
	was := e.Prev != nil && s.selector.Matches(e.Prev)
	is := e.Type != view.Deleted && s.selector.Matches(e.Item)
	event, last := "", false
	switch {
	case is && was:
		event = modified
	case is:
		event = added
	case was:
		event, last = deleted, e.Type != view.Deleted
	case e.Type == view.Deleted && e.Prev == nil && s.selector.Empty():
		event = deleted // what it was is not known here
	default:
		return nil, nil
	}
	kind := view.FrameKind{Form: s.form.kind(!s.begun), Event: event, Last: last}
	frame, ok := e.Item.Frame(kind)
	if !ok {
		var err error
		if frame, err = s.frame(e, kind); err != nil {
			return nil, err
		}
	}
	s.begun = true
	return frame, nil
}

// frame makes what watchers of a form are told of a change, for all of them.
func (s *stream) frame(e *view.Event, kind view.FrameKind) ([]byte, error) {
	item := e.Item
	if kind.Last {
		item = &view.Item{Key: e.Prev.Key, Rev: e.Rev, Object: e.Prev.Object}
	}
	frame, err := s.form.appendFrame(nil, kind.Event, item, !s.begun)
	if err == nil {
		e.Item.KeepFrame(kind, frame)
	}
	return frame, err
}

// bookmark tells the client how far it is; the one that ends the initial state is marked.
func (s *stream) bookmark(initialEnd bool) error {
	frame, err := s.form.bookmark(s.seen, initialEnd, !s.begun)
	s.buf = append(s.buf, frame...)
	s.begun = true
	return err
}

// fault ends the stream with what went wrong.
func (s *stream) fault(err error) {
	status := apierrors.NewInternalError(err).Status()
	var known apierrors.APIStatus
	switch {
	case errors.Is(err, view.ErrGone):
		status = store.TooOld(s.query.Get("resourceVersion"), err).Status()
	case errors.As(err, &known):
		status = known.Status()
	}
	status.Kind, status.APIVersion = "Status", "v1"
	frame, err := s.form.fault(status)
	if err != nil {
		return // a Status always encodes
	}
	s.buf = append(s.buf, frame...)
	_ = s.write() // the client may be gone
}
