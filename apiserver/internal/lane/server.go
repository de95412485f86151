package lane

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"net"
	"net/http"
	"strconv"
	"sync"
)

// Server serves the HTTP/2 connections of another server, whose requests get lanes.
type Server struct {
	http *http.Server
	mark string // see Conn
	from *listener
}

// Attach makes a server, with the settings of outer, that takes its HTTP/2 connections when
// TLS is established. Outer keeps the rest: handshakes and HTTP/1.1. It must not serve yet.
// The caller runs Serve, and ends both.
func Attach(outer *http.Server) *Server {
	s := &Server{mark: newMark(), from: &listener{conns: make(chan net.Conn), done: make(chan struct{})}}
	s.http = &http.Server{
		Handler: s.offer(outer.Handler), Protocols: new(http.Protocols), HTTP2: outer.HTTP2,
		ReadTimeout: outer.ReadTimeout, ReadHeaderTimeout: outer.ReadHeaderTimeout, WriteTimeout: outer.WriteTimeout,
		IdleTimeout: outer.IdleTimeout, MaxHeaderBytes: outer.MaxHeaderBytes, ErrorLog: outer.ErrorLog,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	s.http.Protocols.SetUnencryptedHTTP2(true) // as it sees it
	outer.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){"h2": s.take}
	return s
}

// newMark names the field that tells a request's stream, so that no client can send one.
func newMark() string {
	var chance [16]byte
	_, _ = rand.Read(chance[:]) // never fails
	return "rutter-lane-" + hex.EncodeToString(chance[:])
}

type connKey struct{}

// take serves a connection until it ends.
func (s *Server) take(_ *http.Server, below *tls.Conn, _ http.Handler) {
	c := newConn(below, below.ConnectionState(), s.mark)
	select {
	case s.from.conns <- c:
		<-c.ended
	case <-s.from.done:
	}
}

// offer puts a request's stream into its context, and says of the request that it came
// over TLS.
func (s *Server) offer(next http.Handler) http.Handler {
	name := http.CanonicalHeaderKey(s.mark)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := r.Context().Value(connKey{}).(*Conn)
		if !ok {
			http.Error(w, "not a connection of this server", http.StatusInternalServerError)
			return
		}
		r.TLS = &c.state
		marks := r.Header[name]
		delete(r.Header, name)
		if stream := c.marked(marks); stream != nil {
			r = r.WithContext(context.WithValue(r.Context(), streamKey{}, stream))
			r.Body = http.NoBody // the server's sends "100 Continue" when it is read, which would be taken for the answer
		}
		next.ServeHTTP(w, r)
	})
}

// marked finds a request's stream.
func (c *Conn) marked(marks []string) *Stream {
	if len(marks) != 1 {
		return nil
	}
	id, err := strconv.ParseUint(marks[0], 10, 31)
	if err != nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[uint32(id)]
}

// Serve serves until Shutdown or Close. It returns http.ErrServerClosed then.
func (s *Server) Serve() error { return s.http.Serve(s.from) }

// Shutdown takes no more connections, tells clients to send no more requests, and waits for
// those that run.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// Close closes all connections.
func (s *Server) Close() error { return s.http.Close() }

// listener hands the server its connections.
type listener struct {
	conns chan net.Conn
	done  chan struct{} // closed when no connection is taken any more
	once  sync.Once
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "lane" }
func (addr) String() string  { return "lane" }
