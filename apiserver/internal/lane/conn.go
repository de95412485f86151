package lane

import (
	"crypto/tls"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	// waitingMost is how many records wait at most, but for the rest of one frame.
	waitingMost = 16
	// drainTimeout is how long the end of a connection waits for what has not gone out yet.
	drainTimeout = 5 * time.Second
	// streamsMost is how many requests of a connection may be without an end: more than the
	// server lets run. Those beyond have no lanes.
	streamsMost = 1024
)

// Conn is a connection that an HTTP/2 server reads and writes and that lanes write, too.
// Write returns when there is room; one goroutine at a time writes all there is, and ends
// when there is nothing more. An error of the connection is told to whoever writes next.
type Conn struct {
	net.Conn // what carries the frames, TLS

	state tls.ConnectionState
	mark  string // names the field that holds a request's stream
	in    incoming
	ended chan struct{} // closed when everything is over

	mu      sync.Mutex
	changed sync.Cond // the fields below, but for streams' windows
	waiting []*record // what has not gone out, all but the last of them full
	writing bool      // flush runs
	closing bool
	err     error
	server  outgoing
	window  window
	initial int64 // window of a new stream
	streams map[uint32]*Stream
}

// record is as much as TLS encrypts at once.
type record struct {
	length int
	bytes  [1 << 14]byte
}

// records are those that hold nothing, of all connections: most are idle.
var records = sync.Pool{New: func() any { return new(record) }}

func newConn(below net.Conn, state tls.ConnectionState, mark string) *Conn {
	c := &Conn{
		Conn: below, state: state, mark: mark, ended: make(chan struct{}), in: incoming{pass: preface},
		window: window{free: firstWindow, most: firstWindow}, initial: firstWindow, streams: map[uint32]*Stream{},
	}
	c.changed.L = &c.mu
	return c
}

// queue appends to what waits and has it written. c.mu is held.
func (c *Conn) queue(p []byte) {
	for len(p) > 0 {
		last := len(c.waiting) - 1
		if last < 0 || c.waiting[last].length == len(c.waiting[last].bytes) {
			c.waiting = append(c.waiting, records.Get().(*record)) //nolint:forcetypeassert // the pool holds nothing else
			last++
		}
		r := c.waiting[last]
		n := copy(r.bytes[r.length:], p)
		r.length += n
		p = p[n:]
	}
	if !c.writing {
		c.writing = true
		go c.flush() // Close waits for it
	}
}

// queueHead appends the head of a frame. c.mu is held.
func (c *Conn) queueHead(h head) {
	var b [headLen]byte
	c.queue(h.append(b[:0]))
}

// full says whether writers must wait. c.mu is held.
func (c *Conn) full() bool { return len(c.waiting) >= waitingMost }

// broken is why nothing can be written any more. c.mu is held.
func (c *Conn) broken() error {
	if c.err == nil && c.closing {
		return net.ErrClosed
	}
	return c.err
}

// flush writes what waits, and what comes meanwhile.
func (c *Conn) flush() {
	runtime.Gosched() // let those who are about to write do so first
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.waiting) > 0 && c.err == nil {
		r := c.waiting[0]
		c.waiting = slices.Delete(c.waiting, 0, 1)
		c.changed.Broadcast()
		c.mu.Unlock()
		_, err := c.Conn.Write(r.bytes[:r.length])
		r.length = 0
		records.Put(r)
		c.mu.Lock()
		if err != nil {
			c.fail(err)
		}
	}
	c.writing = false
	c.changed.Broadcast()
}

// fail ends all writing. c.mu is held.
func (c *Conn) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.wakeAll()
}

// wakeAll lets every writer look again. c.mu is held.
func (c *Conn) wakeAll() {
	c.changed.Broadcast()
	for _, s := range c.streams {
		s.granted.Broadcast()
	}
}

// Close implements net.Conn. It waits a while for what has been written to go out.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return net.ErrClosed
	}
	c.closing = true
	c.wakeAll()
	c.drain()
	c.mu.Unlock()
	err := c.Conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail(net.ErrClosed)
	for c.writing {
		c.changed.Wait() // its write has been ended by closing
	}
	close(c.ended)
	return err
}

// drain waits until everything has gone out, or can't. c.mu is held.
func (c *Conn) drain() {
	late := false
	defer time.AfterFunc(drainTimeout, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		late = true
		c.changed.Broadcast()
	}).Stop()
	for c.writing && c.err == nil && !late {
		c.changed.Wait()
	}
}
