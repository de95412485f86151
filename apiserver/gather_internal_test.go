package apiserver

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// counted is a connection that counts writes, and waits for a token before each.
type counted struct {
	net.Conn
	writes atomic.Int64
	turn   chan struct{}
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	<-c.turn
	return c.Conn.Write(p)
}

func TestGatheredWritesGoOutTogetherAndInOrder(t *testing.T) {
	near, far := net.Pipe()
	conn := &counted{Conn: near, turn: make(chan struct{})}
	g := newGathered(conn)
	var want []byte
	for i := range 100 {
		piece := bytes.Repeat([]byte{byte(i)}, 10)
		n, err := g.Write(piece) // nobody reads yet
		require.NoError(t, err)
		require.Equal(t, len(piece), n)
		want = append(want, piece...)
	}
	close(conn.turn)
	got := make([]byte, len(want))
	_, err := io.ReadFull(far, got)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.LessOrEqual(t, conn.writes.Load(), int64(2), "the first, and all others")
	require.NoError(t, g.Close())
	require.NoError(t, far.Close())
}

func TestGatheredHoldsLittleForWhoDoesNotRead(t *testing.T) {
	near, far := net.Pipe()
	g := newGathered(near)
	piece := make([]byte, gatherMost/4)
	wrote := make(chan int, 1)
	go func() {
		n := 0
		for {
			if _, err := g.Write(piece); err != nil {
				wrote <- n
				return
			}
			n++
		}
	}()
	_, err := io.ReadFull(far, make([]byte, len(piece))) // what is on its way
	require.NoError(t, err)
	require.NoError(t, g.Close()) // ends the write that waits
	require.LessOrEqual(t, <-wrote, 1+2*4)
	_, err = g.Write(piece)
	require.Error(t, err)
}

func TestGatheredTellsErrors(t *testing.T) {
	near, far := net.Pipe()
	g := newGathered(near)
	require.NoError(t, far.Close())
	for {
		if _, err := g.Write([]byte("x")); err != nil {
			require.ErrorIs(t, err, io.ErrClosedPipe)
			break
		}
	}
	require.NoError(t, g.Close())
}

// What a server has said before it ends a connection arrives, over TLS by either protocol.
func TestGatheredLosesNothingWhenTLSEnds(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	for name, protocols := range map[string][]string{"HTTP/1.1": {"http/1.1"}, "HTTP/2": {"h2"}} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Connection", "close")
				_, _ = w.Write(body)
			}))
			server.Listener = gathering{server.Listener}
			server.TLS = &tls.Config{NextProtos: protocols}
			server.EnableHTTP2 = protocols[0] == "h2"
			server.StartTLS()
			defer server.Close()
			var g errgroup.Group
			for range 8 {
				g.Go(func() error {
					resp, err := server.Client().Get(server.URL)
					if err != nil {
						return err
					}
					got, err := io.ReadAll(resp.Body)
					if err == nil && !bytes.Equal(body, got) {
						err = errors.New("the answer differs")
					}
					return errors.Join(err, resp.Body.Close())
				})
			}
			require.NoError(t, g.Wait())
		})
	}
}
