package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"

	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas"
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
	p         *plain
	w         http.ResponseWriter
	flush     func()
	prefix    string
	bookmarks bool
	sent      int64 // events up to here are known to the client
	seen      int64 // revision up to which the log has been read
	buf       []byte
}

func (p *plain) watch(w http.ResponseWriter, req *http.Request) {
	flusher, ok := w.(http.Flusher)
	if !ok {
		p.fail(w, req, apierrors.NewInternalError(errors.New("connection can't stream")), "")
		return
	}
	info, _ := request.RequestInfoFrom(req.Context())
	query := req.URL.Query()
	ctx, cancel := context.WithTimeout(req.Context(), watchTimeout(query, rand.Float64))
	defer cancel()
	s := &stream{p: p, w: w, flush: flusher.Flush, prefix: p.keyPrefix(info), bookmarks: query.Has("allowWatchBookmarks")}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	s.flush()
	cursor, stop, err := s.begin(ctx, query)
	utilflowcontrol.WatchInitialized(ctx) // the costly part is over
	if stop != nil {
		defer func() { cancel(); stop() }()
	}
	if err == nil {
		err = s.follow(ctx, cursor)
	}
	if err != nil && ctx.Err() == nil {
		s.fault(err, query.Get("resourceVersion"))
	}
}

// begin sends the initial state if one is due and returns where to go on, and if not nil
// what to call in the end.
func (s *stream) begin(ctx context.Context, query url.Values) (view.Follower, func(), error) {
	rv := query.Get("resourceVersion")
	initial := query.Has("sendInitialEvents")
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
	snap.Ascend(s.prefix, "", func(i *view.Item) bool {
		s.buf = appendFrame(s.buf, "ADDED", i)
		if len(s.buf) >= writeSize {
			err = s.write()
		}
		return err == nil && ctx.Err() == nil
	})
	if err == nil && initial {
		s.appendBookmark(true)
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
	for {
		events, seen, more, err := cursor.Poll(pollLimit)
		if errors.Is(err, view.ErrEnd) {
			return s.finish(seen)
		}
		if err != nil {
			return err
		}
		for i := range events {
			if e := &events[i]; e.Rev > s.sent && strings.HasPrefix(e.Item.Key, s.prefix) {
				s.buf = append(s.buf, eventFrame(e)...)
			}
		}
		s.seen = max(s.seen, seen)
		if err := s.write(); err != nil {
			return err
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
			s.appendBookmark(false)
		case <-s.p.stored.Retired:
			return nil // the client comes back and finds the resource as it is now
		case <-ctx.Done():
			return nil
		}
	}
}

// finish ends the replay of a past with a bookmark that says so.
func (s *stream) finish(seen int64) error {
	if s.seen = max(s.seen, seen); s.bookmarks {
		s.appendBookmark(false)
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
	if len(s.buf) == 0 {
		return nil
	}
	_, err := s.w.Write(s.buf)
	if err != nil {
		return err
	}
	s.flush()
	if cap(s.buf) > 2*writeSize {
		s.buf = nil
	}
	s.buf = s.buf[:0]
	return nil
}

// eventFrame is the line of a change, made once for all watchers.
func eventFrame(e *view.Event) []byte {
	return e.Item.Frame(func() []byte {
		switch e.Type {
		case view.Created:
			return appendFrame(nil, "ADDED", e.Item)
		case view.Deleted:
			return appendFrame(nil, "DELETED", e.Item)
		default:
			return appendFrame(nil, "MODIFIED", e.Item)
		}
	})
}

func appendFrame(dst []byte, kind string, i *view.Item) []byte {
	if dst == nil {
		dst = make([]byte, 0, len(i.Object)+len(kind)+2*revisionRoom)
	}
	dst = append(dst, `{"type":"`...)
	dst = append(dst, kind...)
	dst = append(dst, `","object":`...)
	dst = schemas.AppendWithResourceVersion(dst, i.Object, i.Rev)
	return append(dst, "}\n"...)
}

// appendBookmark tells the client how far it is; the one that ends the initial state is
// marked (KEP-3157).
func (s *stream) appendBookmark(initialEnd bool) {
	mark := ""
	if initialEnd {
		mark = fmt.Sprintf(`,"annotations":{%q:"true"}`, metav1.InitialEventsAnnotationKey)
	}
	s.buf = fmt.Appendf(s.buf, `{"type":"BOOKMARK","object":%s"metadata":{"resourceVersion":"%d","creationTimestamp":null%s}}}`+"\n", s.p.head, s.seen, mark)
}

// fault ends the stream with what went wrong.
func (s *stream) fault(err error, resourceVersion string) {
	status := apierrors.NewInternalError(err).Status()
	var known apierrors.APIStatus
	switch {
	case errors.Is(err, view.ErrGone):
		status = apierrors.NewResourceExpired("too old resource version: " + resourceVersion).Status()
	case errors.As(err, &known):
		status = known.Status()
	}
	status.Kind, status.APIVersion = "Status", "v1"
	object, err := json.Marshal(status)
	if err != nil {
		return // a Status always encodes
	}
	s.buf = fmt.Appendf(s.buf, `{"type":"ERROR","object":%s}`+"\n", object)
	_ = s.write() // the client may be gone
}
