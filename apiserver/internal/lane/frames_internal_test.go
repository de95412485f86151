package lane

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// FuzzFrames lets a server, lanes and a client do what they like, in an order and in pieces
// that the input decides, and looks at both ends with a model of its own: frames stay whole
// and in a legal order, no window is exceeded by what is sent, the server is told of no
// window that it has not, and everything arrives in the end.
func FuzzFrames(f *testing.F) {
	for seed := range uint64(200) {
		chance := rand.New(rand.NewPCG(seed, 1))
		script := make([]byte, 50+chance.IntN(400))
		for i := range script {
			script[i] = byte(chance.Uint32())
		}
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 2000 {
			t.Skip("long scripts say nothing new")
		}
		synctest.Test(t, func(t *testing.T) { newPlay(t, script).run() })
	})
}

// wire is a connection whose other end is the test.
type wire struct {
	mu      sync.Mutex
	changed *sync.Cond
	in, out []byte
	closed  bool
	chance  *rand.Rand // of the length of what is read
}

func newWire(seed uint64) *wire {
	w := &wire{chance: rand.New(rand.NewPCG(seed, 2))}
	w.changed = sync.NewCond(&w.mu)
	return w
}

func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.in) == 0 && !w.closed {
		w.changed.Wait()
	}
	if w.closed {
		return 0, io.EOF
	}
	n := copy(p[:1+w.chance.IntN(len(p))], w.in)
	w.in = w.in[n:]
	return n, nil
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, net.ErrClosed
	}
	w.out = append(w.out, p...)
	return len(p), nil
}

func (w *wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.changed.Broadcast()
	return nil
}

func (w *wire) say(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.in = append(w.in, p...)
	w.changed.Broadcast()
}

func (w *wire) heard() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.out
	w.out = nil
	return p
}

func (*wire) LocalAddr() net.Addr              { return addr{} }
func (*wire) RemoteAddr() net.Addr             { return addr{} }
func (*wire) SetDeadline(time.Time) error      { return nil }
func (*wire) SetReadDeadline(time.Time) error  { return nil }
func (*wire) SetWriteDeadline(time.Time) error { return nil }

// response is a stream as the play knows it. The client's part is what it has granted and
// got, the server's what it believes.
type response struct {
	granted, got int64
	headers      bool
	ended        bool // by the server's END_STREAM
	reset        bool // by the client, and everybody knows
	body         []byte
	view         int64 // of the server
	lane         *Stream
	seen, begun  bool
	done, busy   bool
	said         []byte // all that was written, in order
	stop         context.CancelFunc
}

// play is one run of a script.
type play struct {
	t       *testing.T
	script  []byte
	wire    *wire
	conn    *Conn
	encoder *hpack.Encoder
	block   bytes.Buffer

	// The client.
	parsed  []byte // not yet a whole frame
	window  int64  // of the connection, what it granted less what it got
	initial int64
	lowered bool // initial has been larger
	sent    map[uint32]*response
	next    uint32
	pings   int
	pongs   int

	mu       sync.Mutex // guards what follows and the server's part of responses
	view     int64
	initview int64
	failed   error
	writing  bool          // the server writes
	turn     chan struct{} // is held by who writes for the server
	chance   *rand.Rand
}

func newPlay(t *testing.T, script []byte) *play {
	p := &play{t: t, script: script, wire: newWire(uint64(len(script))), window: firstWindow, initial: firstWindow,
		sent: map[uint32]*response{}, next: 1, view: firstWindow, initview: firstWindow, turn: make(chan struct{}, 1), chance: rand.New(rand.NewPCG(uint64(len(script)), 3))}
	p.encoder = hpack.NewEncoder(&p.block)
	p.conn = newConn(p.wire, tls.ConnectionState{}, "mark")
	return p
}

func (p *play) draw() int {
	if len(p.script) == 0 {
		return 0
	}
	b := p.script[0]
	p.script = p.script[1:]
	return int(b)
}

// size is between 0 and about 2^18, often small.
func (p *play) size() int64 { return int64(p.draw()%16) << (p.draw() % 15) }

func (p *play) run() {
	read := make(chan struct{})
	go func() { defer close(read); p.serve() }()
	p.wire.say([]byte(http2.ClientPreface))
	p.settle()
	switch p.draw() % 6 {
	case 0: // no lanes
	case 1, 2:
		p.enlarge(0, leastWindow+p.size())
	default:
		p.conn.window.most = leastWindow // has been large and is small now, so that it ends often
	}
	for len(p.script) > 0 {
		p.act()
		if p.draw()%2 == 0 { // else the next act comes in the middle
			p.settle()
		}
	}
	p.rest()
	p.finish()
	require.NoError(p.t, p.conn.Close())
	<-read
	for _, r := range p.sent {
		r.stop()
	}
	synctest.Wait()
}

func (p *play) act() {
	switch p.draw() % 12 {
	case 0, 1:
		p.request()
	case 2:
		p.enlarge(0, 1+p.size())
	case 3, 4:
		if id := p.any(); id != 0 && !p.sent[id].ended {
			p.enlarge(id, 1+p.size()<<(p.draw()%6))
		}
	case 5:
		p.resize(p.size())
	case 6:
		if id := p.any(); id != 0 && p.draw()%4 == 0 {
			p.reset(id)
		}
	case 7:
		p.pings++
		p.wire.say(frame(http2.FramePing, 0, 0, make([]byte, 8)))
	case 8, 9:
		p.answer()
	default:
		p.write()
		p.write()
	}
}

// any chooses a stream.
func (p *play) any() uint32 {
	if len(p.sent) == 0 {
		return 0
	}
	return uint32(p.draw()%len(p.sent))*2 + 1
}

func frame(kind http2.FrameType, flags http2.Flags, stream uint32, payload []byte) []byte {
	return append(head{length: len(payload), kind: byte(kind), flags: byte(flags), stream: stream}.append(nil), payload...)
}

// request opens a stream.
func (p *play) request() {
	id := p.next
	p.next += 2
	p.block.Reset()
	for _, name := range []string{":method", "x-" + strconv.Itoa(p.draw())} { // some names are new, some known
		require.NoError(p.t, p.encoder.WriteField(hpack.HeaderField{Name: name, Value: strings.Repeat("v", p.draw())}))
	}
	p.mu.Lock()
	_, stop := context.WithCancel(context.Background())
	p.sent[id] = &response{granted: p.initial, stop: stop}
	p.mu.Unlock()
	block := slices.Clone(p.block.Bytes())
	switch p.draw() % 4 {
	case 0: // in two pieces: has no lane
		p.wire.say(append(frame(http2.FrameHeaders, http2.FlagHeadersEndStream, id, block[:1]),
			frame(http2.FrameContinuation, http2.FlagContinuationEndHeaders, id, block[1:])...))
	case 1: // padded, with priority
		p.wire.say(frame(http2.FrameHeaders, http2.FlagHeadersEndStream|http2.FlagHeadersEndHeaders|http2.FlagHeadersPadded|http2.FlagHeadersPriority, id,
			append(append([]byte{3, 0, 0, 0, 0, 9}, block...), 0, 0, 0)))
	default:
		p.wire.say(frame(http2.FrameHeaders, http2.FlagHeadersEndStream|http2.FlagHeadersEndHeaders, id, block))
	}
}

func (p *play) enlarge(id uint32, n int64) {
	now := p.window
	if id != 0 {
		now = p.sent[id].granted - p.sent[id].got
	}
	if n = min(n, largestWindow-now); n <= 0 {
		return
	}
	if id == 0 {
		p.window += n
	} else {
		p.sent[id].granted += n
	}
	p.wire.say(frame(http2.FrameWindowUpdate, 0, id, binary.BigEndian.AppendUint32(nil, uint32(n))))
}

func (p *play) resize(size int64) {
	p.rest() // so that what is on its way counts for the old window
	for _, r := range p.sent {
		r.granted += size - p.initial
	}
	p.lowered = p.lowered || size < p.initial
	p.initial = size
	defer p.settle()
	p.wire.say(frame(http2.FrameSettings, 0, 0, binary.BigEndian.AppendUint32([]byte{0, 4}, uint32(size))))
}

func (p *play) reset(id uint32) {
	p.rest()
	p.wire.say(frame(http2.FrameRSTStream, 0, id, make([]byte, 4)))
	p.settle()
	p.sent[id].reset = true
}

// rest lets everybody do what he can.
func (p *play) rest() {
	time.Sleep(time.Hour) // of the bubble
	p.settle()
}

// settle waits until nothing moves and looks at what has come. Who pauses stays where he is.
func (p *play) settle() {
	synctest.Wait()
	p.parsed = append(p.parsed, p.wire.heard()...)
	p.look()
	p.mu.Lock()
	defer p.mu.Unlock()
	require.NoError(p.t, p.failed)
	require.LessOrEqual(p.t, p.view, int64(largestWindow))
}

// look is the client that judges. It uses upstream's framer, which knows in which order
// frames may come.
func (p *play) look() {
	rest := bytes.NewReader(p.parsed)
	framer := http2.NewFramer(io.Discard, rest)
	for {
		before := rest.Len()
		f, err := framer.ReadFrame()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			p.parsed = p.parsed[len(p.parsed)-before:]
			return
		}
		require.NoError(p.t, err)
		p.got(f)
	}
}

func (p *play) got(f http2.Frame) {
	h := f.Header()
	if ping, ok := f.(*http2.PingFrame); ok {
		require.True(p.t, ping.IsAck())
		p.pongs++
		return
	}
	r := p.sent[h.StreamID]
	require.NotNil(p.t, r, "stream %d was not asked for", h.StreamID)
	require.False(p.t, r.ended, "frame after the end of stream %d", h.StreamID)
	if r.lane != nil { // the server may have begun a frame
		require.False(p.t, r.reset, "frame after the reset of stream %d", h.StreamID)
	}
	switch f := f.(type) {
	case *http2.HeadersFrame:
		require.False(p.t, r.headers)
		require.True(p.t, f.HeadersEnded())
		r.headers = true
	case *http2.DataFrame:
		require.True(p.t, r.headers, "body before headers")
		n := int64(h.Length)
		r.got += n
		p.window -= n
		require.GreaterOrEqual(p.t, p.window, int64(0), "window of the connection")
		if n > 0 && (r.lane != nil || !p.lowered) { // the server's may have waited for the connection's window meanwhile
			require.GreaterOrEqual(p.t, r.granted, r.got, "window of stream %d", h.StreamID)
		}
		r.body = append(r.body, f.Data()...)
		r.ended = f.StreamEnded()
	default:
		require.Fail(p.t, "a frame nobody sent", "%v", f)
	}
}

// finish takes everything that somebody still has to say, and ends all streams.
func (p *play) finish() {
	for again := true; again; {
		again = false
		p.enlarge(0, largestWindow)
		for id, r := range p.sent {
			if !r.ended && !r.reset {
				p.enlarge(id, largestWindow)
			}
		}
		p.rest()
		for id, r := range p.sent {
			p.mu.Lock()
			more, write := r.begun && !r.reset && !r.done, !p.writing && !r.busy
			p.mu.Unlock()
			if again = again || more; more && write {
				p.end(id)
				p.rest()
			}
		}
	}
	for id, r := range p.sent {
		if !r.reset && r.done {
			require.True(p.t, r.ended, "stream %d", id)
			require.Equal(p.t, r.said, r.body, "stream %d", id)
		}
		require.True(p.t, bytes.HasPrefix(r.said, r.body), "stream %d", id)
	}
	require.Equal(p.t, p.pings, p.pongs)
}
