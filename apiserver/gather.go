package apiserver

import (
	"net"
	"runtime"
	"sync"
	"time"
)

// gathering is a listener whose connections write what several writers have to say in
// one system call. HTTP/2 writes each of a hundred watches' frames on its own, and TLS
// each record; most of what that costs is the kernel's.
type gathering struct{ net.Listener }

// Accept implements net.Listener.
func (l gathering) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newGathered(conn), nil
}

const (
	// gatherMost is how many bytes wait at most: a client that does not read holds up its
	// own connection only, as without gathering.
	gatherMost = 256 << 10
	// drainTimeout is how long the end of a connection waits for what has not gone out yet.
	drainTimeout = 5 * time.Second
)

// gathered is such a connection. Write returns when there is room; one goroutine at a time
// writes all there is, and ends when there is nothing more. An error of the connection is
// told to whoever writes next.
type gathered struct {
	net.Conn

	mu      sync.Mutex
	changed *sync.Cond // the fields below
	waiting *[]byte    // one of gatherRoom, nil if nothing waits; guarded by mu
	writing bool       // flush runs; guarded by mu
	err     error      // guarded by mu
}

// gatherRoom is where bytes wait, for all connections: most are idle.
var gatherRoom = sync.Pool{New: func() any { return new([]byte) }}

func newGathered(conn net.Conn) *gathered {
	g := &gathered{Conn: conn}
	g.changed = sync.NewCond(&g.mu)
	return g
}

// Write implements net.Conn.
func (g *gathered) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.waiting != nil && len(*g.waiting)+len(p) > gatherMost && g.err == nil {
		g.changed.Wait()
	}
	if g.err != nil {
		return 0, g.err
	}
	if g.waiting == nil {
		g.waiting = gatherRoom.Get().(*[]byte) //nolint:forcetypeassert // the pool holds nothing else
	}
	*g.waiting = append(*g.waiting, p...)
	if !g.writing {
		g.writing = true
		go g.flush() // Close waits for it
	}
	return len(p), nil
}

// flush writes what waits, and what comes meanwhile.
func (g *gathered) flush() {
	runtime.Gosched() // let those who are about to write do so first
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.waiting != nil && g.err == nil {
		piece := g.waiting
		g.waiting = nil
		g.changed.Broadcast()
		g.mu.Unlock()
		_, err := g.Conn.Write(*piece)
		*piece = (*piece)[:0]
		gatherRoom.Put(piece)
		g.mu.Lock()
		if g.err == nil {
			g.err = err
		}
	}
	g.writing = false
	g.changed.Broadcast()
}

// drain waits until everything has gone out, or can't.
func (g *gathered) drain(most time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	late := false
	defer time.AfterFunc(most, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		late = true
		g.changed.Broadcast()
	}).Stop()
	for g.writing && !late {
		g.changed.Wait()
	}
}

// SetWriteDeadline implements net.Conn. TLS says that nothing is to be written any more,
// after its last record, by a deadline that has passed.
func (g *gathered) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() && !t.After(time.Now()) {
		g.drain(drainTimeout)
	}
	return g.Conn.SetWriteDeadline(t)
}

// Close implements net.Conn. What waits is lost if nobody drained it: whoever closes
// without saying goodbye wants that.
func (g *gathered) Close() error {
	err := g.Conn.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = net.ErrClosed
	}
	g.changed.Broadcast()
	for g.writing {
		g.changed.Wait() // its write has been ended by closing
	}
	return err
}
