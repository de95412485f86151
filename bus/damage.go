package bus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/rutter-project/rutter/bus/internal/blockfile"
)

// A file of a stream may be damaged, by a broken disk or a hasty operator. A server that opens
// the stream and can't read it deletes the whole stream: see guard.go. One that has it open
// lets readers that come to such a file wait for ever, or tells them that there is nothing. In
// both cases what can't be read is put aside and the streams are opened again, so that it
// becomes a hole, which MakeStreams finds, fills and names.

// DamagedDir is where damaged files go, in the store directory.
const DamagedDir = "damaged"

// checkPause is how long a stream is not looked at again after its files were, by the reports
// of readers: looking takes reading them all.
const checkPause = time.Minute

// damage says which streams readers report, and what became of that.
type damage struct {
	reports chan string   // names of streams
	mended  chan struct{} // has room for one
	// count is how often files were mended while the server ran, twice: it is odd from then
	// until MakeStreams has named the holes.
	count atomic.Uint64
}

func newDamage() *damage {
	return &damage{reports: make(chan string, 8), mended: make(chan struct{}, 1)}
}

// report asks for a look at the files of a stream of CORE. It does not wait.
func (d *damage) report(stream string) {
	select {
	case d.reports <- stream:
	default: // there is enough to do
	}
}

// begin makes whoever reads the past wait until its holes have names.
func (d *damage) begin() {
	for n := d.count.Load(); !d.count.CompareAndSwap(n, n+1+n%2); n = d.count.Load() {
	}
}

// Mended tells that files of a stream were damaged and have been put aside while the server
// ran: MakeStreams must be called, before which the past is not read.
func (s *Server) Mended() <-chan struct{} { return s.damage.mended }

func (s *Server) streamDir(stream string) string {
	return filepath.Join(s.cfg.StoreDir, natsserver.JetStreamStoreDir, accountCore, "streams", stream)
}

// mendFiles puts damaged files of a stream aside, and reports whether there were any.
func (s *Server) mendFiles(stream string) bool {
	mended, err := blockfile.Mend(s.streamDir(stream), stream, filepath.Join(s.cfg.StoreDir, DamagedDir))
	if err != nil {
		s.log.Error().Err(err).Str("stream", stream).Msg("files of a stream can't be mended")
	}
	for _, m := range mended {
		s.log.Error().AnErr("damage", m.Damage).Str("stream", stream).Uint32("block", m.Number).Int("records", m.Records).Str("aside", m.Aside).
			Msg("a file of a stream is damaged; what can be read of it is kept, the file is put aside")
	}
	return len(mended) > 0
}

// mendReported looks at the streams that are reported, until ctx ends.
func (s *Server) mendReported(ctx context.Context) {
	looked := map[string]time.Time{} // when the files of a stream were looked at last
	for {
		select {
		case stream := <-s.damage.reports:
			if time.Since(looked[stream]) < checkPause {
				continue
			}
			if err := s.mendOpen(stream); err != nil {
				s.log.Error().Err(err).Str("stream", stream).Msg("files of a stream can't be mended")
			}
			looked[stream] = time.Now()
		case <-ctx.Done():
			return
		}
	}
}

// mendOpen mends the files of a stream that is open, if there are damaged ones. The server
// counts the messages of a stream when it opens it, so that it has to open all again.
func (s *Server) mendOpen(stream string) error {
	damaged, err := blockfile.Damaged(s.streamDir(stream), stream)
	if len(damaged) == 0 {
		return err
	}
	s.log.Warn().Str("stream", stream).Uints32("blocks", damaged).Msg("files of a stream are damaged, opening all streams again without them")
	s.damage.begin()
	err = s.reopen(func() error {
		s.mendFiles(stream)
		err := os.Remove(filepath.Join(s.streamDir(stream), "msgs", "index.db")) // the server would believe it
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	select {
	case s.damage.mended <- struct{}{}:
	default:
	}
	return err
}

// lookupFailure is how the server's log begins to say that a reader has come to a message that
// can't be read. It tells nobody else.
const lookupFailure = "Received an error looking up message"

// unreadable is the stream of a line of the server's log that says so; else "".
func unreadable(format string, v []any) string {
	if !strings.HasPrefix(format, lookupFailure) || len(v) < 4 {
		return ""
	}
	v = v[len(v)-4:] // account, stream, consumer, error
	if account, ok := v[0].(fmt.Stringer); !ok || account.String() != accountCore {
		return ""
	}
	stream, _ := v[1].(string)
	return stream
}

// holesSubject is where a server tells, within CORE, how often it has mended files. Behind the
// dot it is told of which number of times all holes have names.
const holesSubject = "gate.HOLES"

func (s *Server) answerHoles(msg *nats.Msg) {
	if n, err := strconv.ParseUint(string(msg.Data), 10, 64); err == nil && n%2 == 1 {
		s.damage.count.CompareAndSwap(n, n+1)
	}
	if err := msg.Respond(strconv.AppendUint(nil, s.damage.count.Load(), 10)); err != nil {
		s.log.Warn().Err(err).Msg("holes of the streams not told")
	}
}

// mends is how often the server has mended files. It is odd while holes may have no name, and
// 0 of a server that is not embedded.
func (c *Client) mends(ctx context.Context) (uint64, error) {
	if c.cfg.Server != nil {
		return c.cfg.Server.damage.count.Load(), nil
	}
	return c.askNumber(ctx, holesSubject, nil)
}

// holesNamed tells the server that MakeStreams, begun when it had mended that often, has named
// all holes.
func (c *Client) holesNamed(ctx context.Context, mends uint64) error {
	if mends%2 == 0 {
		return nil
	}
	_, err := c.askNumber(ctx, holesSubject, strconv.AppendUint(nil, mends, 10))
	return err
}

// sound is an error if ARCHIVE may have holes without a name.
func (c *Client) sound(ctx context.Context) error {
	n, err := c.mends(ctx)
	if err == nil && n%2 == 1 {
		err = fmt.Errorf("bus: stream %s: %w", StreamArchive, ErrDamaged)
	}
	return err
}

// reportUnreadable asks the server to look at the files of a stream.
func (c *Client) reportUnreadable(stream string) {
	if c.cfg.Server != nil {
		c.cfg.Server.damage.report(stream)
	}
}
