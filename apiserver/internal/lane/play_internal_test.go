package lane

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// The server of a play. It knows what it is shown, as net/http's does.

// pieces reads and writes in pieces of any length.
type pieces struct {
	*Conn
	chance *rand.Rand
}

func (p pieces) Read(b []byte) (int, error) { return p.Conn.Read(b[:1+p.chance.IntN(len(b))]) }

func (p pieces) Write(b []byte) (int, error) {
	wrote := 0
	for wrote < len(b) {
		if p.chance.IntN(4) == 0 {
			time.Sleep(time.Second) // of the bubble: others may act now
		}
		n, err := p.Conn.Write(b[wrote : wrote+1+p.chance.IntN(len(b)-wrote)])
		if wrote += n; err != nil {
			return wrote, err
		}
	}
	return wrote, nil
}

// serve reads frames until the connection ends.
func (p *play) serve() {
	from := pieces{p.conn, rand.New(rand.NewPCG(7, 7))}
	greeting := make([]byte, preface)
	if _, err := io.ReadFull(from, greeting); err != nil || string(greeting) != http2.ClientPreface {
		p.fail(fmt.Errorf("preface %q: %w", greeting, err))
		return
	}
	framer := http2.NewFramer(io.Discard, from)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			return // what follows from it, finish sees
		}
		p.mu.Lock()
		p.served(f)
		p.mu.Unlock()
	}
}

func (p *play) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed == nil {
		p.failed = err
	}
}

func (p *play) served(f http2.Frame) {
	r := p.sent[f.Header().StreamID]
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		r.view, r.seen = p.initview, true
		var marks []string
		for _, field := range f.RegularFields() {
			if field.Name == "mark" {
				marks = append(marks, field.Value)
			}
		}
		r.lane = p.conn.marked(marks)
		if r.lane != nil && r.lane.id != f.StreamID {
			p.failed = fmt.Errorf("stream %d marked as %d", f.StreamID, r.lane.id)
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			p.view += int64(f.Increment)
		} else {
			r.view += int64(f.Increment)
		}
	case *http2.SettingsFrame:
		size, _ := f.Value(http2.SettingInitialWindowSize)
		for _, r := range p.sent {
			r.view += int64(size) - p.initview
		}
		p.initview = int64(size)
	case *http2.RSTStreamFrame:
		r.done = true
	case *http2.PingFrame:
		go p.out(frame(http2.FramePing, http2.FlagPingAck, 0, f.Data[:]))
	}
}

// out writes frames of the server, one at a time.
func (p *play) out(b []byte) {
	p.mu.Lock()
	chance := rand.New(rand.NewPCG(p.chance.Uint64(), 0))
	p.mu.Unlock()
	p.turn <- struct{}{}
	_, _ = pieces{p.conn, chance}.Write(b)
	<-p.turn
}

// answer begins a response: some become lanes.
func (p *play) answer() {
	id := p.any()
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.sent[id]
	if r == nil || !r.seen || r.begun || r.done || p.writing {
		return
	}
	r.begun, p.writing = true, true
	lane := r.lane
	ctx, stop := context.WithCancel(context.WithValue(context.Background(), streamKey{}, r.lane))
	r.stop, r.lane = stop, nil
	early := p.draw()%2 == 0
	if early && lane != nil {
		r.lane, _ = Open(ctx)
	}
	go func() {
		p.out(frame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, id, []byte{0x88}))
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.writing = false; !early && lane != nil {
			r.lane, _ = Open(ctx)
		}
	}()
}

// write lets a stream that has begun say something.
func (p *play) write() {
	id := p.any()
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.sent[id]
	if r == nil || !r.begun || r.busy || r.done && r.lane == nil { // a lane may try after a reset
		return
	}
	size := p.size()
	if r.lane != nil && p.draw()%2 == 0 {
		size = leastWindow // so that the connection's window ends
	}
	text := make([]byte, size)
	for i := range text {
		text[i] = byte(len(r.said) + i)
	}
	if r.lane != nil {
		r.busy = true
		r.said = append(r.said, text...)
		go func() {
			_, _ = r.lane.Write(text)
			p.mu.Lock()
			defer p.mu.Unlock()
			r.busy = false
		}()
		return
	}
	n := min(int64(len(text)), p.view, r.view)
	if p.writing || n < 0 || n == 0 && len(text) > 0 {
		return
	}
	flags := http2.Flags(0)
	if p.draw()%8 == 0 {
		flags, r.done = http2.FlagDataEndStream, true
	}
	p.say(id, r, text[:n], flags)
}

// say writes a DATA frame as the server does, which believes that there is room. p.mu is
// held.
func (p *play) say(id uint32, r *response, text []byte, flags http2.Flags) {
	p.writing = true
	p.view -= int64(len(text))
	r.view -= int64(len(text))
	r.said = append(r.said, text...)
	go func() {
		p.out(frame(http2.FrameData, flags, id, text))
		p.mu.Lock()
		defer p.mu.Unlock()
		p.writing = false
	}()
}

// end lets the server end a stream, when its lane has said everything.
func (p *play) end(id uint32) {
	p.mu.Lock()
	lane := p.sent[id].lane
	p.mu.Unlock()
	if lane != nil && !lane.Close(true) {
		p.fail(fmt.Errorf("stream %d is torn", id))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent[id].done = true
	p.say(id, p.sent[id], nil, http2.FlagDataEndStream)
}
