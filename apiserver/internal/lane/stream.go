package lane

import (
	"context"
	"errors"
	"sync"
)

var (
	errOver   = errors.New("lane: the stream is over")
	errClosed = errors.New("lane: write to a closed stream")
)

// Stream is a response that a handler writes past the server.
type Stream struct {
	conn *Conn
	id   uint32

	// Guarded by conn.mu.
	granted  sync.Cond // its window, or its end
	credit   int64     // what the client granted beyond the initial window, less what was sent
	answered bool      // the response's headers have been written
	taken    bool      // the handler writes it
	over     bool      // nothing may be sent any more
	closed   bool      // nothing shall be written any more
	torn     bool      // closed within what a write had to say
	stop     func() bool
}

func newStream(c *Conn, id uint32) *Stream {
	s := &Stream{conn: c, id: id}
	s.granted.L = &c.mu
	return s
}

// wake lets who writes look again. conn.mu is held.
func (s *Stream) wake() {
	s.granted.Broadcast()
	s.conn.changed.Broadcast()
}

type streamKey struct{}

// Open takes over the body of the response to a request, whose context it gets or one that
// stems from it: what is written to the stream comes after the headers, and nothing may be
// written to the ResponseWriter any more. Writing ends with the context. It is false if the
// request has none; then the ResponseWriter is the only way.
//
// Who has opened a stream closes it before the handler returns.
func Open(ctx context.Context) (*Stream, bool) {
	s, ok := ctx.Value(streamKey{}).(*Stream)
	if !ok || !s.take() {
		return nil, false
	}
	stop := context.AfterFunc(ctx, s.cut)
	s.conn.mu.Lock()
	s.stop = stop
	s.conn.mu.Unlock()
	return s, true
}

func (s *Stream) take() bool {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.taken || s.over || !s.conn.window.ample() {
		return false
	}
	s.taken = true
	return true
}

// cut ends writing.
func (s *Stream) cut() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.closed = true
	s.wake()
}

// Close ends writing. Whole says that everything has been written. It is false if the client
// still listens and has a part of that, or of what was written last: then the handler must
// not end the response as if it were whole.
func (s *Stream) Close(whole bool) bool {
	s.stop()
	s.cut()
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return whole && !s.torn || s.over
}

// Write implements io.Writer. It returns when the bytes are on their way, in order; it waits
// while the client takes no more.
func (s *Stream) Write(p []byte) (int, error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	wrote := 0
	for wrote < len(p) {
		n, err := s.next(len(p) - wrote)
		if err != nil {
			s.torn = wrote > 0 && errors.Is(err, errClosed)
			return wrote, err
		}
		c.queueHead(head{length: n, kind: kindData, stream: s.id})
		c.queue(p[wrote : wrote+n])
		c.window.used(n)
		s.credit -= int64(n)
		wrote += n
	}
	return wrote, nil
}

// next waits until some of n bytes may be sent, and says how many. conn.mu is held.
func (s *Stream) next(n int) (int, error) {
	for c := s.conn; ; {
		own, shared := c.initial+s.credit, c.window.free
		switch {
		case c.broken() != nil:
			return 0, c.broken()
		case s.over:
			return 0, errOver
		case s.closed:
			return 0, errClosed
		case own <= 0:
			s.granted.Wait()
		case shared <= 0 || !s.answered || !c.server.between() || c.full():
			c.changed.Wait()
		default:
			return int(min(int64(n), own, shared, dataMost)), nil
		}
	}
}
