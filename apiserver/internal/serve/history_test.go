package serve

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/apiserver/internal/history"
	"github.com/rutter-project/rutter/schemas"
)

// slowConn is a connection whose client may stop reading.
type slowConn struct {
	mu       sync.Mutex
	got      bytes.Buffer
	reading  chan struct{} // closed while the client reads
	deadline time.Time
}

func (c *slowConn) Header() http.Header { return http.Header{} }
func (c *slowConn) WriteHeader(int)     {}
func (c *slowConn) FlushError() error   { return nil }

func (c *slowConn) SetWriteDeadline(at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = at
	return nil
}

func (c *slowConn) Write(p []byte) (int, error) {
	for {
		c.mu.Lock()
		deadline, reading := c.deadline, c.reading
		c.mu.Unlock()
		select {
		case <-reading:
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.got.Write(p)
		case <-time.After(time.Second):
			if !deadline.IsZero() && time.Now().After(deadline) {
				return 0, os.ErrDeadlineExceeded
			}
		}
	}
}

func longEvent(rev int64) schemas.Event {
	return schemas.Event{Rev: rev, Cnt: 1, Type: schemas.Added, Key: schemas.Key{Resource: "pods", Name: "p"},
		Object: []byte(`"` + strings.Repeat("x", bytesPerFlush) + `"`)}
}

func TestClientThatStopsReadingIsCutOff(t *testing.T) {
	for name, returns := range map[string]bool{"never reads again": false, "reads again in time": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := &slowConn{reading: make(chan struct{})}
				ctx, cancel := context.WithCancelCause(t.Context())
				s := newEventStream(conn, false, cancel)
				wrote := make(chan error, 1)
				go func() { wrote <- s.event(longEvent(1)) }()
				<-ctx.Done()
				require.ErrorIs(t, context.Cause(ctx), errStalled)
				if returns {
					close(conn.reading)
					require.NoError(t, <-wrote)
					s.fail(context.Cause(ctx))
				} else {
					require.ErrorIs(t, <-wrote, os.ErrDeadlineExceeded)
				}
				s.close()
				lines := strings.Split(strings.TrimSpace(conn.got.String()), "\n")
				if returns {
					require.Len(t, lines, 2)
					require.Contains(t, lines[1], `"type":"ERROR"`)
					require.Contains(t, lines[1], "has not read for too long")
				} else {
					require.Equal(t, []string{""}, lines)
				}
			})
		})
	}
}

func TestIdleStreamShowsThatItIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &slowConn{reading: make(chan struct{})}
		close(conn.reading)
		s := newEventStream(conn, true, func(error) {})
		s.ready()
		time.Sleep(2*heartbeatEvery + time.Second)
		s.close()
		require.Equal(t, strings.Repeat(": still here\n\n", 2), conn.got.String())
	})
}

func TestSecretsAreRedactedInEvents(t *testing.T) {
	e := schemas.Event{Type: schemas.Added, Key: schemas.Key{Resource: "secrets", Namespace: "n", Name: "s"},
		Object: []byte(`{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s"},"type":"Opaque","sealed":"AAAA","data":{"a":"Yg=="},"stringData":{"a":"b"}}`)}
	require.JSONEq(t, `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s"},"type":"Opaque"}`, string(redacted(e).Object))
	e.Object = []byte(`no JSON at all: hunter2`)
	require.Empty(t, redacted(e).Object)
	e.Key.Resource, e.Object = "configmaps", []byte(`{"data":{"a":"b"}}`)
	require.Equal(t, e.Object, redacted(e).Object)
}

func TestPlaces(t *testing.T) {
	for text, want := range map[string]*history.Place{
		"7.2": {Rev: 7, Ord: 2}, "7.0": {Rev: 7}, "7": {Rev: 7, Whole: true}, "0": {Whole: true},
		"": nil, ".": nil, "7.": nil, ".2": nil, "7.2.1": nil, "-7": nil, "7.-2": nil, "seven": nil, "99999999999999999999": nil,
	} {
		got, err := parsePlace(text)
		if want == nil {
			require.ErrorContains(t, err, "want <revision>.<ordinal>, or <revision> for all of it", text)
			continue
		}
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
}

// TestStreamBeginsWhenNothingIsMissed: a client that has the head of the answer may rely on
// seeing what happens from then on, and who is refused is told by the status.
func TestStreamBeginsWhenNothingIsMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := httptest.NewRecorder()
		w.Code = 0
		s := newEventStream(w, false, func(error) {})
		time.Sleep(time.Second)
		require.False(t, w.Flushed, "the log has not begun to send")
		s.ready()
		time.Sleep(time.Second)
		require.True(t, w.Flushed)
		require.Equal(t, http.StatusOK, w.Code)
		s.close()
	})
}
