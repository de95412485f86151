package logfile

// Chunk is a piece of raw output.
type Chunk struct {
	Stream Stream
	Data   []byte
}

// Listener hears a container's output from the moment it was made.
type Listener struct {
	c chan Chunk
}

// listenerDepth is how many chunks a listener may lag behind before it is
// dropped: a slow terminal must never hold up the log.
const listenerDepth = 256

// C delivers output. It is closed when the container's output ended, or when
// the listener lagged too far behind.
func (l *Listener) C() <-chan Chunk { return l.c }

// Listen begins to hear the output. The caller ends it with Unlisten.
func (p *Pump) Listen() *Listener {
	l := &Listener{c: make(chan Chunk, listenerDepth)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listeners == nil { // output ended
		close(l.c)
		return l
	}
	p.listeners[l] = struct{}{}
	return l
}

// Unlisten ends what Listen began.
func (p *Pump) Unlisten(l *Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.listeners, l)
}

// tell passes on the part of raw, read at the source's offset, that is new.
func (p *Pump) tell(src *source, raw []byte) {
	end := src.offset + int64(len(raw))
	if end <= src.heard {
		return
	}
	fresh := raw[max(0, src.heard-src.offset):]
	src.heard = end
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.listeners {
		select {
		case l.c <- Chunk{Stream: src.stream, Data: append([]byte(nil), fresh...)}:
		default:
			delete(p.listeners, l)
			close(l.c)
		}
	}
}

func (p *Pump) closeListeners() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.listeners {
		close(l.c)
	}
	p.listeners = nil
}
