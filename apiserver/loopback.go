package apiserver

import (
	"context"
	"net"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
)

// loopback is a listener for connections that never leave the process.
//
// It is made of net.Pipe and not of grpc's bufconn: there, a read deadline that was
// taken back can still fire, which net/http takes for a broken connection.
type loopback struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

var _ net.Listener = (*loopback)(nil)

func newLoopback() *loopback {
	return &loopback{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Dial opens a connection to whoever accepts.
func (l *loopback) Dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Accept implements net.Listener.
func (l *loopback) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener; open connections stay open.
func (l *loopback) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *loopback) Addr() net.Addr { return loopbackAddr{} }

type loopbackAddr struct{}

func (loopbackAddr) Network() string { return "loopback" }
func (loopbackAddr) String() string  { return "loopback" }

// withoutManagedFields makes what the server's own caches hold of an object smaller by a
// fifth: access control and admission never ask who set which field.
func withoutManagedFields(obj any) (any, error) {
	if object, err := meta.Accessor(obj); err == nil { // else it is a mark for a missed deletion
		object.SetManagedFields(nil)
	}
	return obj, nil
}
