package relay

import "time"

// restart notes where the stream ends when a session begins, and returns the
// session's number.
func (r *Relay) restart(at resume) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.session++
	r.marks, r.acked, r.settled = nil, at.seq, at.seq
	if at.skip > 0 {
		r.settled = 0
	}
	r.moveTo(at.rev - 1)
	return r.session
}

// published notes that messages are on their way, or if there are none that the
// revision is done as soon as those before it are.
func (r *Relay) published(m mark, messages int) {
	r.metrics.published.Add(float64(messages))
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.seq > r.acked {
		r.marks = append(r.marks, m)
		return
	}
	r.finish(m)
}

// stored is called for every message that the stream has acknowledged.
func (r *Relay) stored(session int, seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if session != r.session {
		return
	}
	r.acked = seq
	n := 0
	for n < len(r.marks) && r.marks[n].seq <= seq {
		r.finish(r.marks[n])
		n++
	}
	if r.marks = r.marks[n:]; len(r.marks) == 0 {
		r.marks = nil
	}
}

// finish notes that everything up to a mark is stored. The caller holds mu.
func (r *Relay) finish(m mark) {
	if !m.time.IsZero() {
		r.metrics.lag.Observe(time.Since(m.time).Seconds())
	}
	r.settled = m.seq
	r.moveTo(m.rev)
}

// moveTo sets the position. The caller holds mu.
func (r *Relay) moveTo(rev int64) {
	if rev == r.position {
		return
	}
	r.position = rev
	r.metrics.position.Set(float64(rev))
	close(r.advanced)
	r.advanced = make(chan struct{})
	select {
	case r.moved <- struct{}{}:
	default:
	}
}
