package lane

import (
	"bytes"
	"crypto/tls"
	"io"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
)

// What lanes have used, the server believes to have. Its frame goes out as the client takes
// it, and ends the stream once.
func TestADataFrameIsCutWhereTheWindowEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(1)
		c := newConn(w, tls.ConnectionState{}, "mark")
		c.window = window{free: 10, debt: 15, most: leastWindow}
		read := make(chan struct{})
		go func() { defer close(read); _, _ = io.Copy(io.Discard, pieces{c, newWire(2).chance}) }()
		w.say([]byte(http2.ClientPreface))
		text := bytes.Repeat([]byte("x"), 25)
		wrote := make(chan error, 1)
		go func() {
			_, err := c.Write(frame(http2.FrameData, http2.FlagDataEndStream, 1, text))
			wrote <- err
		}()
		synctest.Wait()
		require.Equal(t, frame(http2.FrameData, 0, 1, text[:10]), w.heard())
		w.say(appendUpdate(nil, 0, 15))
		require.NoError(t, <-wrote)
		synctest.Wait()
		require.Equal(t, frame(http2.FrameData, http2.FlagDataEndStream, 1, text[10:]), w.heard())
		require.Equal(t, window{free: 0, most: leastWindow}, c.window)
		require.NoError(t, c.Close())
		<-read
	})
}

// What has been written goes out before the end, in order, and nothing after it is taken.
func TestCloseSendsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(1)
		c := newConn(w, tls.ConnectionState{}, "mark")
		text := frame(http2.FramePing, 0, 0, bytes.Repeat([]byte("x"), 100<<10))
		_, err := c.Write(text)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Equal(t, text, w.heard())
		_, err = c.Write(text)
		require.Error(t, err)
	})
}

// stuck is a connection that takes nothing until it is closed.
type stuck struct {
	*wire
	closed chan struct{}
}

func (s stuck) Write([]byte) (int, error) { <-s.closed; return 0, io.ErrClosedPipe }

func (s stuck) Close() error { close(s.closed); return s.wire.Close() }

func TestLittleIsHeldForWhoDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConn(stuck{newWire(1), make(chan struct{})}, tls.ConnectionState{}, "mark")
		wrote := make(chan int, 1)
		go func() {
			n, err := c.Write(frame(http2.FramePing, 0, 0, make([]byte, 1<<20)))
			if err == nil {
				n = -1
			}
			wrote <- n
		}()
		synctest.Wait()
		require.Empty(t, wrote, "it waits")
		require.NoError(t, c.Close()) // after drainTimeout
		n := <-wrote
		require.Positive(t, n)
		require.LessOrEqual(t, n, (waitingMost+2)*len(record{}.bytes))
	})
}
