package lane

// outgoing is how far the server is in its frames.
type outgoing struct {
	begun [headLen]byte // what there is of the next frame's head
	have  int           // bytes of begun
	owed  int           // bytes until the frame ends that is on its way
	rest  head          // of a DATA frame, what has not begun to go out: length 0 if nothing
	block bool          // a header block is not complete
}

// between says whether a frame of a lane may be put in now. A DATA frame that waits for the
// window goes first.
func (o *outgoing) between() bool { return o.owed == 0 && o.rest.length == 0 && !o.block }

// Write implements net.Conn, for the server.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, wrote := &c.server, 0
	for wrote < len(p) {
		if err := c.broken(); err != nil {
			return wrote, err
		}
		switch left := p[wrote:]; {
		case c.full() || o.owed == 0 && o.rest.length > 0 && c.window.free <= 0:
			c.changed.Wait()
		case o.owed > 0:
			n := min(o.owed, len(left), dataMost)
			c.queue(left[:n])
			wrote += n
			if o.owed -= n; o.owed == 0 {
				c.changed.Broadcast()
			}
		case o.rest.length > 0:
			c.piece()
		default:
			n := copy(o.begun[o.have:], left)
			wrote += n
			if o.have += n; o.have == headLen {
				o.have = 0
				c.begin(parseHead(&o.begun))
			}
		}
	}
	return wrote, nil
}

// begin lets a frame of the server begin. c.mu is held.
func (c *Conn) begin(h head) {
	o := &c.server
	switch h.kind {
	case kindData:
		if h.has(flagEndStream) {
			c.end(h.stream)
		}
		if h.length > 0 {
			o.rest = h
			return
		}
	case kindHeaders, kindContinuation:
		o.block = !h.has(flagEndHeaders)
		s := c.streams[h.stream]
		if s != nil && !o.block {
			s.answered = true
		}
		if h.kind == kindHeaders && h.has(flagEndStream) {
			c.end(h.stream)
		}
	case kindReset:
		c.end(h.stream)
	}
	c.queueHead(h)
	if o.owed = h.length; o.owed == 0 {
		c.changed.Broadcast()
	}
}

// piece lets as much of a DATA frame begin as the client takes. The server does not pad, so
// that any part of the payload is one. c.mu is held.
func (c *Conn) piece() {
	o := &c.server
	part := o.rest
	part.length = int(min(int64(part.length), c.window.free))
	if o.rest.length -= part.length; o.rest.length > 0 {
		part.flags &^= flagEndStream
	}
	c.window.served(part.length)
	c.queueHead(part)
	o.owed = part.length
}

// end forgets a stream on which nothing may be sent any more. c.mu is held.
func (c *Conn) end(id uint32) {
	s := c.streams[id]
	if s == nil {
		return
	}
	delete(c.streams, id)
	s.over = true
	s.wake()
}
