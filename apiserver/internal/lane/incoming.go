package lane

import (
	"encoding/binary"
	"io"
	"slices"
	"strconv"
)

// incoming is how far the server is in the client's frames. Only who reads uses it, and one
// does at a time.
type incoming struct {
	begun  [headLen]byte
	have   int    // bytes of begun
	ready  []byte // is read first
	pass   int    // bytes that are read as they come, then
	after  []byte // is read then
	frame  []byte // the last that was read whole
	block  bool   // a header block is not complete
	newest uint32 // stream
}

// Read implements net.Conn, for the server.
func (c *Conn) Read(p []byte) (int, error) {
	in := &c.in
	for len(p) > 0 {
		switch {
		case len(in.ready) > 0:
			n := copy(p, in.ready)
			in.ready = in.ready[n:]
			return n, nil
		case in.pass > 0:
			n, err := c.Conn.Read(p[:min(len(p), in.pass)])
			in.pass -= n
			return n, err
		case len(in.after) > 0:
			in.ready, in.after = in.after, nil
		default:
			if err := c.next(); err != nil {
				return 0, err
			}
		}
	}
	return 0, nil
}

// next reads a frame's head and decides what the server sees of the frame.
func (c *Conn) next() error {
	in := &c.in
	for in.have < headLen {
		n, err := c.Conn.Read(in.begun[in.have:])
		if in.have += n; err != nil && in.have < headLen {
			return err
		}
	}
	in.have = 0
	h := parseHead(&in.begun)
	switch {
	case in.block: // whatever comes now must be its continuation
		in.block = h.kind != kindContinuation || !h.has(flagEndHeaders)
	case h.kind == kindHeaders:
		in.block = !h.has(flagEndHeaders)
		c.request(h)
		return nil
	case h.kind == kindReset && h.length == resetLen:
		c.mu.Lock()
		c.end(h.stream)
		c.mu.Unlock()
	case h.kind == kindWindowUpdate && h.length == updateLen:
		return c.update(h)
	case h.kind == kindSettings && h.length <= 100*settingLen && h.stream == 0 && !h.has(flagAck):
		return c.settings(h)
	}
	in.through(h)
	return nil
}

// through lets the server see a frame as it is.
func (in *incoming) through(h head) {
	in.ready, in.pass = in.begun[:], h.length
}

// payload reads what belongs to a head that was read, and returns the whole frame.
func (c *Conn) payload(h head) ([]byte, error) {
	frame := slices.Grow(c.in.frame[:0], headLen+h.length)[:headLen+h.length]
	c.in.frame = frame
	copy(frame, c.in.begun[:])
	_, err := io.ReadFull(c.Conn, frame[headLen:])
	return frame, err
}

// request marks a request with the number of its stream, if it has no body.
func (c *Conn) request(h head) {
	in := &c.in
	fresh := h.stream > in.newest && h.stream%2 == 1
	in.newest = max(in.newest, h.stream)
	if !fresh || !h.has(flagEndStream) || !h.has(flagEndHeaders) || h.has(flagPadded) {
		in.through(h)
		return
	}
	field := appendField(nil, c.mark, strconv.FormatUint(uint64(h.stream), 10))
	if h.length+len(field) > dataMost || !c.open(h.stream) {
		in.through(h)
		return
	}
	in.pass, in.after = h.length, field
	h.length += len(field)
	in.ready = h.append(in.begun[:0])
}

// appendField appends a header field as HPACK writes one that is never indexed, with a
// new name, both as they are. Neither is longer than 126 bytes.
func appendField(b []byte, name, value string) []byte {
	b = append(b, 0x10, byte(len(name)))
	b = append(b, name...)
	b = append(b, byte(len(value)))
	return append(b, value...)
}

// open notes a new stream, if there is room for it.
func (c *Conn) open(id uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.streams) >= streamsMost {
		return false
	}
	c.streams[id] = newStream(c, id)
	return true
}

// update takes a WINDOW_UPDATE and leaves to the server what is its own.
func (c *Conn) update(h head) error {
	frame, err := c.payload(h)
	if err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(frame[headLen:]) & largestWindow)
	if n == 0 {
		c.in.ready = frame // an error that the server answers
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.stream != 0 {
		c.in.ready = c.grant(h.stream, n, frame)
		return nil
	}
	own, ok := c.window.returned(n)
	switch {
	case !ok:
		c.in.ready = overflow(0)
	case own > 0:
		c.in.ready = appendUpdate(frame[:0], 0, own)
	}
	c.changed.Broadcast()
	return nil
}

// grant enlarges a stream's window and returns what the server must see. c.mu is held.
func (c *Conn) grant(id uint32, n int64, frame []byte) []byte {
	s := c.streams[id]
	if s == nil {
		return frame
	}
	if s.taken && c.initial+s.credit+n > largestWindow {
		return overflow(id)
	}
	s.credit += n
	if !s.taken {
		return frame
	}
	s.granted.Broadcast()
	return nil
}

// overflow is what makes the server find the window too large, whatever it believes.
func overflow(stream uint32) []byte {
	return appendUpdate(appendUpdate(nil, stream, largestWindow), stream, largestWindow)
}

// settings takes what the client says of new windows, which holds for open streams, too.
// The last of several values holds.
func (c *Conn) settings(h head) error {
	frame, err := c.payload(h)
	if err != nil {
		return err
	}
	c.in.ready = frame
	for setting := range slices.Chunk(frame[headLen:], settingLen) {
		if len(setting) < settingLen || binary.BigEndian.Uint16(setting) != settingInitialWindow {
			continue
		}
		size := int64(binary.BigEndian.Uint32(setting[2:]))
		if size > largestWindow {
			continue // an error that the server answers
		}
		c.mu.Lock()
		c.initial = size
		c.wakeAll()
		c.mu.Unlock()
	}
	return nil
}
