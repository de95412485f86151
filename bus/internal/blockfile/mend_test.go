package blockfile

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

const (
	stream   = "S"
	messages = 40
)

// store is a stream on disk, of three files or more, and the server that has it open.
type store struct {
	dir    string
	server *natsserver.Server
	js     jetstream.JetStream
}

func open(t testing.TB, dir string) *store {
	t.Helper()
	server, err := natsserver.NewServer(&natsserver.Options{DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true})
	require.NoError(t, err)
	server.Start()
	t.Cleanup(server.Shutdown)
	nc, err := nats.Connect("", nats.InProcessServer(server))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return &store{dir: filepath.Join(dir, natsserver.JetStreamStoreDir, "$G", "streams", stream), server: server, js: js}
}

func (s *store) close() {
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

// written is a stream that a server has written and closed.
func written(t testing.TB, compression jetstream.StoreCompression) (root string, s *store) {
	t.Helper()
	root = t.TempDir()
	s = open(t, root)
	// With this limit files have 4 MB; without, 8.
	_, err := s.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: stream, Subjects: []string{"s.>"}, Compression: compression, MaxBytes: 16 << 20, AllowMsgTTL: true,
	})
	require.NoError(t, err)
	for i := range messages {
		msg := nats.NewMsg(fmt.Sprint("s.", i))
		msg.Data = make([]byte, 300<<10)
		_, err := rand.Read(msg.Data[:150<<10])
		require.NoError(t, err)
		if i%2 == 0 {
			msg.Header.Set("number", fmt.Sprint(i))
		}
		_, err = s.js.PublishMsg(t.Context(), msg)
		require.NoError(t, err)
	}
	have, err := s.js.Stream(t.Context(), stream)
	require.NoError(t, err)
	require.NoError(t, have.DeleteMsg(t.Context(), 2), "the files have tombstones and erased records")
	s.close()
	numbers, err := list(filepath.Join(s.dir, "msgs"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(numbers), 3)
	return root, s
}

// sequences are those of the messages that a server finds.
func sequences(t *testing.T, root string) []uint64 {
	t.Helper()
	s := open(t, root)
	defer s.close()
	have, err := s.js.Stream(t.Context(), stream)
	require.NoError(t, err)
	info := have.CachedInfo()
	var all []uint64
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		if _, err := have.GetMsg(t.Context(), seq); err == nil {
			all = append(all, seq)
		}
	}
	require.Len(t, all, int(info.State.Msgs), "the server counts what it can't read")
	return all
}

func (s *store) file(number uint32) string { return filepath.Join(s.dir, "msgs", name(number)) }

var compressions = map[string]jetstream.StoreCompression{"plain": jetstream.NoCompression, "S2": jetstream.S2Compression}

// TestFilesOfTheServerAreSound: what the server writes is read whole, whatever it is.
func TestFilesOfTheServerAreSound(t *testing.T) {
	for is, compression := range compressions {
		t.Run(is, func(t *testing.T) {
			root, s := written(t, compression)
			numbers, err := list(filepath.Join(s.dir, "msgs"))
			require.NoError(t, err)
			records := 0
			for _, n := range numbers {
				data, err := os.ReadFile(s.file(n))
				require.NoError(t, err)
				packed := bytes.HasPrefix(data, []byte("cmp"))
				require.Equal(t, compression == jetstream.S2Compression && n != numbers[len(numbers)-1], packed, "file %d", n)
				f, err := readFile(s.file(n), stream, n)
				require.NoError(t, err)
				require.NoError(t, f.damage)
				records += f.records
			}
			require.Equal(t, messages+1, records, "all messages, and the tombstone of one")
			damaged, err := Damaged(s.dir, stream)
			require.NoError(t, err)
			require.Empty(t, damaged)
			mended, err := Mend(s.dir, stream, filepath.Join(root, "aside"))
			require.NoError(t, err)
			require.Empty(t, mended)
			require.NoDirExists(t, filepath.Join(root, "aside"))
			require.Len(t, sequences(t, root), messages-1)
		})
	}
}

func TestDamagedFilesAreMended(t *testing.T) {
	const victim = 2
	noise := make([]byte, 2<<20)
	_, err := rand.Read(noise)
	require.NoError(t, err)
	cut := func(data []byte) []byte { return data[:len(data)/2] }
	for name, tc := range map[string]struct {
		damage      func(data []byte) []byte
		compression jetstream.StoreCompression
		lost        int // messages, of those in the file; -1 for some, -2 for all
	}{
		"cut":                {cut, jetstream.NoCompression, -1},
		"compressed and cut": {cut, jetstream.S2Compression, -1},
		"a byte of the body": {func(data []byte) []byte { data[len(data)/2] ^= 1; return data }, jetstream.NoCompression, 1},
		"a compressed byte":  {func(data []byte) []byte { data[len(data)/2] ^= 1; return data }, jetstream.S2Compression, -1},
		"the first length":   {func(data []byte) []byte { data[1] ^= 1; return data }, jetstream.NoCompression, 1},
		"a length too large": {func(data []byte) []byte { data[3] ^= 0x40; return data }, jetstream.NoCompression, 1},
		"a sector of zeros":  {func(data []byte) []byte { clear(data[1<<20 : 1<<20+512]); return data }, jetstream.NoCompression, 1},
		"zeros behind it":    {func(data []byte) []byte { return append(data, make([]byte, 4096)...) }, jetstream.NoCompression, 0},
		"the magic":          {func(data []byte) []byte { data[0] ^= 1; return data }, jetstream.S2Compression, -2},
		"nothing but zeros":  {func(data []byte) []byte { clear(data); return data }, jetstream.S2Compression, -2},
		"noise in a body":    {func(data []byte) []byte { copy(data[1<<20:3<<20], noise); return data }, jetstream.NoCompression, -1},
		"no size":            {func(data []byte) []byte { return append(data[:4:4], bytes.Repeat([]byte{0x80}, 100)...) }, jetstream.S2Compression, -2},
	} {
		t.Run(name, func(t *testing.T) {
			root, s := written(t, tc.compression)
			before, err := readFile(s.file(victim), stream, victim)
			require.NoError(t, err)
			data, err := os.ReadFile(s.file(victim))
			require.NoError(t, err)
			data = tc.damage(data)
			require.NoError(t, os.WriteFile(s.file(victim), data, 0o600))
			require.NoError(t, os.Remove(filepath.Join(s.dir, "msgs", "index.db")))

			damaged, err := Damaged(s.dir, stream)
			require.NoError(t, err)
			require.Equal(t, []uint32{victim}, damaged)
			aside := filepath.Join(root, "aside")
			mended, err := Mend(s.dir, stream, aside)
			require.NoError(t, err)
			require.Len(t, mended, 1)
			m := mended[0]
			require.EqualValues(t, victim, m.Number)
			require.Error(t, m.Damage)
			put, err := os.ReadFile(m.Aside)
			require.NoError(t, err)
			require.Equal(t, data, put, "the damaged file is kept as it was")
			kept := m.Records
			switch lost := before.records - kept; tc.lost {
			case -1:
				require.Greater(t, lost, 0)
				require.Greater(t, kept, 0)
			case -2:
				require.Zero(t, kept)
				require.NoFileExists(t, s.file(victim))
			default:
				require.Equal(t, tc.lost, lost)
			}
			mended, err = Mend(s.dir, stream, aside)
			require.NoError(t, err)
			require.Empty(t, mended, "what is mended is sound")
			require.Len(t, sequences(t, root), messages-1-(before.records-kept), "the server has the rest")
		})
	}
}

// TestNewestFileIsLeftToTheServer: it writes that one, which may end within a record.
func TestNewestFileIsLeftToTheServer(t *testing.T) {
	_, s := written(t, jetstream.NoCompression)
	numbers, err := list(filepath.Join(s.dir, "msgs"))
	require.NoError(t, err)
	newest := s.file(numbers[len(numbers)-1])
	info, err := os.Stat(newest)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(newest, info.Size()-3))
	damaged, err := Damaged(s.dir, stream)
	require.NoError(t, err)
	require.Empty(t, damaged)
	mended, err := Mend(s.dir, stream, filepath.Join(t.TempDir(), "aside"))
	require.NoError(t, err)
	require.Len(t, mended, 1, "without a server it is looked at")
}

func TestMendSaysWhatItCanNotDo(t *testing.T) {
	_, err := Mend(t.TempDir(), stream, t.TempDir())
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Damaged(t.TempDir(), stream)
	require.ErrorIs(t, err, os.ErrNotExist)

	root, s := written(t, jetstream.NoCompression)
	for _, n := range []uint32{1, 2} {
		require.NoError(t, os.Truncate(s.file(n), 100<<10))
	}
	aside := filepath.Join(root, "aside")
	require.NoError(t, os.WriteFile(aside, nil, 0o600))
	before, err := os.ReadFile(s.file(1))
	require.NoError(t, err)
	mended, err := Mend(s.dir, stream, aside)
	require.ErrorContains(t, err, "1.blk of stream S")
	require.ErrorContains(t, err, "2.blk of stream S")
	require.Empty(t, mended)
	after, err := os.ReadFile(s.file(1))
	require.NoError(t, err)
	require.Equal(t, before, after, "nothing is lost over it")
}

// TestRecordsAreBelievedByTheirHashOnly: bytes that look like a record are none.
func TestRecordsAreBelievedByTheirHashOnly(t *testing.T) {
	_, s := written(t, jetstream.NoCompression)
	f, err := readFile(s.file(1), stream, 1)
	require.NoError(t, err)
	r, err := newReader(stream, 1, f.sound)
	require.NoError(t, err)
	length, err := r.at(0)
	require.NoError(t, err)
	for name, change := range map[string]func(data []byte){
		"another sequence": func(data []byte) { binary.LittleEndian.PutUint64(data[4:], 7) },
		"another time":     func(data []byte) { data[12] ^= 1 },
		"another subject":  func(data []byte) { data[headSize] ^= 1 },
		"another hash":     func(data []byte) { data[length-1] ^= 1 },
		"a longer subject": func(data []byte) { data[20] = 0xff; data[21] = 0xff },
		"no length":        func(data []byte) { clear(data[:4]) },
	} {
		t.Run(name, func(t *testing.T) {
			data := bytes.Clone(f.sound)
			change(data)
			r, err := newReader(stream, 1, data)
			require.NoError(t, err)
			_, err = r.at(0)
			require.ErrorIs(t, err, errRecord)
		})
	}
	other, err := newReader("T", 1, f.sound)
	require.NoError(t, err)
	_, err = other.at(0)
	require.ErrorIs(t, err, errRecord, "a record of another stream")
}
