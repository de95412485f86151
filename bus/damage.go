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
	reports chan report
	mended  chan struct{} // has room for one
	// count is how often files were mended while the server ran, twice: it is odd from then
	// until MakeStreams has named the holes.
	count atomic.Uint64
}

// report asks for a look at the files of a stream of CORE.
type report struct {
	stream string
	// cut says that the server has cut a file itself, where the damage began.
	cut bool
}

func newDamage() *damage {
	return &damage{reports: make(chan report, 8), mended: make(chan struct{}, 1)}
}

// report does not wait.
func (d *damage) report(r report) {
	select {
	case d.reports <- r:
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
		case r := <-s.damage.reports:
			if !r.cut && time.Since(looked[r.stream]) < checkPause {
				continue
			}
			if err := s.mendOpen(r); err != nil {
				s.log.Error().Err(err).Str("stream", r.stream).Msg("files of a stream can't be mended")
			}
			looked[r.stream] = time.Now()
		case <-ctx.Done():
			return
		}
	}
}

// mendOpen mends the files of a stream that is open, if there are damaged ones. The server
// counts the messages of a stream when it opens it, so that it has to open all again.
func (s *Server) mendOpen(r report) error {
	damaged, err := blockfile.Damaged(s.streamDir(r.stream), r.stream)
	if len(damaged) == 0 && !r.cut {
		return err
	}
	s.log.Error().Str("stream", r.stream).Uints32("blocks", damaged).Bool("cut", r.cut).Msg("files of a stream are damaged, opening all streams again without them")
	s.damage.begin()
	err = s.reopen(func() error {
		s.mendFiles(r.stream)
		return s.forgetIndex(r.stream)
	})
	select {
	case s.damage.mended <- struct{}{}:
	default:
	}
	return err
}

// forgetIndex has the server count the messages of a stream by its files when it opens it,
// rather than believe what it noted.
func (s *Server) forgetIndex(stream string) error {
	err := os.Remove(filepath.Join(s.streamDir(stream), "msgs", "index.db"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// everRead are the streams whose readers can't be told later: who follows them begins with
// what they have. They are as large as the present is, and looked at before they are opened.
var everRead = []string{StreamState, StreamLastN}

func (s *Server) mendEverRead() error {
	for _, stream := range everRead {
		damaged, err := blockfile.Damaged(s.streamDir(stream), stream)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("bus: %w", err)
		}
		if len(damaged) == 0 {
			continue
		}
		s.mendFiles(stream)
		if err := s.forgetIndex(stream); err != nil {
			return fmt.Errorf("bus: stream %s: %w", stream, err)
		}
	}
	return nil
}

// The server tells nobody of damage but its log.
const (
	// lookupFailure is how a line begins that says that a reader stands at a message that
	// can't be read.
	lookupFailure = "Received an error looking up message"
	// filestore is how one begins that is about a stream's files, and cutRecord what it says
	// of a file whose end, from a damaged record on, the server then throws away.
	filestore = "Filestore ["
	cutRecord = "corrupt record state"
)

// unreadable is what an error in the server's log reports.
func unreadable(format string, v []any) (report, bool) {
	if !strings.HasPrefix(format, lookupFailure) || len(v) < 4 {
		return report{}, false
	}
	v = v[len(v)-4:] // account, stream, consumer, error
	if account, ok := v[0].(fmt.Stringer); !ok || account.String() != accountCore {
		return report{}, false
	}
	stream, ok := v[1].(string)
	return report{stream: stream}, ok
}

// cutOff is what a warning in the server's log reports.
func cutOff(line string) (report, bool) {
	rest, ok := strings.CutPrefix(line, filestore)
	stream, rest, _ := strings.Cut(rest, "]")
	return report{stream: stream, cut: true}, ok && strings.Contains(rest, cutRecord)
}

// holesSubject is where a server tells, within CORE, how often it has mended files. A request
// may say for which number all holes have names now.
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

// sound is an error if a stream may have holes that nobody has looked at.
func (c *Client) sound(ctx context.Context, stream string) error {
	n, err := c.mends(ctx)
	if err == nil && n%2 == 1 {
		err = fmt.Errorf("bus: stream %s: %w", stream, ErrDamaged)
	}
	return err
}

// mendable reports whether MakeStreams fills or names the holes of a stream, or makes it
// again: who reads it then has to begin anew.
func (c *Client) mendable(stream string) bool {
	return !c.cfg.edge() && (stream == StreamArchive || stream == StreamState)
}

// reportUnreadable asks the server to look at the files of a stream.
func (c *Client) reportUnreadable(stream string) {
	if c.cfg.Server != nil {
		c.cfg.Server.damage.report(report{stream: stream})
	}
}
