package lane_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sync/errgroup"

	"github.com/rutter-project/rutter/apiserver/internal/lane"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is for how long a test waits for what must come.
const patience = time.Minute

// start serves the handler over TLS, with lanes.
func start(t *testing.T, h http.HandlerFunc) *httptest.Server {
	outer := httptest.NewUnstartedServer(h)
	outer.EnableHTTP2 = true
	lanes := lane.Attach(outer.Config)
	served := make(chan error, 1)
	go func() { served <- lanes.Serve() }()
	outer.StartTLS()
	t.Cleanup(func() {
		outer.CloseClientConnections()
		outer.Close()
		require.NoError(t, lanes.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	return outer
}

func get(t *testing.T, s *httptest.Server, path string) *http.Response {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
	require.NoError(t, err)
	resp, err := s.Client().Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// headers sends the headers of an answer, after which a lane may be opened.
func headers(w http.ResponseWriter) {
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
}

// text is what is answered on a path.
func text(path string, n int) []byte {
	seed := [32]byte{}
	copy(seed[:], path)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b)
	return b
}

// Many lanes share a connection with large answers of the ordinary kind, and everything
// arrives as it was written.
func TestLanesBesideLargeAnswers(t *testing.T) {
	const long = 1 << 20
	s := start(t, func(w http.ResponseWriter, r *http.Request) {
		body := text(r.URL.Path, long)
		headers(w)
		if strings.HasPrefix(r.URL.Path, "/list") {
			_, _ = w.Write(body)
			return
		}
		stream, ok := lane.Open(r.Context())
		if !ok {
			return
		}
		defer stream.Close(true)
		for n := 1; len(body) > 0; n = n*7%40000 + 1 {
			wrote, err := stream.Write(body[:min(n, len(body))])
			if err != nil {
				return
			}
			body = body[wrote:]
		}
	})
	var g errgroup.Group
	for i := range 40 {
		path := fmt.Sprintf("/watch/%d", i)
		if i%2 == 0 {
			path = fmt.Sprintf("/list/%d", i)
		}
		g.Go(func() error {
			resp, err := s.Client().Get(s.URL + path)
			if err != nil {
				return err
			}
			got, err := io.ReadAll(resp.Body)
			if err == nil && !bytes.Equal(got, text(path, long)) {
				err = fmt.Errorf("%s: %d bytes differ from what was written", path, len(got))
			}
			return errors.Join(err, resp.Body.Close())
		})
	}
	require.NoError(t, g.Wait())
}

func TestRequestsAreAsTheyWereSent(t *testing.T) {
	seen := make(chan *http.Request, 1)
	s := start(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r })
	get(t, s, "/x?y=z")
	r := <-seen
	require.Equal(t, 2, r.ProtoMajor)
	require.NotNil(t, r.TLS)
	require.True(t, r.TLS.HandshakeComplete)
	require.NotEmpty(t, r.RemoteAddr)
	require.Equal(t, "/x?y=z", r.URL.String())
	for name := range r.Header {
		require.Contains(t, []string{"User-Agent", "Accept-Encoding"}, name)
	}
}

func TestWhoHasNoLane(t *testing.T) {
	for name, c := range map[string]struct {
		protocol string
		config   *http.HTTP2Config
		body     io.Reader
		want     bool
	}{
		"HTTP/2":                    {protocol: "h2", want: true},
		"HTTP/1.1":                  {protocol: "http/1.1"},
		"small connection's window": {protocol: "h2", config: &http.HTTP2Config{MaxReceiveBufferPerConnection: 1 << 18}},
		"request with a body":       {protocol: "h2", body: strings.NewReader("x")},
	} {
		t.Run(name, func(t *testing.T) {
			has := make(chan bool, 1)
			s := start(t, func(w http.ResponseWriter, r *http.Request) {
				headers(w)
				stream, ok := lane.Open(r.Context())
				if ok {
					stream.Close(true)
				}
				has <- ok
			})
			transport := s.Client().Transport.(*http.Transport)
			transport.HTTP2 = c.config
			transport.ForceAttemptHTTP2 = c.protocol == "h2"
			transport.TLSClientConfig.NextProtos = []string{c.protocol}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, c.body)
			require.NoError(t, err)
			resp, err := s.Client().Do(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, c.want, <-has)
		})
	}
	_, ok := lane.Open(t.Context())
	require.False(t, ok, "a request of another server")
}

// Nothing is said before the answer, so that a lane cannot take it for that.
func TestNoContinueIsSentBeforeALane(t *testing.T) {
	s := start(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		stream, ok := lane.Open(r.Context())
		if !ok {
			return
		}
		answered := make(chan struct{})
		go func() { defer close(answered); headers(w) }()
		_, _ = stream.Write([]byte("answer"))
		<-answered
		stream.Close(true)
	})
	r := dial(t, s)
	r.ask(1, "/", [2]string{"expect", "100-continue"})
	var kinds []http2.FrameType
	r.until(func(f http2.Frame) bool {
		if f.Header().StreamID == 1 {
			kinds = append(kinds, f.Header().Type)
		}
		_, ok := f.(*http2.DataFrame)
		return ok
	})
	require.Equal(t, []http2.FrameType{http2.FrameHeaders, http2.FrameData}, kinds)
}

// A lane that nobody reads stands, and nothing else does.
func TestAStalledLaneHoldsUpNoOther(t *testing.T) {
	ended := make(chan error, 1)
	s := start(t, func(w http.ResponseWriter, r *http.Request) {
		headers(w)
		stream, ok := lane.Open(r.Context())
		if !ok {
			return
		}
		defer stream.Close(true)
		var err error
		for n := 0; err == nil && (r.URL.Path == "/stalled" || n < 8<<20); n += 1 << 10 {
			_, err = stream.Write(make([]byte, 1<<10))
		}
		if r.URL.Path == "/stalled" {
			ended <- err
		}
	})
	stalled := get(t, s, "/stalled")
	n, err := io.Copy(io.Discard, get(t, s, "/read").Body)
	require.NoError(t, err)
	require.Equal(t, int64(8<<20), n)
	require.NoError(t, stalled.Body.Close())
	require.Error(t, <-ended, "a reset ends what waits")
}

// What a context ends in the middle must not look like a whole answer.
func TestATornWriteIsTold(t *testing.T) {
	whole, written := make(chan bool, 2), make(chan struct{})
	s := start(t, func(w http.ResponseWriter, r *http.Request) {
		headers(w)
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		stream, ok := lane.Open(ctx)
		if !ok {
			return
		}
		if _, err := stream.Write([]byte("begin")); err != nil {
			return
		}
		go func() { <-written; cancel() }()
		if r.URL.Path == "/torn" {
			_, _ = stream.Write(make([]byte, 64<<20)) // more than the client's window
		}
		<-ctx.Done()
		good := stream.Close(true)
		whole <- good
		if !good {
			panic(http.ErrAbortHandler)
		}
	})
	torn, between := get(t, s, "/torn"), get(t, s, "/between")
	_, err := io.ReadFull(torn.Body, make([]byte, 5+1000)) // the long write has begun
	require.NoError(t, err)
	_, err = io.ReadFull(between.Body, make([]byte, 5))
	require.NoError(t, err)
	close(written)
	got, err := io.ReadAll(between.Body)
	require.NoError(t, err)
	require.Empty(t, got)
	_, err = io.Copy(io.Discard, torn.Body)
	require.Error(t, err)
	require.ElementsMatch(t, []bool{true, false}, []bool{<-whole, <-whole})
}

// raw is a client that chooses every frame.
type raw struct {
	t *testing.T
	*http2.Framer
	conn *tls.Conn
}

func dial(t *testing.T, s *httptest.Server, settings ...http2.Setting) *raw {
	config := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", s.Listener.Addr().String(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	r := &raw{t: t, Framer: http2.NewFramer(conn, conn), conn: conn}
	require.NoError(t, r.WriteSettings(settings...))
	require.NoError(t, r.WriteWindowUpdate(0, 1<<30))
	return r
}

func (r *raw) ask(stream uint32, path string, more ...[2]string) {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range append([][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "x"}, {":path", path}}, more...) {
		require.NoError(r.t, encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	require.NoError(r.t, r.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}))
}

// until reads frames until one is what is waited for, and acknowledges settings.
func (r *raw) until(is func(http2.Frame) bool) {
	for {
		f, err := r.ReadFrame()
		require.NoError(r.t, err)
		if f, ok := f.(*http2.SettingsFrame); ok && !f.IsAck() {
			require.NoError(r.t, r.WriteSettingsAck())
		}
		if is(f) {
			return
		}
	}
}

// data reads n bytes of a stream, and after a ping, that there is not one more.
func (r *raw) data(stream uint32, n int) {
	got := 0
	count := func(f http2.Frame) bool {
		if d, ok := f.(*http2.DataFrame); ok && d.StreamID == stream {
			got += int(d.Length)
		}
		return got >= n
	}
	if n > 0 {
		r.until(count)
	}
	require.NoError(r.t, r.WritePing(false, [8]byte{1}))
	r.until(func(f http2.Frame) bool {
		count(f)
		_, ok := f.(*http2.PingFrame)
		return ok
	})
	require.Equal(r.t, n, got)
}

// endless writes to a lane until it ends, and says why.
func endless(ended chan<- error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		headers(w)
		stream, ok := lane.Open(r.Context())
		if !ok {
			ended <- errors.New("no lane")
			return
		}
		defer stream.Close(true)
		for {
			if _, err := stream.Write(make([]byte, 5000)); err != nil {
				ended <- err
				return
			}
		}
	}
}

func TestAStreamsWindow(t *testing.T) {
	ended := make(chan error, 1)
	s := start(t, endless(ended))
	r := dial(t, s, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	r.ask(1, "/")
	require.NoError(t, r.WriteWindowUpdate(1, 90)) // may come before the lane is opened
	r.data(1, 100)
	require.NoError(t, r.WriteWindowUpdate(1, 20000))
	r.data(1, 20000)
	require.NoError(t, r.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1010}))
	r.data(1, 1000)
	require.NoError(t, r.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})) // it is negative now
	require.NoError(t, r.WriteWindowUpdate(1, 1010))
	r.data(1, 0)
	require.NoError(t, r.WriteWindowUpdate(1, 7))
	r.data(1, 7)
	require.NoError(t, r.WriteRSTStream(1, http2.ErrCodeCancel))
	require.Error(t, <-ended)
	r.data(1, 0)
}

func TestTooLargeWindowsAreRefused(t *testing.T) {
	ended := make(chan error, 2)
	s := start(t, endless(ended))
	r := dial(t, s, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	r.ask(1, "/")
	r.data(1, 10)
	for range 2 {
		require.NoError(t, r.WriteRawFrame(http2.FrameWindowUpdate, 0, 1, binary.BigEndian.AppendUint32(nil, 1<<31-1)))
	}
	r.until(func(f http2.Frame) bool {
		reset, ok := f.(*http2.RSTStreamFrame)
		return ok && reset.ErrCode == http2.ErrCodeFlowControl && reset.StreamID == 1
	})
	require.Error(t, <-ended)
	require.NoError(t, r.WriteWindowUpdate(0, 1<<31-1))
	r.until(func(f http2.Frame) bool {
		away, ok := f.(*http2.GoAwayFrame)
		return ok && away.ErrCode == http2.ErrCodeFlowControl
	})
}

// A server that stops says so, lets lanes end, and ends.
func TestShutdownWaitsForLanes(t *testing.T) {
	stop, served := make(chan struct{}), make(chan error, 1)
	outer := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers(w)
		if stream, ok := lane.Open(r.Context()); ok {
			<-stop
			_, _ = stream.Write([]byte("last"))
			stream.Close(true)
		}
	}))
	outer.EnableHTTP2 = true
	lanes := lane.Attach(outer.Config)
	go func() { served <- lanes.Serve() }()
	outer.StartTLS()
	r := dial(t, outer)
	r.ask(1, "/")
	r.until(func(f http2.Frame) bool { return f.Header().Type == http2.FrameHeaders })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	down := make(chan error, 2)
	go func() { down <- lanes.Shutdown(ctx) }()
	go func() { down <- outer.Config.Shutdown(ctx) }()
	r.until(func(f http2.Frame) bool { return f.Header().Type == http2.FrameGoAway })
	close(stop)
	var got []byte
	r.until(func(f http2.Frame) bool {
		d, ok := f.(*http2.DataFrame)
		if ok {
			got = append(got, d.Data()...)
		}
		return ok && d.StreamEnded()
	})
	require.Equal(t, "last", string(got))
	require.NoError(t, r.conn.Close())
	require.NoError(t, errors.Join(<-down, <-down))
	require.ErrorIs(t, <-served, http.ErrServerClosed)
	outer.Close()
}
