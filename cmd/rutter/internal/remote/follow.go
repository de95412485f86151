package remote

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rutter-project/rutter/schemas"
)

// The pauses before a server that went away is asked again.
const (
	minPause = 100 * time.Millisecond
	maxPause = 5 * time.Second
)

// Follow hands the events that the caller may see to fn, in order and each once, and goes on
// with what happens, until the context ends or fn fails. A server that has answered once and
// goes away is waited for, and asked for what lies behind the last event: nothing is left
// out in silence. away, if not nil, is told why each time that the connection ends. A query
// without a beginning should have one (BehindRev): else what happens while the server is
// away, before there was any event, is not seen.
func (s *Server) Follow(ctx context.Context, q Query, away func(error), fn func(schemas.Event) error) error {
	q.follow = true
	var failed error // of fn
	pause, begun := minPause, false
	take := func(e schemas.Event) error {
		if failed = fn(e); failed != nil {
			return failed
		}
		pause = minPause
		if e.Seq != 0 { // a gap that the server has found while reading is no place in the log
			q.Behind = &Place{Rev: e.Rev, Ord: e.Ord, Whole: e.Last()}
		}
		return nil
	}
	for {
		body, err := s.events(ctx, q)
		if err == nil {
			begun = true
			err = s.read(ctx, body, take)
		}
		switch {
		case failed != nil:
			return failed
		case ctx.Err() != nil:
			return ctx.Err()
		case !begun || refused(err):
			return err
		case err == nil:
			err = errEnded
		}
		if away != nil {
			away(err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, maxPause)
	}
}

var errEnded = errors.New("the server has ended its answer")

// refused reports that asking again would be answered the same.
func refused(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		var garbled *json.SyntaxError // it is no API server
		return errors.As(err, &garbled)
	}
	switch code := status.Status().Code; code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	default:
		return code >= http.StatusBadRequest && code < http.StatusInternalServerError
	}
}
